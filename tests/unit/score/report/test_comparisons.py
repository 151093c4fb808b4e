import io
import json
from pathlib import Path

import numpy as np
import pytest
from compared import NEW, OLD, OTHER, QRELS, compare_one, report
from rich.console import Console

from llama2vec.data.trec import write_run
from llama2vec.errors import EvaluationError
from llama2vec.records import Query, Run
from llama2vec.score.comparison import Comparison, compare_reports
from llama2vec.score.report.comparisons import (
    check_same_corpus,
    read_named_runs,
    task_of,
    terminal_comparison,
    with_texts,
)


def terminal(comparison: Comparison) -> str:
    stream = io.StringIO()
    Console(file=stream, width=150, highlight=False).print(terminal_comparison(comparison))
    return stream.getvalue()


def test_the_terminal_shows_tests_verdicts_and_changed_queries() -> None:
    comparison = compare_one([OLD, NEW, OTHER], QRELS, metric="MRR@10", task="tiny [x]")
    text = terminal(comparison)
    (pair, _) = comparison.pairs
    for part in (
        "tiny [x] · MRR@10 · 6 judged queries",
        "new − old",
        f"+0.050 [{pair.interval[0]:.3f}, {pair.interval[1]:.3f}]",
        f"{pair.randomization_p_corrected:.4f}",
        "3/1/2",
        "after Holm over the 2 pairs",
        "every sign pattern",
        "No difference is shown between new and old",
        "with 80 % power",
        "+0.750  q2  (0.250 → 1.000)",
        "old 1. other1 (not judged)",
        "new 1. good (gain 2)",
        "new: returned nothing",
    ):
        assert part in text, part


def test_the_verdict_names_the_better_system_whichever_comes_first() -> None:
    draw = np.random.default_rng(2)
    low, high = list(draw.random(30) / 10), list(draw.random(30) / 10 + 0.5)
    for values in ((low, high), (high, low)):
        reports = [report("t", name, numbers) for name, numbers in zip("ab", values, strict=True)]
        better = "b is better than a" if values[0] is low else "a is better than b"
        text = terminal(compare_reports(reports, metric="AP"))
        assert f"{better} by 0.5" in text
        assert "100,000 random sign patterns" in text
        assert "Holm" not in text
    same = [report("t", name, [0.1, 0.2]) for name in "ab"]
    assert "b and a score the same on every query." in terminal(compare_reports(same, metric="AP"))


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
