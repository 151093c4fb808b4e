import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from llama2vec.errors import DataError, EvaluationError, OutputExistsError
from llama2vec.records import Report
from llama2vec.score.tables import markdown_table, reports_to_json, rich_table, write_json, write_per_query

BM25 = Report(
    "tiny/test",
    "bm25",
    {"nDCG@10": 0.36, "R@100": 0.731},
    {"nDCG@10": (0.33, 0.39)},
    {"nDCG@10": {"q1": 0.1, "q2": 0.62}},
    {"k1": 1.2},
)
OURS = Report("tiny/test", "ours [a|b]", {"nDCG@10": 0.41, "R@100": 0.731}, {"nDCG@10": (0.38, 0.44)})
DENSE_ONLY = Report("tiny/test", "dense", {"MRR@10": 0.5})


def test_json_holds_means_intervals_and_settings_per_system(tmp_path: Path) -> None:
    data = reports_to_json([BM25, OURS])
    assert data == {
        "task": "tiny/test",
        "systems": {"bm25": {"nDCG@10": 0.36, "R@100": 0.731}, "ours [a|b]": {"nDCG@10": 0.41, "R@100": 0.731}},
        "intervals": {"bm25": {"nDCG@10": [0.33, 0.39]}, "ours [a|b]": {"nDCG@10": [0.38, 0.44]}},
        "settings": {"bm25": {"k1": 1.2}, "ours [a|b]": {}},
    }
    write_json(tmp_path / "new" / "a.json", data)
    assert json.loads((tmp_path / "new" / "a.json").read_text(encoding="utf-8")) == data


def test_per_query_values_are_one_line_each(tmp_path: Path) -> None:
    write_per_query(tmp_path / "a.tsv", [BM25, OURS])
    assert (tmp_path / "a.tsv").read_text(encoding="utf-8").splitlines() == [
        "query\tsystem\tmeasure\tvalue",
        "q1\tbm25\tnDCG@10\t0.1",
        "q2\tbm25\tnDCG@10\t0.62",
    ]


def test_reports_are_not_overwritten_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(OutputExistsError, match="--overwrite"):
        write_json(path, {"a": 2})
    with pytest.raises(OutputExistsError):
        write_per_query(path, [BM25])
    with pytest.raises(EvaluationError, match="cannot be written as JSON"):
        write_json(path, {"a": math.nan}, overwrite=True)
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}
    write_json(path, {"a": 2}, overwrite=True)
    with pytest.raises(DataError, match="cannot be written"):
        write_json(path / "b.json", {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_the_markdown_table_marks_the_best_of_each_column() -> None:
    assert markdown_table([BM25, OURS, DENSE_ONLY]).splitlines() == [
        "| System | nDCG@10 | R@100 | MRR@10 |",
        "| --- | --- | --- | --- |",
        "| bm25 | 0.360 [0.330, 0.390] | **0.731** | – |",
        "| ours [a\\|b] | **0.410** [0.380, 0.440] | **0.731** | – |",
        "| dense | – | – | **0.500** |",
    ]
    assert markdown_table([BM25], ["R@100"]).splitlines()[0] == "| System | R@100 |"


def test_the_terminal_table_shows_names_with_brackets_and_intervals() -> None:
    stream = io.StringIO()
    Console(file=stream, width=120).print(rich_table([BM25, OURS]))
    text = stream.getvalue()
    for part in ("tiny/test", "ours [a|b]", "0.410 [0.380, 0.440]", "95 % bootstrap interval"):
        assert part in text


@pytest.mark.parametrize(
    ("reports", "problem"),
    [
        ([], "no report to show"),
        ([BM25, BM25], "two reports are called 'bm25'"),
        ([BM25, Report("other/test", "x", {})], r"different tasks \(tiny/test, other/test\)"),
    ],
)
def test_reports_that_do_not_belong_together_are_refused(reports: list[Report], problem: str) -> None:
    for show in (reports_to_json, markdown_table, rich_table):
        with pytest.raises(EvaluationError, match=problem):
            show(reports)


def test_a_column_that_no_report_has_is_refused() -> None:
    with pytest.raises(EvaluationError, match="no report has the measure 'AP'; choose from nDCG@10, R@100"):
        markdown_table([BM25], ["AP"])
