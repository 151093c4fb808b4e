import json
from pathlib import Path

import pytest

from llama2vec.data.tasks.beir import check_judged_passages, read_beir
from llama2vec.errors import CorpusFormatError, EvaluationError
from llama2vec.records import Query


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "x"}\n', encoding="utf-8")
    queries = [{"_id": name, "text": f"text of {name}"} for name in ("q3", "q1", "q2")]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)), encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq3\td1\t0\n", encoding="utf-8")
    return folder


def test_only_the_judged_queries_of_the_split_are_read(folder: Path) -> None:
    task = read_beir(folder)
    assert task.name == "tiny/test"
    assert task.queries == [Query("q3", "text of q3"), Query("q1", "text of q1")]
    assert task.qrels == {"q1": {"d1": 1}, "q3": {"d1": 0}}
    assert task.corpus_source == str(folder)


def test_a_missing_split_names_the_ones_there_are(folder: Path) -> None:
    (folder / "qrels" / "dev.tsv").write_text("q1\td1\t1\n", encoding="utf-8")
    with pytest.raises(CorpusFormatError, match="has no split 'train'; choose from dev, test"):
        read_beir(folder, "train")


def test_judgments_of_unknown_queries_are_refused(folder: Path) -> None:
    lines = "".join(f"q{n}\td1\t1\n" for n in range(1, 9))
    (folder / "qrels" / "test.tsv").write_text(lines, encoding="utf-8")
    with pytest.raises(CorpusFormatError, match=r"judges 5 queries \('q4', 'q5', 'q6', …\) that the query file lacks"):
        read_beir(folder)


def test_a_folder_that_is_not_beir_is_refused(folder: Path) -> None:
    with pytest.raises(CorpusFormatError, match="no such folder"):
        read_beir(folder / "nowhere")
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(CorpusFormatError, match=r"has no corpus\.jsonl"):
        read_beir(folder)


def test_judged_passages_must_be_in_the_corpus() -> None:
    check_judged_passages({"q": {"d1": 1}}, {"d1"})
    with pytest.raises(EvaluationError, match=r"name 1 passage \('d2'\) missing from the corpus"):
        check_judged_passages({"q": {"d1": 1, "d2": 0}, "r": {"d2": 1}}, {"d1"})
