"""Sources are counted to their end, row by row as they are read."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from llama2vec.data.examples.counting import count_examples, limited_examples
from llama2vec.data.examples.labeled import read_examples
from llama2vec.errors import ExampleFormatError

ROW = '{"query": "q", "pos": ["p"]}\n'


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / name for name in ("a.jsonl", "b.jsonl.gz", "c.tsv", "beir", "ids")}
    found["a.jsonl"].write_text(f"{ROW}\n \n{ROW}{ROW.rstrip()}", encoding="utf-8")
    found["b.jsonl.gz"].write_bytes(gzip.compress((ROW * 5).encode()))
    found["c.tsv"].write_text("query\tpositive\tnegative\nq\tp\tn\nq\to\tn\n", encoding="utf-8")
    (found["beir"] / "qrels").mkdir(parents=True)
    (found["beir"] / "corpus.jsonl").write_text('{"_id": "p", "text": "x"}\n{"_id": "o", "text": "y"}\n')
    (found["beir"] / "queries.jsonl").write_text('{"_id": "q", "text": "x?"}\n{"_id": "r", "text": "y?"}\n')
    judged = "query-id\tcorpus-id\tscore\nq\tp\t1\nq\to\t2\nr\to\t0\n"
    (found["beir"] / "qrels" / "train.tsv").write_text(judged)
    found["ids"].mkdir()
    (found["ids"] / "qidpidtriples.train.tsv").write_text("q\tp\to\nq\tp\to\nr\to\tp\n")
    (found["ids"] / "queries.train.tsv").write_text("q\tx?\nr\ty?\n")
    (found["ids"] / "collection.tsv").write_text("p\tx\no\ty\n")
    return found


@pytest.mark.parametrize(("name", "count"), [("a.jsonl", 3), ("b.jsonl.gz", 5), ("c.tsv", 2), ("beir", 1), ("ids", 2)])
def test_the_count_is_that_of_the_rows_that_are_read(sources: dict[str, Path], name: str, count: int) -> None:
    assert count_examples(sources[name]) == len(list(read_examples(sources[name]))) == count


def test_a_limit_takes_examples_from_all_over_a_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "llama2vec")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"query": "q{row}", "pos": ["p"]}}\n' for row in range(10)), encoding="utf-8")

    def queries(source: str, limit: int, *, first: bool = False) -> list[str]:
        caplog.clear()
        return [one.query for one in limited_examples(source, limit, first=first)]

    assert queries(str(rows), 4) == ["q0", "q2", "q5", "q7"]
    assert caplog.messages == [f"{rows}: 4 of 10 examples, spread evenly"]
    assert queries(str(rows), 2, first=True) == ["q0", "q1"]
    assert caplog.messages == [f"{rows}: at most its first 2 examples"]
    for limit in (0, 10, 11):
        assert len(queries(str(rows), limit)) == 10
        assert caplog.messages == []
    monkeypatch.setattr(
        "llama2vec.data.examples.labeled.open_hub_dataset", lambda *_: [{"query": "a", "pos": ["b"]}] * 3
    )
    assert queries("hf:me/data", 2) == ["a", "a"]
    assert "hf:me/data: at most its first 2 examples, because it is not counted before it is read" in caplog.messages


def test_a_file_of_id_triples_is_counted_in_its_folder(sources: dict[str, Path]) -> None:
    assert count_examples(sources["ids"] / "qidpidtriples.train.tsv") == 2


def test_a_data_set_of_the_hub_is_not_counted_and_a_broken_file_is_named(tmp_path: Path) -> None:
    assert count_examples("hf:someone/data") is None
    broken = tmp_path / "a.jsonl.gz"
    broken.write_bytes(gzip.compress((ROW * 5).encode())[:-9])
    with pytest.raises(ExampleFormatError, match="ends in the middle of its gzip data"):
        count_examples(broken)
