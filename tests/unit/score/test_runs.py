"""Run files of any system: names, corpora, texts."""

import json
from pathlib import Path

import pytest
from compared import NEW, OLD, QRELS, compare_one

from llama2vec.data.trec import write_run
from llama2vec.errors import EvaluationError
from llama2vec.records import Query, Run
from llama2vec.score.runs import check_same_corpus, read_named_runs, task_of, with_texts


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two runs with one tag, in folders of their own."""
    paths = [tmp_path / name / "tiny.trec" for name in ("old", "new")]
    for path, run in zip(paths, (OLD, NEW), strict=True):
        write_run(Run(run.results, "same"), path)
    return paths


def beside(path: Path, task: str, fingerprint: str) -> None:
    content = {"task": task, "settings": {"corpus_fingerprint": fingerprint}}
    path.with_suffix(".json").write_text(json.dumps(content), encoding="utf-8")


def test_runs_with_one_tag_are_named_after_their_paths(files: list[Path]) -> None:
    assert [run.tag for run in read_named_runs(files)] == [str(path.with_suffix("")) for path in files]
    with pytest.raises(EvaluationError, match="is given twice"):
        read_named_runs([files[0], files[0].parent / "." / "tiny.trec"])


def test_runs_of_two_corpora_are_refused_and_unknown_ones_trusted(files: list[Path]) -> None:
    beside(files[0], "a", "1" * 64)
    check_same_corpus(files)
    assert task_of(files) is None
    beside(files[1], "a", "1" * 64)
    check_same_corpus(files)
    assert task_of(files) == "a"
    beside(files[1], "b", "2" * 64)
    assert task_of(files) is None
    with pytest.raises(EvaluationError, match="belong to different corpora"):
        check_same_corpus(files)


def test_texts_of_queries_and_passages_are_filled_in(tmp_path: Path) -> None:
    others = {name for run in (OLD, NEW) for found in run.results.values() for name in found}
    rows = [{"_id": name, "title": name.upper(), "text": f"text of {name}"} for name in sorted(others)]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    comparison = compare_one([OLD, NEW], QRELS)
    [told] = with_texts([comparison], [OLD, NEW], [Query("q2", "what is it?")], str(corpus))
    shown = told.shown["q2"]
    assert shown.text == "what is it?"
    best = shown.answers["new"][0]
    assert (best.id, best.title, best.snippet) == ("good", "GOOD", "text of good")
    corpus.write_text('{"_id": "good", "text": "x"}\n', encoding="utf-8")
    with pytest.raises(EvaluationError, match=r"are not in .*; give the corpus that was searched"):
        with_texts([comparison], [OLD, NEW], [], str(corpus))
