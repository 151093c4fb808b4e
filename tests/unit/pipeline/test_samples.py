"""How long the texts of a run are is known from a sample of them, read once."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama2vec.config import load_config
from llama2vec.pipeline import samples
from llama2vec.pipeline.samples import Lengths, Samples
from llama2vec.pipeline.settings import RunConfig


@pytest.fixture
def found(llama_folder: Path, corpus_file: Path) -> Samples:
    overrides = [f"model.name={llama_folder}", f"corpus={corpus_file}", "pairs.from_corpus=true"]
    return Samples(load_config(RunConfig, None, overrides))


def test_lengths_are_cut_and_have_a_prompt() -> None:
    lengths = Lengths([2, 4, 12], 3)
    assert lengths.mean(10, 3) == pytest.approx((2 + 4 + 10) / 3 + 3)
    assert set(lengths.drawn(50, 10, 3)) == {5, 7, 13}
    assert lengths.drawn(5, 10, 3) == lengths.drawn(9, 10, 3)[:5]
    assert (Lengths([], 0).mean(10, 3), Lengths([], 0).drawn(4, 10, 3)) == (3, [])


def test_a_corpus_is_counted_and_sampled_once(
    found: Samples, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = found.corpus(str(corpus_file))
    assert lengths.total == len(lengths.tokens) == 24
    assert found.notes == [
        f"{corpus_file}: 24 passages, {lengths.mean(999, 0):.0f} tokens each (mean of 24 from the first 24)"
    ]
    monkeypatch.setattr(samples, "read_passages", lambda *_, **__: pytest.fail("reads again"))
    assert found.corpus(str(corpus_file)) is lengths


def test_pairs_are_those_that_the_corpus_gives(found: Samples) -> None:
    queries, passages = found.pairs()
    assert queries.total == passages.total > 24
    assert 0 < queries.mean(999, 0) < passages.mean(999, 0) * 2
    assert set(found.negatives) == {0}
    assert found.pairs() is found.pairs()
