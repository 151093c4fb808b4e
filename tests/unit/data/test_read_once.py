"""Within a run, files are hashed and parsed once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from opens import Opens

from llama2vec.data import corpus as module
from llama2vec.data.corpus import corpus_fingerprint, count_passages, read_once, read_passages


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(f'{{"_id": "{n}", "text": "text {n}"}}\n' for n in range(5)), encoding="utf-8")
    return path


def test_one_reading_serves_all_and_hashing_is_another(corpus: Path) -> None:
    plain = list(read_passages(corpus))
    opens = Opens()
    with read_once():
        assert list(read_passages(corpus)) == list(read_passages(str(corpus))) == list(read_passages(corpus.parent))
        assert list(read_passages(corpus, limit=2)) == plain[:2]
        assert count_passages(corpus) == 5
        assert corpus_fingerprint(corpus) == corpus_fingerprint(corpus.parent)
    assert opens.of(corpus) == 2
    assert list(read_passages(corpus)) == plain
    assert opens.of(corpus) == 3


def test_a_reading_that_stops_early_is_not_taken_for_the_whole(corpus: Path) -> None:
    with read_once():
        assert len(list(read_passages(corpus, limit=2))) == 2
        assert len(list(read_passages(corpus))) == 5


def test_a_file_that_changes_is_read_again(corpus: Path) -> None:
    with read_once():
        before = corpus_fingerprint(corpus), list(read_passages(corpus))
        corpus.write_text('{"_id": "new", "text": "x"}\n', encoding="utf-8")
        os.utime(corpus, ns=(1, 1))
        assert [passage.id for passage in read_passages(corpus)] == ["new"]
        assert corpus_fingerprint(corpus) != before[0]


def test_a_corpus_that_is_too_large_is_streamed_each_time(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 600)
    opens = Opens()
    with read_once():
        assert list(read_passages(corpus)) == list(read_passages(corpus))
    assert opens.of(corpus) == 2
