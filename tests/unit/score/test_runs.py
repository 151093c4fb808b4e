"""Runs as files, and what the results beside them say."""

import json
from pathlib import Path

import pytest
from compared import NEW, OLD

from llama2vec.data.tasks.trec import write_run
from llama2vec.errors import EvaluationError
from llama2vec.records import Report, Run
from llama2vec.score.results import Result, write_result
from llama2vec.score.runs import check_same_corpus, read_named_runs, task_of, ties_of


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two runs with one tag, in folders of their own."""
    paths = [tmp_path / name / "tiny.trec" for name in ("old", "new")]
    for path, run in zip(paths, (OLD, NEW), strict=True):
        write_run(Run(run.results, "same"), path)
    return paths


def beside(path: Path, task: str, fingerprint: str) -> None:
    content = {"task": task, "settings": {"corpus_fingerprint": fingerprint, "judgments_fingerprint": "judged"}}
    path.with_suffix(".json").write_text(json.dumps(content), encoding="utf-8")


def test_runs_with_one_tag_are_named_after_their_paths(files: list[Path]) -> None:
    assert [run.tag for run in read_named_runs(files)] == [str(path.with_suffix("")) for path in files]
    with pytest.raises(EvaluationError, match="is given twice"):
        read_named_runs([files[0], files[0].parent / "." / "tiny.trec"])


def test_runs_of_two_corpora_are_refused_and_unknown_ones_trusted(files: list[Path]) -> None:
    beside(files[0], "a", "1" * 64)
    check_same_corpus(files)
    assert task_of(files, "judged") is None
    beside(files[1], "a", "1" * 64)
    check_same_corpus(files)
    assert task_of(files, "judged") == "a"
    assert task_of(files, "of another split") is None
    beside(files[1], "b", "2" * 64)
    assert task_of(files, "judged") is None
    with pytest.raises(EvaluationError, match="belong to different corpora"):
        check_same_corpus(files)


def test_equal_scores_of_a_run_are_ranked_as_its_result_was_made(tmp_path: Path) -> None:
    run = tmp_path / "tiny-test.trec"
    write_run(OLD, run)
    assert ties_of(run) == "trec_eval"
    for settings, expected in (({}, "id"), ({"ties": "trec_eval"}, "trec_eval")):
        write_result(tmp_path, Result(Report("tiny/test", "a", {"AP": 1.0}, settings=settings), 1.0))
        assert ties_of(run) == expected
