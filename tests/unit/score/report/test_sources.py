"""Folders of several seeds among what a report reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made_results import NEW, OLD, make_report, write_seeds

from llama2vec.errors import DataError
from llama2vec.score.report.content import build_content
from llama2vec.score.report.page import render_page
from llama2vec.score.report.sources import Sources, read_sources, seed_folders

NAMES = ["adapted (seed 0)", "bm25 (seed 0)", "adapted (seed 1)", "bm25 (seed 1)"]


def systems(sources: Sources) -> list[str]:
    return [one.report.system for one in sources.evaluations]


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    return write_seeds(tmp_path / "runs", {0: {"adapted": NEW, "bm25": OLD}, 1: {"adapted": OLD, "bm25": OLD}})


def test_a_folder_of_seeds_gives_each_training_and_system_and_the_table(seeds: Path) -> None:
    sources = read_sources([seeds])
    assert systems(sources) == NAMES
    assert [training.where for training in sources.trainings] == [f"{seeds}/seed-{seed}/adapted" for seed in (0, 1)]
    page = render_page(build_content(sources))
    for part in ("adapted (seed 1)", "run, 2 seeds; std: standard deviation", '<th scope="row">adapted: nDCG@10</th>'):
        assert part in page, part
    assert "0.125" in page


def test_seeds_that_are_named_one_by_one_have_their_seed_in_their_names(seeds: Path) -> None:
    sources = read_sources([seeds / "seed-0", seeds / "seed-1"])
    assert systems(sources) == NAMES
    assert len(build_content(sources).systems) == 4
    assert systems(read_sources([seeds / "seed-1"])) == ["adapted", "bm25"]


def test_scores_of_seeds_without_a_table_are_read_too(tmp_path: Path, evaluation: Callable[..., Path]) -> None:
    for seed in (2, 10):
        evaluation(f"scores/seed-{seed}", make_report("tuned", OLD))
    assert [*seed_folders(tmp_path / "scores")] == [2, 10]
    assert systems(read_sources([tmp_path / "scores"])) == ["tuned (seed 2)", "tuned (seed 10)"]


def test_a_seed_that_is_gone_or_a_broken_table_is_named(seeds: Path) -> None:
    (seeds / "seed-1").rename(seeds / "elsewhere")
    with pytest.raises(DataError, match=r"has no seed-1, which seeds\.json names"):
        read_sources([seeds])
    (seeds / "seeds.json").write_text('{"format": "llama2vec-seeds"}', encoding="utf-8")
    with pytest.raises(DataError, match=r"seeds\.json is damaged"):
        read_sources([seeds])
