"""Programs that give vectors for the golden texts: ours, transformers, sentence-transformers, a server, a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch

from llama2vec.config import ModelSettings
from llama2vec.errors import BackendError, ConfigError, MissingDependencyError
from llama2vec.model.backbone import choose_device, quiet_transformers
from llama2vec.model.encoder import Encoder
from llama2vec.model.golden import SIDES, Golden, Side
from llama2vec.model.pooling import Vectors
from llama2vec.model.publish import publishing
from llama2vec.model.publish.publishing import MODULE_FILE
from llama2vec.verify.plain import PlainModel
from llama2vec.verify.server import EmbeddingServer
from llama2vec.verify.vector_file import read_vector_file

BackendName = Literal["llama2vec", "transformers", "sentence-transformers", "http", "file"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)


class Backend(Protocol):
    """Gives vectors as they are, normalized or not.

    Attributes:
        name: For people.
        live: It can be asked again, with other texts.
        unchecked: What cannot be seen through it, one sentence each.
    """

    name: str
    live: bool
    unchecked: tuple[str, ...]

    def embed(self, side: Side, texts: Sequence[str]) -> Vectors:
        """Return [N, D'] float32 for N texts of one side, asked for at once."""
        ...


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """Which backend, and how it is reached.

    Attributes:
        name: One of ``BACKENDS``.
        dtype: Number format of a model that is loaded here.
        device: Where such a model computes.
        url: Of a server: its root, or the address of its embeddings.
        input_type_field: Field that tells a server query from passage; "none" = it knows none, and prompts are sent as
            text.
        served_name: What the server calls the model; None = the folder's name.
        base64: Ask for vectors in base64.
        token: Bearer token of the server.
        timeout_seconds: Longest wait for an answer.
        vectors: File of vectors.
        trust_remote_code: Let sentence-transformers run code that lies in the folder and is not ours.
    """

    name: BackendName = "llama2vec"
    dtype: str = "float32"
    device: str = "auto"
    url: str | None = None
    input_type_field: str = "input_type"
    served_name: str | None = None
    base64: bool = False
    token: str | None = None
    timeout_seconds: float = 60.0
    vectors: Path | None = None
    trust_remote_code: bool = False


def open_backend(folder: Path, golden: Golden, choice: BackendChoice) -> Backend:
    """Load or reach a backend.

    Raises:
        ConfigError: What it needs was not given.
        BackendError: It cannot be loaded or reached.
    """
    if choice.name not in BACKENDS:
        raise ConfigError(f"--backend {choice.name}: no such backend; choose from {', '.join(BACKENDS)}")
    if (choice.url is not None) != (choice.name == "http"):
        raise ConfigError("--url and --backend http belong together: the address of the server to ask")
    if (choice.vectors is not None) != (choice.name == "file"):
        raise ConfigError("--vectors and --backend file belong together: the vectors that another program made")
    if choice.name == "http":
        return _server(folder, choice)
    if choice.vectors is not None:
        return FileBackend(choice.vectors, golden)
    if choice.name == "transformers":
        return PlainBackend(PlainModel(folder, choice.dtype, choose_device(choice.device)))
    if choice.name == "sentence-transformers":
        return SentenceTransformersBackend(folder, choice)
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
        """Embed all texts as one call."""
        encode = self.encoder.encode_queries if side == "query" else self.encoder.encode_passages
        return encode(list(texts))


class PlainBackend:
    """Stock ``AutoModel``, driven by nothing but the contract file."""

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

    def __init__(self, folder: Path, choice: BackendChoice) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise MissingDependencyError(
                f"--backend sentence-transformers: {error}; pip install sentence-transformers"
            ) from error
        trusted = choice.trust_remote_code or _runs_only_our_code(folder)
        if not trusted and (folder / MODULE_FILE).exists():
            raise BackendError(
                f"{folder / MODULE_FILE}: not the file that this llama2vec writes; read it, then pass "
                "--trust-remote-code, or save the model again"
            )
        try:
            with quiet_transformers():
                self.model: Any = SentenceTransformer(
                    str(folder),
                    trust_remote_code=trusted,
                    device=str(choose_device(choice.device)),
                    model_kwargs={"dtype": getattr(torch, choice.dtype)},
                )
        except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
            raise BackendError(f"{folder}: SentenceTransformer cannot open it: {_one_line(error)}") from error

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
    unchecked: tuple[str, ...] = (
        "whether the file's program gives the same vectors for other texts, and in other batches",
    )

    def __init__(self, path: Path, golden: Golden) -> None:
        self._vectors = dict(zip(SIDES, read_vector_file(path, golden.texts), strict=True))

    def embed(self, side: Side, texts: Sequence[str]) -> Vectors:
        """Return what the file holds; the texts are always the golden ones."""
        return self._vectors[side]


def _runs_only_our_code(folder: Path) -> bool:
    """Tell whether what sentence-transformers would execute in a folder is a file of this package."""
    there, ours = folder / MODULE_FILE, Path(publishing.__file__).with_name(MODULE_FILE)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return "auto_map" not in config and there.is_file() and there.read_bytes() == ours.read_bytes()


def _server(folder: Path, choice: BackendChoice) -> EmbeddingServer:
    field = choice.input_type_field
    return EmbeddingServer(
        folder,
        url=str(choice.url),
        model=choice.served_name or folder.resolve().name,
        input_type_field=None if field == "none" else field,
        base64=choice.base64,
        token=choice.token,
        timeout_seconds=choice.timeout_seconds,
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def vectors_of(backend: Backend, side: Side, texts: Sequence[str]) -> Vectors:
    """Ask a backend and check that it gave a row a text.

    Raises:
        BackendError: It gave another number of vectors, or no vectors.
    """
    vectors = np.asarray(backend.embed(side, texts), dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts) or not vectors.shape[1]:
        raise BackendError(
            f"{backend.name}: {len(texts)} texts were asked for and the answer has shape {list(vectors.shape)}; "
            "one vector a text is needed"
        )
    return vectors
