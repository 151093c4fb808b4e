import gzip
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from llama2vec.data.examples.report import ExampleReport, Lengths, inspect_examples
from llama2vec.errors import ExampleFormatError


def words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def written(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def counts(report: ExampleReport, what: str = "problems") -> dict[str, int]:
    return {finding.kind: finding.count for finding in getattr(report, what)}


FAULTY: list[object] = [
    {"query": "q", "pos": ["a"], "neg": ["b"]},
    {"query": "", "pos": [], "neg": ["", " "]},
    "{broken",
    {"query": "q2", "pos": ["a"], "neg": ["a"], "pos_scores": [1, 2], "neg_scores": [1]},
    {"query": "q3", "pos": ["a"], "negs": ["b"]},
]


def test_every_problem_is_counted_with_its_line_and_none_stops_the_reading(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", FAULTY)
    report = inspect_examples(path)
    assert (report.rows, report.faulty_rows, report.examples) == (5, 4, 1)
    assert counts(report) == {
        "empty query": 1, "no positive": 1, "empty text": 2, "unreadable": 1, "overlap": 1, "scores": 1,
        "unknown field": 1,
    }  # fmt: skip
    assert report.problem_count == 8
    by_kind = {finding.kind: finding.first for finding in report.problems}
    assert by_kind["unreadable"][0].startswith(f"{path}:3 is not JSON")
    assert by_kind["overlap"][0].startswith(f"{path}:4 has a negative")
    assert f"{path}:5 has the unknown field 'negs'; did you mean 'neg'?" in str(report)
    assert report.summary().startswith(f"{path} has problems in 4 of 5 rows (empty query: 1, ")


def test_a_flood_of_one_problem_is_counted_whole_and_shown_in_part(tmp_path: Path) -> None:
    report = inspect_examples(written(tmp_path / "a.jsonl", [{"query": "q", "pos": []}] * 300))
    assert counts(report) == {"no positive": 300}
    assert len(report.problems[0].first) == 5
    assert report.words["queries"] == Lengths(0, 0.0, dict.fromkeys((50, 90, 95, 99), 0), 0)


def test_fewer_negatives_than_asked_are_a_problem_only_when_asked(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", FAULTY[:1])
    assert counts(inspect_examples(path, negatives=1)) == {}
    report = inspect_examples(path, negatives=3)
    assert counts(report) == {"too few negatives": 1}
    assert report.problems[0].first == (f"{path}:1 has 1 of 3 negatives; mine more or ask for fewer",)
    assert (report.examples, report.faulty_rows) == (1, 1)


def test_oddities_between_and_within_rows_are_counted(tmp_path: Path) -> None:
    rows: list[object] = [
        {"query": "q", "pos": ["a", "a "], "neg": ["b", "b", "z"]},
        {"query": " q", "pos": ["c"], "neg": ["a", "d"]},
        {"query": "r", "pos": ["b", "r"], "neg": ["c"]},
        {"query": "s", "pos": ["e"]},
    ]
    path = written(tmp_path / "a.jsonl", rows)
    report = inspect_examples(path)
    assert not report.problems
    assert report.summary() == ""
    assert counts(report, "notes") == {
        "queries that an earlier row has": 1,
        "pairs of query and positive that came before": 1,
        "queries that are their own positive": 1,
        "rows with one negative twice": 1,
        "rows without negatives": 1,
        # b (for r) and c (for q); a is one for q itself, in the row before.
        "positives that are another query's negative": 2,
        "negatives that are positives in another row": 1,
    }
    assert f"{path}:2" in str(report)


def test_rows_without_scores_are_noted_where_others_have_them(tmp_path: Path) -> None:
    plain = {"query": "q", "pos": ["a"], "neg": ["b"]}
    scored = {"query": "r", "pos": ["c"], "neg": ["d"], "pos_scores": [1.0], "neg_scores": [0.5]}
    path = written(tmp_path / "a.jsonl", [scored, plain, {**plain, "query": "s"}])
    report = inspect_examples(path)
    assert counts(report, "notes")["rows without scores, which others have"] == 2
    assert f"{path}:2, {path}:3" in str(report)
    assert report.scored == 1
    assert "rows without scores" not in str(inspect_examples(written(tmp_path / "b.jsonl", [plain])))


def test_lengths_are_percentiles_that_occur_and_say_what_is_cut(tmp_path: Path) -> None:
    rows: list[object] = [
        {"query": "w " * number, "pos": ["p " * 2 * number], "neg": ["n"] if number == 1 else []}
        for number in range(1, 1201)
    ]
    path = written(tmp_path / "a.jsonl", rows)
    report = inspect_examples(path, count_tokens=words, query_max_tokens=1000, passage_max_tokens=3000)
    expected = Lengths(1200, 600.5, {50: 600, 90: 1080, 95: 1140, 99: 1188}, 1200, 1000, 200)
    assert report.tokens["queries"] == expected
    assert report.tokens["positives"].longest == 2400
    assert report.tokens["positives"].cut == 0
    assert report.tokens["negatives"].count == 1
    assert report.words["queries"].percentiles == expected.percentiles
    assert "16.7% longer than 1,000" in str(report)
    assert inspect_examples(path).tokens == {}


def test_a_report_becomes_json(tmp_path: Path) -> None:
    report = inspect_examples(written(tmp_path / "a.jsonl", FAULTY), count_tokens=words, query_max_tokens=1)
    facts = json.loads(json.dumps(asdict(report)))
    assert facts["rows"] == 5
    assert facts["problems"][0] == {
        "kind": "empty query", "count": 1, "first": [f"{tmp_path / 'a.jsonl'}:2 has an empty query; write one or "
        "delete the row"],
    }  # fmt: skip
    assert facts["tokens"]["queries"]["percentiles"] == {"50": 1, "90": 1, "95": 1, "99": 1}
    assert facts["tokens"]["queries"]["cut"] == 0


def test_a_file_that_ends_in_the_middle_is_reported_with_what_stands_before(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    rows = "".join(json.dumps({"query": f"q {number}", "pos": [f"p {number}"]}) + "\n" for number in range(20000))
    path.write_bytes(gzip.compress(rows.encode())[:-2000])
    report = inspect_examples(path)
    assert report.examples > 10000
    assert counts(report) == {"unreadable": 1}
    assert "ends in the middle of its gzip data" in report.problems[0].first[0]


def test_a_source_without_a_row_cannot_be_reported(tmp_path: Path) -> None:
    with pytest.raises(ExampleFormatError, match="contains no training examples"):
        inspect_examples(written(tmp_path / "a.jsonl", [""]))
    with pytest.raises(ExampleFormatError, match="no such file"):
        inspect_examples(tmp_path / "b.jsonl")
