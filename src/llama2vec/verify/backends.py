"""Programs that give vectors for the golden texts: ours, transformers, sentence-transformers, a server, a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

BACKENDS = ("llama2vec", "transformers", "sentence-transformers", "http", "file")
Embed = Callable[[Side, Sequence[str]], Vectors]
"""(side, N texts) → [N, D'] float32, normalized or not."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A program that is asked for vectors.

    Attributes:
        name: Shown to the user.
        embed: Gives the vectors of texts, asked for at once.
        live: Whether it can be asked again, with other texts.
        unchecked: What it does not show, one sentence each.
    """

    name: str
    embed: Embed
    live: bool = True
    unchecked: tuple[str, ...] = ()


def open_backend(
    name: str,
    folder: Path,
    golden: Golden,
    *,
    dtype: str = "float32",
    device: str = "auto",
    server: ServerSettings | None = None,
    token: str | None = None,
    vectors: Path | None = None,
) -> Backend:
    """Load or reach a backend.

    Args:
        name: One of ``BACKENDS``.
        folder: The saved model.
        golden: Its golden vectors.
        dtype: Number format of a model loaded here.
        device: Where such a model computes.
        server: How to ask a server, for ``http``.
        token: The server's bearer token.
        vectors: File of vectors, for ``file``.

    Raises:
        ConfigError: A setting that it needs is missing.
        BackendError: It cannot be loaded or reached.
        ContractError: sentence-transformers would run code in the folder that llama2vec did not write.
    """
    server = server or ServerSettings()
    if name not in BACKENDS:
        raise ConfigError(f"--backend {name}: unknown backend; choose from {', '.join(BACKENDS)}")
    if (server.url is not None) != (name == "http"):
        raise ConfigError("--url and --backend http belong together: the address of the server to ask")
    if (vectors is not None) != (name == "file"):
        raise ConfigError("--vectors and --backend file belong together: the vectors that another program made")
    if name == "http":
        from llama2vec.verify.server import EmbeddingServer

        asked = EmbeddingServer(folder, server, token)
        return Backend(name, asked.embed, unchecked=asked.unchecked)
    if vectors is not None:
        given = dict(zip(SIDES, read_vector_file(vectors, golden.texts), strict=True))
        unchecked = "whether that program gives the same vectors for other texts, and in other batches"
        return Backend(name, lambda side, _: given[side], live=False, unchecked=(unchecked,))
    if name == "transformers":
        return Backend(name, PlainModel(folder, dtype, choose_device(device)).embed)
    if name == "sentence-transformers":
        return Backend(name, _sentence_transformers(folder, dtype, device))
    settings = ModelSettings.model_validate({"dtype": dtype, "device": device})
    encoder = Encoder.load(folder, settings=settings)
    return Backend(name, lambda side, texts: _encode(encoder, side)(list(texts)))


def _encode(encoder: Encoder, side: Side) -> Callable[[list[str]], Vectors]:
    return encoder.encode_queries if side == "query" else encoder.encode_passages


def _sentence_transformers(folder: Path, dtype: str, device: str) -> Embed:
    """Open a folder with ``SentenceTransformer``, without running code that is not ours."""
    options: dict[str, Any] = {"device": str(choose_device(device)), "model_kwargs": {"dtype": getattr(torch, dtype)}}
    try:
        with quiet_transformers():
            if (folder / MODULES_FILE).exists():
                model: Any = load_sentence_transformer(folder, **options)
            else:
                from sentence_transformers import SentenceTransformer

                model = SentenceTransformer(str(folder), trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        raise BackendError(f"{folder}: SentenceTransformer cannot open it: {_one_line(error)}") from error

    def embed(side: Side, texts: Sequence[str]) -> Vectors:
        encode = model.encode_query if side == "query" else model.encode_document
        try:
            found = encode(list(texts), convert_to_tensor=True, show_progress_bar=False, batch_size=len(texts))
        except (ValueError, TypeError, RuntimeError, KeyError) as error:
            raise BackendError(f"sentence-transformers cannot embed the golden texts: {_one_line(error)}") from error
        vectors: Vectors = found.float().cpu().numpy()
        return vectors

    return embed


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
