"""Programs that give vectors for the golden texts: ours, transformers, sentence-transformers, a server, a file."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llama2vec.config import ModelSettings
from llama2vec.errors import BackendError, ConfigError, DataError, one_line
from llama2vec.files import FileKind, open_regular, read_text, write_output
from llama2vec.model.golden import Golden
from llama2vec.model.loading import quiet_transformers
from llama2vec.model.publish.portable_files import MODULES_FILE
from llama2vec.records import SIDES, Side, Vectors
from llama2vec.terminal import counted
from llama2vec.verify.settings import ServerSettings

EXPORTED = ("onnx", "llama.cpp")
"""Backends that read a folder which `llama2vec export` wrote."""
BACKENDS = ("llama2vec", "transformers", "sentence-transformers", "http", "file")
Embed = Callable[[Side, Sequence[str]], Vectors]
"""(side, N texts) → [N, D'] float32, normalized or not."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A program that is asked for vectors."""

    name: str  # Shown to the user
    embed: Embed  # Gives the vectors of texts, asked for at once
    live: bool = True  # Whether it can be asked again, with other texts
    unchecked: tuple[str, ...] = ()  # What it does not show, one sentence each


def check_backend(name: str, server: ServerSettings, vectors: Path | None) -> None:
    """Raise a ConfigError for an unknown backend, or one without what it needs; see :func:`open_backend`."""
    if name not in BACKENDS:
        raise ConfigError(f"--backend {name}: unknown backend; choose from {', '.join((*BACKENDS, *EXPORTED))}")
    if (server.url is not None) != (name == "http"):
        raise ConfigError("--url and --backend http belong together: the address of the server to ask")
    if (vectors is not None) != (name == "file"):
        raise ConfigError("--vectors and --backend file belong together: the vectors that another program made")


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
        ModelError: It cannot be loaded or reached, or would run code that llama2vec did not write.
    """
    server = server or ServerSettings()
    check_backend(name, server, vectors)
    if name == "http":
        from llama2vec.verify.server import EmbeddingServer

        asked = EmbeddingServer(folder, server, token)
        return Backend(name, asked.embed, unchecked=asked.unchecked)
    if vectors is not None:
        given = dict(zip(SIDES, read_vector_file(vectors, golden.texts), strict=True))
        unchecked = "whether that program gives the same vectors for other texts, and in other batches"
        return Backend(name, lambda side, _: given[side], live=False, unchecked=(unchecked,))
    from llama2vec.model.device import choose_device
    from llama2vec.model.encoder import Encoder
    from llama2vec.verify.plain import PlainModel

    if name == "transformers":
        return Backend(name, PlainModel(folder, dtype, choose_device(device)).embed)
    if name == "sentence-transformers":
        return Backend(name, _sentence_transformers(folder, dtype, device))
    settings = ModelSettings.model_validate({"dtype": dtype, "device": device})
    encoder = Encoder.load(folder, settings=settings)
    encode = {"query": encoder.encode_queries, "passage": encoder.encode_passages}
    return Backend(name, lambda side, texts: encode[side](list(texts)))


def _sentence_transformers(folder: Path, dtype: str, device: str) -> Embed:
    """Open a folder with ``SentenceTransformer``, without running code that is not ours."""
    import torch

    from llama2vec.integrations.sentence_transformers import load_sentence_transformer
    from llama2vec.model.device import choose_device

    options: dict[str, Any] = {"device": str(choose_device(device)), "model_kwargs": {"dtype": getattr(torch, dtype)}}
    try:
        with quiet_transformers():
            if (folder / MODULES_FILE).exists():
                model: Any = load_sentence_transformer(folder, **options)
            else:
                from sentence_transformers import SentenceTransformer

                model = SentenceTransformer(str(folder), trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        raise BackendError(
            f"{folder}: SentenceTransformer cannot open it ({one_line(error)}); save the model again, or update "
            "sentence-transformers"
        ) from error

    def embed(side: Side, texts: Sequence[str]) -> Vectors:
        encode = model.encode_query if side == "query" else model.encode_document
        try:
            found = encode(list(texts), convert_to_tensor=True, show_progress_bar=False, batch_size=len(texts))
        except (ValueError, TypeError, RuntimeError, KeyError) as error:
            raise BackendError(
                f"{folder}: sentence-transformers cannot embed the golden texts ({one_line(error)}); update it, or "
                "save the model again"
            ) from error
        vectors: Vectors = found.float().cpu().numpy()
        return vectors

    return embed


def vectors_of(backend: Backend, side: Side, texts: Sequence[str]) -> Vectors:
    """Ask a backend and check that it gives one row per text; else raise :class:`BackendError`."""
    vectors = np.asarray(backend.embed(side, texts), dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts) or not vectors.shape[1]:
        raise BackendError(
            f"{backend.name}: asked for {counted(len(texts), 'text')}, and the answer has shape {list(vectors.shape)}; "
            "one vector per text is needed"
        )
    return vectors


TEXTS_FILE = FileKind("texts that `llama2vec verify` exported", rb'\{"id": "query-0", "side": "query", "text": ')


def row_ids(count: int) -> list[str]:
    """Return the ids of an exported file's rows, queries first.

    >>> row_ids(2)
    ['query-0', 'query-1', 'passage-0', 'passage-1']
    """
    return [f"{side}-{number}" for side in SIDES for number in range(count)]


def export_texts(folder: Path, golden: Golden, path: Path, *, overwrite: bool = False) -> int:
    """Write the golden texts as JSONL: ``id``, ``side``, ``text`` and ``prompted``; return the number of rows."""
    from llama2vec.verify.plain import text_input

    prompted = text_input(folder)
    asked = [(side, text) for side in SIDES for text in golden.texts]
    lines = []
    for name, (side, text) in zip(row_ids(len(golden.texts)), asked, strict=True):
        row = {"id": name, "side": side, "text": text, "prompted": prompted(side, text)}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_output(path, "".join(lines), TEXTS_FILE, overwrite=overwrite)
    return len(lines)


def read_vector_file(path: Path, texts: Sequence[str]) -> tuple[Vectors, Vectors]:
    """Read the vectors of the exported texts.

    Args:
        path: ``.npy`` [2N, D] in the exported order or [2, N, D]; ``.npz`` with ``query`` and ``passage`` [N, D];
            ``.jsonl`` rows of ``id`` and ``embedding``.
        texts: The N golden texts.

    Returns:
        Vectors of the queries and of the passages, each [N, D].

    Raises:
        DataError: The file cannot be read, or does not hold one vector per text.
    """
    read = {".npy": _read_numpy, ".npz": _read_numpy, ".jsonl": _read_jsonl}.get(path.suffix)
    if read is None:
        raise DataError(f"{path}: vectors are read from .npy, .npz and .jsonl files; convert it")
    try:
        stacked = read(path, len(texts))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); give the file of vectors") from None
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: {one_line(error)}; write it again") from None
    if stacked.ndim == 2 and len(stacked) == len(SIDES) * len(texts):
        stacked = stacked.reshape(len(SIDES), len(texts), -1)
    if stacked.ndim != 3 or stacked.shape[:2] != (len(SIDES), len(texts)) or not stacked.shape[2]:
        raise DataError(
            f"{path}: vectors of shape {list(stacked.shape)} for {len(texts)} queries and {len(texts)} passages; "
            "give one vector per exported row, in their order"
        )
    return stacked[0], stacked[1]


def _read_numpy(path: Path, _: int) -> Vectors:
    with open_regular(path) as file:
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.ndarray) != (path.suffix == ".npy"):
            raise ValueError("the content is of the other kind, .npy or .npz, than the name says")
        stacked = found if path.suffix == ".npy" else np.stack([found[side] for side in SIDES])
        return np.asarray(stacked, dtype=np.float32)


def _read_jsonl(path: Path, count: int) -> Vectors:
    found: dict[str, Vectors] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
                found[str(row["id"])] = np.asarray(row["embedding"], dtype=np.float32)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                told = f"line {number} is not {{'id': …, 'embedding': […]}} ({type(error).__name__})"
                raise ValueError(told) from None
    missing = [name for name in row_ids(count) if name not in found]
    if missing:
        raise ValueError(f"has no vector for {missing[0]}, {len(missing)} of {len(SIDES) * count} are missing")
    return np.stack([found[name] for name in row_ids(count)])
