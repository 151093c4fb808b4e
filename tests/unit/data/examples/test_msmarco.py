"""MS MARCO's triples: of texts, or of ids with queries and collection."""

from pathlib import Path

import pytest
from sample_files import complaint, written

from llama2vec.data.examples.labeled import read_examples
from llama2vec.data.examples.msmarco import Collection
from llama2vec.errors import DataError
from llama2vec.records import TrainingExample


@pytest.mark.parametrize("name", ["triples.train.small.tsv", "triples.tsv.gz"])
def test_a_triple_of_texts_is_one_example(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, "q\ta\tb\nq\ta\tc\n")
    assert list(read_examples(path)) == [TrainingExample("q", ("a",), (text,)) for text in "bc"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("q\ta", "has 2 columns; write query, positive, negative"),
        ("q\ta\ta", "has a negative ('a', number 1) that is also a positive"),
        ("\ta\tb", "has an empty query"),
        ("1\t2\t3", "contains three ids, not texts; call the file qidpidtriples"),
    ],
)
def test_a_faulty_triple_is_reported_with_its_line(tmp_path: Path, line: str, problem: str) -> None:
    message = complaint(written(tmp_path / "triples.tsv", f"q\ta\tb\n{line}\n"))
    assert "triples.tsv:2 " in message
    assert problem in message


def id_triples(folder: Path, lines: str, packed: str = "") -> Path:
    written(folder / f"qidpidtriples.train.full.tsv{packed}", lines)
    written(folder / "queries.train.tsv", "1\twhat hums?\n2\twhat rolls?\n")
    written(folder / "queries.dev.tsv", "9\tanother\n")
    written(
        folder / f"collection.tsv{packed}", "\ufeff10\tA llama.\r\n11\tA stone.\n\n12\tA  llama.\n13\tTitle\u2028x\n"
    )
    return folder


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_neighboring_id_triples_of_one_query_become_one_example(tmp_path: Path, packed: str) -> None:
    folder = id_triples(tmp_path, "1\t10\t11\n1\t10\t13\n1\t10\t12\n2\t11\t10\n1\t10\t11\n", packed)
    first = TrainingExample(
        "what hums?", ("A llama.",), ("A stone.", "Title\u2028x"), query_id="1",
        positive_ids=("10",), negative_ids=("11", "13"),
    )  # fmt: skip
    examples = list(read_examples(folder))
    assert examples[0] == first
    assert [example.query_id for example in examples] == ["1", "2", "1"]
    assert list(read_examples(folder / f"qidpidtriples.train.full.tsv{packed}")) == examples


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("1\t10\t99", "names the passage '99', which "),
        ("7\t10\t11", "names the query '7', which "),
        ("1\t13\t10", "has passage '10' as positive and negative of query '1'"),
        ("1\t10", "has 2 columns; write query id, positive id, negative id"),
    ],
)
def test_a_faulty_id_triple_is_reported_with_its_line(tmp_path: Path, line: str, problem: str) -> None:
    message = complaint(id_triples(tmp_path, f"1\t10\t11\n{line}\n"))
    assert problem in message
    assert "full.tsv:2 " in message


def test_files_missing_beside_id_triples_are_named(tmp_path: Path) -> None:
    folder = id_triples(tmp_path, "1\t10\t11\n")
    assert "queries.test.tsv or queries.tsv is needed" in complaint(folder / "qidpidtriples.train.full.tsv", "test")
    written(folder / "qidpidtriples.train.2.tsv", "1\t10\t11\n")
    assert "give the file itself" in complaint(folder)
    (folder / "collection.tsv").unlink()
    assert "collection.train.tsv or collection.tsv is needed" in complaint(folder / "qidpidtriples.train.2.tsv")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("1\tx\n1\ty\n", "repeats the id '1'"),
        ("1\tx\nno tab\n", ":2 has 1 column; write"),
        ("1\tx\n \ty\n", ":2 has no id"),
        (b"1\tx\n2\t\xff\n", ":2 is not UTF-8"),
        ("\n", "is empty"),
    ],
)
def test_a_faulty_collection_is_refused_when_it_is_opened(tmp_path: Path, content: str | bytes, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        Collection(written(tmp_path / "collection.tsv", content))


def test_a_collection_finds_every_passage_by_its_exact_id(tmp_path: Path) -> None:
    rows = [(str(number), f"text {number}") for number in range(120)]
    path = written(tmp_path / "collection.tsv", "".join(f"{key}\ttitle\t{text}\n" for key, text in rows))
    with Collection(path) as collection:
        assert len(collection) == 120
        assert all(collection.get(key) == f"title {text}" for key, text in rows)
        assert collection.get("007") is None
        assert collection.get("9999") is None


def test_headers_are_skipped_and_the_collections_names_its_columns(tmp_path: Path) -> None:
    texts = written(tmp_path / "triples.tsv", "query\tpositive\tnegative\nq\ta\tb\n")
    assert list(read_examples(texts)) == [TrainingExample("q", ("a",), ("b",))]
    with Collection(written(tmp_path / "collection.tsv", "id\ttext\ttitle\n1\tIt hums.\tLlama\n")) as collection:
        assert (collection.get("1"), collection.get("id"), len(collection)) == ("Llama It hums.", None, 1)
