"""Programs that give vectors for the golden texts: ours, transformers, sentence-transformers, a server, a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch

from llama2vec.config import ModelSettings
from llama2vec.errors import BackendError, ConfigError
from llama2vec.integrations.sentence_transformers import MODULES_FILE, load_sentence_transformer
from llama2vec.model.backbone import choose_device, quiet_transformers
from llama2vec.model.encoder import Encoder
from llama2vec.model.golden import SIDES, Golden, Side
from llama2vec.model.pooling import Vectors
from llama2vec.verify.plain import PlainModel
from llama2vec.verify.settings import ServerSettings
from llama2vec.verify.vector_file import read_vector_file

BackendName = Literal["llama2vec", "transformers", "sentence-transformers", "http", "file"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)


class Backend(Protocol):
    """Gives vectors as they are, normalized or not.

    Attributes:
        name: Shown to the user.
        live: Whether it can be asked again, with other texts.
        unchecked: What it does not show, one sentence each.
    """

    name: str
    live: bool
    unchecked: tuple[str, ...]

    def embed(self, side: Side, texts: Sequence[str]) -> Vectors:
        """Return [N, D'] float32 for N texts of one side, asked for at once."""
        ...


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """Which backend, and how to reach it.

    Attributes:
        name: One of ``BACKENDS``.
        dtype: Number format of a model loaded here.
        device: Where such a model computes.
        server: How to ask a server.
        token: The server's bearer token.
        vectors: File of vectors.
    """

    name: BackendName = "llama2vec"
    dtype: str = "float32"
    device: str = "auto"
    server: ServerSettings = field(default_factory=ServerSettings)
    token: str | None = None
    vectors: Path | None = None


def open_backend(folder: Path, golden: Golden, choice: BackendChoice) -> Backend:
    """Load or reach a backend.

    Raises:
        ConfigError: A setting that it needs is missing.
        BackendError: It cannot be loaded or reached.
        ContractError: sentence-transformers would run code in the folder that llama2vec did not write.
    """
    if choice.name not in BACKENDS:
        raise ConfigError(f"--backend {choice.name}: unknown backend; choose from {', '.join(BACKENDS)}")
    if (choice.server.url is not None) != (choice.name == "http"):
        raise ConfigError("--url and --backend http belong together: the address of the server to ask")
    if (choice.vectors is not None) != (choice.name == "file"):
        raise ConfigError("--vectors and --backend file belong together: the vectors that another program made")
    if choice.name == "http":
        from llama2vec.verify.server import EmbeddingServer

        return EmbeddingServer(folder, choice.server, choice.token)
    if choice.vectors is not None:
        return FileBackend(choice.vectors, golden)
    if choice.name == "transformers":
        return PlainBackend(PlainModel(folder, choice.dtype, choose_device(choice.device)))
    if choice.name == "sentence-transformers":
        return SentenceTransformersBackend(folder, choice.dtype, choice.device)
    settings = ModelSettings.model_validate({"dtype": choice.dtype, "device": choice.device})
    return EncoderBackend(Encoder.load(folder, settings=settings))


class EncoderBackend:
    """Our encoder."""

    name = "llama2vec"
    live = True
    unchecked: tuple[str, ...] = ()

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def embed(self, side: Side, texts: Sequence[str]) -> Vectors:
        """Embed all texts in one call."""
        encode = self.encoder.encode_queries if side == "query" else self.encoder.encode_passages
        return encode(list(texts))


class PlainBackend:
    """Stock ``AutoModel``, driven by the contract file alone."""

    name = "transformers"
    live = True
    unchecked: tuple[str, ...] = ()

    def __init__(self, model: PlainModel) -> None:
        self.model = model

    def embed(self, side: Side, texts: Sequence[str]) -> Vectors:
        """Embed all texts as one padded batch."""
        return self.model.embed(side, texts)


class SentenceTransformersBackend:
    """``SentenceTransformer(folder)`` with its ``encode_query`` and ``encode_document``."""

    name = "sentence-transformers"
    live = True
    unchecked: tuple[str, ...] = ()

    def __init__(self, folder: Path, dtype: str, device: str) -> None:
        options = {"device": str(choose_device(device)), "model_kwargs": {"dtype": getattr(torch, dtype)}}
        try:
            with quiet_transformers():
                self.model: Any = self._open(folder, options)
        except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
            raise BackendError(f"{folder}: SentenceTransformer cannot open it: {_one_line(error)}") from error

    @staticmethod
    def _open(folder: Path, options: dict[str, Any]) -> Any:
        if (folder / MODULES_FILE).exists():
            return load_sentence_transformer(folder, **options)
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(folder), trust_remote_code=False, **options)

    def embed(self, side: Side, texts: Sequence[str]) -> Vectors:
        """Embed all texts as one batch."""
        encode = self.model.encode_query if side == "query" else self.model.encode_document
        try:
            found = encode(list(texts), convert_to_tensor=True, show_progress_bar=False, batch_size=len(texts))
        except (ValueError, TypeError, RuntimeError, KeyError) as error:
            raise BackendError(f"sentence-transformers cannot embed the golden texts: {_one_line(error)}") from error
        vectors: Vectors = found.float().cpu().numpy()
        return vectors


class FileBackend:
    """Vectors that another program made of the exported texts."""

    name = "file"
    live = False
    unchecked: tuple[str, ...] = ("whether that program gives the same vectors for other texts, and in other batches",)

    def __init__(self, path: Path, golden: Golden) -> None:
        self._vectors = dict(zip(SIDES, read_vector_file(path, golden.texts), strict=True))

    def embed(self, side: Side, texts: Sequence[str]) -> Vectors:
        """Return the file's vectors; the texts are always the golden ones."""
        return self._vectors[side]


def vectors_of(backend: Backend, side: Side, texts: Sequence[str]) -> Vectors:
    """Ask a backend and check that it gives one row per text.

    Raises:
        BackendError: It gives another number of vectors, or something other than vectors.
    """
    vectors = np.asarray(backend.embed(side, texts), dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts) or not vectors.shape[1]:
        raise BackendError(
            f"{backend.name}: {len(texts)} texts were asked for and the answer has shape {list(vectors.shape)}; "
            "one vector per text is needed"
        )
    return vectors


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
