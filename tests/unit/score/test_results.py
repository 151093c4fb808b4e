"""Results and comparisons on disk."""

import json
import math
from pathlib import Path

import pytest
from compared import NEW, OLD, OTHER, QRELS, compare_one, read_comparisons, report, two_tasks

from llama2vec.data.tasks.trec import read_run
from llama2vec.errors import DataError, EvaluationError, OutputExistsError
from llama2vec.files import FileKind
from llama2vec.records import Report, Run
from llama2vec.score.comparison import compare_reports, pooled_comparison
from llama2vec.score.results import (
    COMPARISON_FILE,
    Result,
    comparison_from_json,
    comparison_to_json,
    read_json,
    read_result,
    with_query_values,
    write_comparisons,
    write_result,
    write_sealed_json,
)

BM25 = Report(
    "tiny/test",
    "bm25",
    {"nDCG@10": 0.36, "R@100": 0.731},
    {"nDCG@10": (0.33, 0.39)},
    {"nDCG@10": {"q1": 0.1, "q2": 0.62}},
    {"k1": 1.2},
)


def test_a_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_result(tmp_path, Result(BM25, 1.25), Run({"q1": {"p": 1.0}}, "bm25"))
    file = tmp_path / "tiny-test.json"
    found = with_query_values(file, read_result(file))
    settings = {key: value for key, value in found.report.settings.items() if key != "code"}
    assert Report(*(getattr(found.report, name) for name in list(vars(BM25))[:5]), settings) == BM25
    assert (found.seconds, found.kept) == (1.25, True)
    assert read_run(tmp_path / "tiny-test.trec").results == {"q1": {"p": 1.0}}
    assert (tmp_path / "tiny-test.per-query.tsv").read_text(encoding="utf-8").splitlines() == [
        "query\tsystem\tmetric\tvalue",
        "q1\tbm25\tnDCG@10\t0.1",
        "q2\tbm25\tnDCG@10\t0.62",
    ]


def test_a_changed_number_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sealed_json(path, {"a": 0.25, "b": ["é", None]}, FileKind("an A", rb'\{\s*"a":'))
    assert read_json(path) == {"a": 0.25, "b": ["é", None]}
    path.write_text(path.read_text(encoding="utf-8").replace("0.25", "0.26"), encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json was changed after it was written; restore it, or make the result"):
        read_json(path)


def test_json_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    path, kind = tmp_path / "a.json", FileKind("an A", rb'\{\s*"a":')
    write_sealed_json(path, {"a": 1}, kind)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        write_sealed_json(path, {"a": 2}, kind)
    with pytest.raises(EvaluationError, match="cannot be written as JSON"):
        write_sealed_json(path, {"a": math.nan}, kind, overwrite=True)
    with pytest.raises(OutputExistsError, match="does not hold a comparison of runs"):
        write_sealed_json(path, {"a": 2}, COMPARISON_FILE, overwrite=True)
    assert read_json(path) == {"a": 1}
    write_sealed_json(path, {"a": 2}, kind, overwrite=True)
    with pytest.raises(DataError, match="cannot be written"):
        write_sealed_json(path / "b.json", {}, kind)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_json_gives_back_the_same_comparison(tmp_path: Path) -> None:
    same_everywhere = compare_reports([report("t", "a", [0.0, 0.5]), report("t", "b", [0.5, 1.0])], metric="AP")
    assert same_everywhere.pairs[0].effect_size is None
    one = compare_one([OLD, NEW, OTHER], QRELS, metric="MRR@10", task="tiny")
    for comparison in (one, same_everywhere, pooled_comparison(two_tasks())):
        assert comparison_from_json(json.loads(json.dumps(comparison_to_json(comparison)))) == comparison
    write_comparisons(tmp_path / "one.json", [one])
    assert read_json(tmp_path / "one.json") == json.loads(json.dumps(comparison_to_json(one)))
    write_comparisons(tmp_path / "two.json", [one, same_everywhere])
    assert read_comparisons(tmp_path / "one.json") == [one]
    assert read_comparisons(tmp_path / "two.json") == [one, same_everywhere]
    with pytest.raises(OutputExistsError):
        write_comparisons(tmp_path / "one.json", [one])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("no JSON", "cannot be read as JSON"),
        ("[1]", "not a llama2vec-comparison"),
        ('{"comparisons": [{}]}', "not a llama2vec-comparison"),
        ('{"format": "llama2vec-comparison", "version": 2}', "of version 1"),
        ('{"format": "llama2vec-comparison", "version": 1, "task": ""}', "damaged"),
    ],
)
def test_files_that_are_no_comparison_are_refused_with_their_name(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=rf"a\.json.*{problem}"):
        read_comparisons(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_comparisons(tmp_path / "none.json")


def test_a_pair_with_missing_numbers_is_damaged() -> None:
    data = comparison_to_json(compare_one([OLD, NEW], QRELS))
    del data["pairs"][0]["t_p"]
    with pytest.raises(DataError, match=r"damaged.*t_p"):
        comparison_from_json(data)
