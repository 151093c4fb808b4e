import gzip
from pathlib import Path

import pytest

from llama2vec.data.tasks.trec import read_qrels, read_run, write_run
from llama2vec.errors import DataError, OutputExistsError, RunFormatError
from llama2vec.records import Run


def written(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def test_beir_and_trec_judgments_read_the_same(tmp_path: Path) -> None:
    expected = {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": -1}}
    beir = "q1\td1\t2\nq1\td2\t0\nq2\td1\t-1\n"
    for name, content in {
        "header.tsv": f"query-id\tcorpus-id\tscore\n{beir}",
        "plain.tsv": beir,
        "trec.qrels": "q1 0 d1 2\nq1 0 d2  0\n\nq2\t0\td1\t-1\r\n",
    }.items():
        assert read_qrels(written(tmp_path / name, content)) == expected


def test_tabs_let_an_id_hold_a_space(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", "query-id\tcorpus-id\tscore\nq 1\td 1\t1\n")
    assert read_qrels(path) == {"q 1": {"d 1": 1}}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "contains no judgments"),
        ("query-id\tcorpus-id\tscore\n", "contains no judgments"),
        ("q1 d1\n", ":1 has 2 columns"),
        ("q1 0 d1 1\nq1 0 d1\n", ":2 has 3 columns"),
        ("q1\td1\thigh\n", ":1 has the gain 'high'"),
        ("q1 0 d1 0.5\n", ":1 has the gain '0.5'"),
        ("\td1\t1\n", ":1 has an empty id"),
        ("q1 0 d1 1\nq1 0 d1 2\n", ":2 gives passage 'd1' of query 'q1' the gain 2, an earlier line 1"),
    ],
)
def test_faulty_judgments_are_reported_with_their_line(tmp_path: Path, content: str, problem: str) -> None:
    with pytest.raises(RunFormatError) as caught:
        read_qrels(written(tmp_path / "a.tsv", content))
    assert problem in str(caught.value)


def test_a_judgment_may_be_repeated_unchanged(tmp_path: Path) -> None:
    assert read_qrels(written(tmp_path / "a.qrels", "q 0 d 1\nq 0 d 1\n")) == {"q": {"d": 1}}


def test_the_score_column_decides_and_the_rank_column_does_not(tmp_path: Path) -> None:
    path = written(tmp_path / "a.run", "q1 Q0 d1 1 0.5 bm25\nq1\tQ0\td2\t2\t1e0\tbm25\n")
    run = read_run(path)
    assert run == Run({"q1": {"d1": 0.5, "d2": 1.0}}, "bm25")
    assert run.ranking("q1")[0] == ("d2", 1.0)
    (tmp_path / "a.run.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert read_run(tmp_path / "a.run.gz") == run


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("q1 Q0 d2 2 0.5", "has 5 columns"),
        ("q1 Q0 d2 2 0.5 my run", "has 7 columns"),
        ("q1 Q0 d2 2 high t", "has the score 'high'"),
        ("q1 Q0 d2 2 nan t", "has the score 'nan'"),
        ("q1 Q0 d2 2 -inf t", "has the score '-inf'"),
        ("q1 Q0 d1 2 0.5 t", "returns passage 'd1' for query 'q1' a second time"),
    ],
)
def test_a_faulty_run_line_is_reported_with_its_number(tmp_path: Path, line: str, problem: str) -> None:
    path = written(tmp_path / "a.run", f"q1 Q0 d1 1 0.9 t\n{line}\n")
    with pytest.raises(RunFormatError) as caught:
        read_run(path)
    assert str(caught.value).startswith(f"{path}:2 {problem}")


def test_an_empty_or_missing_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFormatError, match="is empty"):
        read_run(written(tmp_path / "a.run", ""))
    with pytest.raises(RunFormatError, match="cannot be read"):
        read_run(tmp_path / "b.run")


def test_a_written_run_is_ranked_with_ties_by_id(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.run"
    write_run(Run({"q1": {"b": 0.1, "a": 0.1, "c": 2.0}, "q2": {}}, "ours"), path)
    assert path.read_text(encoding="utf-8") == "q1 Q0 c 1 2.0 ours\nq1 Q0 a 2 0.1 ours\nq1 Q0 b 3 0.1 ours\n"


@pytest.mark.parametrize(
    ("run", "problem"),
    [
        (Run({}), "no results to write"),
        (Run({"q": {}}), "no results to write"),
        (Run({"q 1": {"d": 1.0}}), "the query 'q 1'"),
        (Run({"q": {"": 1.0}}), "the passage ''"),
        (Run({"q": {"\ud800": 1.0}}), "the passage '\\ud800'"),
        (Run({"q": {"d": 1.0}}, "my run"), "the tag 'my run'"),
        (Run({"q": {"d": float("nan")}}), "has the score nan"),
        (Run({"q": {"d": float("inf")}}), "has the score inf"),
    ],
)
def test_a_run_that_cannot_be_read_back_is_not_written(tmp_path: Path, run: Run, problem: str) -> None:
    with pytest.raises(RunFormatError) as caught:
        write_run(run, tmp_path / "a.run")
    assert problem in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    path = written(tmp_path / "a.run", "precious")
    run = Run({"q": {"d": 1.0}})
    with pytest.raises(OutputExistsError, match=r"a\.run does not hold a TREC run"):
        write_run(run, path, overwrite=True)
    assert path.read_text(encoding="utf-8") == "precious"
    path.write_text("1 Q0 other 1 0.5 elsewhere\n", encoding="utf-8")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        write_run(run, path)
    with pytest.raises(RunFormatError):
        write_run(Run({"q": {"d": float("nan")}}), path, overwrite=True)
    assert path.read_text(encoding="utf-8") == "1 Q0 other 1 0.5 elsewhere\n"
    write_run(run, path, overwrite=True)
    assert read_run(path) == run
    with pytest.raises(OutputExistsError):
        write_run(run, tmp_path, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.run"]


def test_a_place_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    blocker = written(tmp_path / "file", "x")
    with pytest.raises(DataError, match="cannot be written"):
        write_run(Run({"q": {"d": 1.0}}), blocker / "a.run")


@pytest.mark.parametrize("gain", ["99999999999999999999", "-1000001", "1_0", "٣", "1.0", "9" * 5000])
def test_a_gain_that_evaluation_cannot_hold_is_refused_with_its_line(tmp_path: Path, gain: str) -> None:
    path = tmp_path / "test.tsv"
    path.write_text(f"query-id\tcorpus-id\tscore\nq\ta\t{gain}\n", encoding="utf-8")
    with pytest.raises(
        RunFormatError, match=r"test\.tsv:2 has the gain .{1,60}; a gain is a whole number from -1,000,000"
    ):
        read_qrels(path)
