"""Export the golden texts, and read the vectors that another program made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llama2vec.errors import DataError
from llama2vec.files import open_regular, read_text, write_output
from llama2vec.model.backbone import load_tokenizer
from llama2vec.model.contract import CONTRACT_FILE
from llama2vec.model.golden import SIDES, Golden
from llama2vec.model.pooling import Vectors
from llama2vec.verify.plain import input_as_text


def row_ids(count: int) -> list[str]:
    """Return the ids of an exported file's rows, queries first.

    >>> row_ids(2)
    ['query-0', 'query-1', 'passage-0', 'passage-1']
    """
    return [f"{side}-{number}" for side in SIDES for number in range(count)]


def export_texts(folder: Path, golden: Golden, path: Path, *, overwrite: bool = False) -> int:
    """Write the golden texts as JSONL: ``id``, ``side``, ``text``, and ``prompted`` for programs without prompts.

    Returns:
        The number of rows.
    """
    contract = json.loads((folder / CONTRACT_FILE).read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(str(folder))
    tokenizer.model_max_length = int(1e30)
    asked = [(side, text) for side in SIDES for text in golden.texts]
    lines = []
    for name, (side, text) in zip(row_ids(len(golden.texts)), asked, strict=True):
        row = {"id": name, "side": side, "text": text, "prompted": input_as_text(contract, tokenizer, side, text)}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_output(path, "".join(lines), overwrite=overwrite)
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
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise DataError(f"{path}: {' '.join(str(error).split())[:160]}; write it again") from None
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
        stacked = found if path.suffix == ".npy" else np.stack([found[side] for side in SIDES])
        return np.asarray(stacked, dtype=np.float32)


def _read_jsonl(path: Path, count: int) -> Vectors:
    found: dict[str, Vectors] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
                found[str(row["id"])] = np.asarray(row["embedding"], dtype=np.float32)
            except (ValueError, KeyError, TypeError) as error:
                told = f"line {number} is not {{'id': …, 'embedding': […]}} ({type(error).__name__})"
                raise ValueError(told) from None
    missing = [name for name in row_ids(count) if name not in found]
    if missing:
        raise ValueError(f"has no vector for {missing[0]}, {len(missing)} of {len(SIDES) * count} are missing")
    return np.stack([found[name] for name in row_ids(count)])
