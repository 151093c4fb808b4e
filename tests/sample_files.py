"""Small files for the tests of readers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from llama2vec.data.examples.labeled import read_examples
from llama2vec.errors import DataError, ExampleFormatError


def written(path: Path, content: str | bytes) -> Path:
    """Write a file, gzipped if its name says so, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def jsonl(rows: Iterable[object]) -> str:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def complaint(source: str | Path, split: str = "train") -> str:
    """Return the one line that refuses a source of labeled examples."""
    with pytest.raises(DataError) as caught:
        list(read_examples(source, split=split))
    assert isinstance(caught.value, ExampleFormatError)
    message = str(caught.value)
    assert "\n" not in message
    return message
