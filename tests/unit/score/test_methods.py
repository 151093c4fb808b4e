"""Methods compared over their seeds."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, stdev

import pytest
from made_results import NEW, OLD, make_report, write_evaluation, write_seeds
from scipy import stats

from llama2vec.errors import ConfigError, EvaluationError
from llama2vec.score.comparison import ComparisonOptions
from llama2vec.score.methods import compare_methods, method_folder, read_method

LOW = [value / 2 for value in OLD]
OPTIONS = ComparisonOptions()


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return write_seeds(tmp_path / "first", {0: {"adapted": OLD, "bm25": LOW}, 1: {"adapted": LOW, "bm25": LOW}})


@pytest.fixture
def second(tmp_path: Path) -> Path:
    return write_seeds(tmp_path / "second", {seed: {"adapted": NEW, "bm25": LOW} for seed in (0, 1, 2)})


def test_every_query_counts_with_its_mean_over_the_seeds(
    first: Path, second: Path, caplog: pytest.LogCaptureFixture
) -> None:
    methods = [read_method(first), read_method(second)]
    [found] = compare_methods(methods, options=OPTIONS)
    means = [fmean(pair) for pair in zip(OLD, LOW, strict=True)]
    assert [*found.per_query[f"{first}:adapted"].values()] == pytest.approx(means)
    assert found.systems == pytest.approx({f"{first}:adapted": fmean(means), f"{second}:adapted": fmean(NEW)})
    assert found.pairs[0].t_p == pytest.approx(stats.ttest_rel(NEW, means).pvalue)
    assert found.settings["seeds"] == {f"{first}:adapted": 2, f"{second}:adapted": 2}
    assert found.settings["deviations"][f"{first}:adapted"] == pytest.approx(stdev([fmean(OLD), fmean(LOW)]))
    assert "left out seed 2, which not every method has" in caplog.text


def test_a_method_is_one_system_of_its_folder_and_may_have_no_seeds(first: Path, tmp_path: Path) -> None:
    plain = write_evaluation(tmp_path / "plain", make_report("other", NEW))
    assert method_folder(f"{first}:bm25") == (first, "bm25")
    assert (method_folder(str(first)), method_folder("x.trec")) == ((first, ""), None)
    [found] = compare_methods([read_method(first, "bm25"), read_method(plain)], metrics=["nDCG@10"], options=OPTIONS)
    assert found.systems == pytest.approx({f"{first}:bm25": fmean(LOW), str(plain): fmean(NEW)})
    assert found.settings["deviations"] == {f"{first}:bm25": 0.0, str(plain): None}


def test_folders_of_scores_may_name_each_seeds_system_after_its_own_folder(tmp_path: Path) -> None:
    for seed, values in enumerate((OLD, NEW)):
        write_evaluation(tmp_path / "scores" / f"seed-{seed}", make_report(f"runs/seed-{seed}", values))
    method = read_method(tmp_path / "scores")
    assert (method.name, [*method.seeds]) == (str(tmp_path / "scores"), [0, 1])


def test_what_cannot_be_compared_is_named(first: Path, second: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed-0 holds no results of hybrid; there are: adapted, bm25"):
        read_method(first, "hybrid")
    bare = write_evaluation(tmp_path / "two", make_report("a", OLD), make_report("b", NEW, task="other"))
    with pytest.raises(ConfigError, match=r"holds several systems \(a, b\); name one, as .*two:SYSTEM"):
        read_method(bare)
    with pytest.raises(ConfigError, match="seed-0/adapted holds no scores; score it with `llama2vec evaluate"):
        read_method(first / "seed-0" / "adapted")
    methods = [read_method(first), read_method(second)]
    with pytest.raises(ConfigError, match="is given twice; compare two different methods"):
        compare_methods([methods[0], methods[0]], options=OPTIONS)
    with pytest.raises(ConfigError, match="not every folder holds scores of other; scored in all: tiny/test"):
        compare_methods(methods, task="other", options=OPTIONS)
    with pytest.raises(EvaluationError, match="adapted has no values per query of 'AP'"):
        compare_methods(methods, metrics=["AP"], options=OPTIONS)
    third = write_seeds(tmp_path / "third", {7: {"adapted": OLD}})
    with pytest.raises(ConfigError, match="have no seed in common"):
        compare_methods([methods[0], read_method(third)], options=OPTIONS)
    write_evaluation(first / "seed-1" / "report" / "adapted", make_report("adapted", OLD, corpus_fingerprint="other"))
    with pytest.raises(EvaluationError, match="were made on different corpora"):
        compare_methods([read_method(first), methods[1]], options=OPTIONS)


def test_a_seed_that_left_the_table_is_left_out(second: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = json.loads((second / "seeds.json").read_text(encoding="utf-8"))
    (second / "seeds.json").write_text(json.dumps({**table, "seeds": [1, 2]}), encoding="utf-8")
    assert [*read_method(second).seeds] == [1, 2]
    assert "left out seed 0, which seeds.json does not name" in caplog.text


def test_results_of_which_some_count_a_querys_own_passage_are_not_compared(tmp_path: Path) -> None:
    folders = [
        write_evaluation(tmp_path / str(choice), make_report("bm25", values, exclude_same_id=choice))
        for choice, values in ((True, OLD), (False, NEW))
    ]
    with pytest.raises(EvaluationError, match=r"exclude_same_id=true.*\(false\) were scored differently"):
        compare_methods([read_method(folder) for folder in folders], options=OPTIONS)
