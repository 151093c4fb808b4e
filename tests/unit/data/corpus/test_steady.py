"""An input that changes between its fingerprint and its end is found; one that was only touched is not hashed twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llama2vec.data.corpus import passages as corpus
from llama2vec.data.corpus.passages import corpus_fingerprint, read_passages
from llama2vec.data.corpus.steady import SteadyInputs
from llama2vec.errors import InputChangedError


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text('{"_id": "1", "text": "old"}\n', encoding="utf-8")
    return tmp_path / "rows.jsonl"


def test_rows_that_changed_after_their_fingerprint_end_with_an_error(rows: Path) -> None:
    inputs = SteadyInputs()
    assert inputs.corpus(rows) == corpus_fingerprint(rows)
    assert [one.text for one in inputs.read(read_passages(rows))] == ["old"]
    rows.write_text('{"_id": "1", "text": "newer"}\n', encoding="utf-8")
    read = inputs.read(read_passages(rows))
    assert next(read).text == "newer"
    with pytest.raises(InputChangedError, match=r"rows\.jsonl changed while it was read; run the same command again"):
        next(read)
    inputs.check(["another source"])


def test_a_document_that_appears_is_a_change(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("A llama.", encoding="utf-8")
    inputs = SteadyInputs()
    inputs.corpus(tmp_path)
    inputs.check()
    (tmp_path / "b.md").write_text("An alpaca.", encoding="utf-8")
    with pytest.raises(InputChangedError):
        inputs.check()


def test_only_a_file_with_another_time_is_hashed_again(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    sha256 = corpus.file_sha256
    monkeypatch.setattr(corpus, "file_sha256", lambda path: hashed.append(path) or sha256(path))  # type: ignore[func-returns-value]
    inputs = SteadyInputs()
    inputs.corpus(rows)
    inputs.check()
    assert hashed == [rows]
    os.utime(rows, (10**9, 10**9))
    inputs.check()
    assert hashed == [rows, rows]
