"""How long the texts of a run are is known from a sample of them, read once."""

from __future__ import annotations

import json
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
    queries, passages = found.pairs
    assert queries.total == passages.total > 24
    assert 0 < queries.mean(999, 0) < passages.mean(999, 0) * 2
    assert found.negatives() == 0
    assert found.pairs is found.pairs


def sampled(llama_folder: Path, *overrides: str) -> Samples:
    return Samples(load_config(RunConfig, None, [f"model.name={llama_folder}", *overrides]))


def corpus_of(path: Path, texts: list[str]) -> Path:
    rows = (json.dumps({"_id": f"d{number}-0", "text": text}) for number, text in enumerate(texts))
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def test_a_limit_counts_once_and_over_what_was_read(llama_folder: Path, tmp_path: Path, sentences: list[str]) -> None:
    texts = [" ".join(sentences[at % 20 : at % 20 + 3]) for at in range(600)]
    corpus = corpus_of(tmp_path / "corpus.jsonl", texts)
    base = [f"corpus={corpus}", "pairs.from_corpus.kinds={title=0, first_sentence=0, halves=1, crop=0}"]
    whole = sampled(llama_folder, *base).pairs[0].total
    assert whole == 600
    for limit in (10, 300, 600, 900):
        found = sampled(llama_folder, *base, f"pairs.from_corpus.limit={limit}")
        assert found.pairs[0].total == min(limit, 600)
        assert f"{corpus}: 1.0 pairs per passage (from 512 passages spread over the corpus)" in found.notes


def test_pairs_are_looked_for_all_over_the_corpus_and_none_in_the_sample_is_a_note(
    llama_folder: Path, tmp_path: Path, sentences: list[str]
) -> None:
    late = corpus_of(tmp_path / "late.jsonl", ["Short."] * 700 + [" ".join(sentences[:3])] * 300)
    assert 200 < sampled(llama_folder, f"corpus={late}", "pairs.from_corpus=true").pairs[0].total < 1500
    none = corpus_of(tmp_path / "none.jsonl", ["Short."] * 700)
    found = sampled(llama_folder, f"corpus={none}", "pairs.from_corpus=true")
    assert found.pairs[0].total == found.negatives() == 0
    assert f"{none}: no pair in 512 passages spread over the corpus; its pairs are not counted" in found.notes


def labeled(path: Path, count: int, text: str, negatives: int) -> Path:
    row = json.dumps({"query": text, "pos": [f"The {text}"], "neg": [f"A {number}" for number in range(negatives)]})
    path.write_text(f"{row}\n" * count, encoding="utf-8")
    return path


def test_a_source_weighs_as_much_as_it_holds(llama_folder: Path, tmp_path: Path) -> None:
    small, large = labeled(tmp_path / "a.jsonl", 10, "river " * 9, 6), labeled(tmp_path / "b.jsonl", 990, "river", 0)
    found = sampled(llama_folder, f'pairs.sources=["{small}", "{large}"]')
    queries, passages = found.pairs
    assert queries.total == passages.total == 1000
    alone = [sampled(llama_folder, f'pairs.sources=["{one}"]').pairs[0].mean(999, 0) for one in (small, large)]
    assert queries.mean(999, 0) == pytest.approx(0.01 * alone[0] + 0.99 * alone[1])
    assert (found.negatives(), found.negatives(2)) == (pytest.approx(0.06), pytest.approx(0.02))
    assert queries.drawn(300, 999, 0).count(round(alone[0])) < 20


def test_local_files_are_counted_to_their_end_and_others_at_least(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "_MOST_EXAMPLES", 300)
    rows = labeled(tmp_path / "a.jsonl", 700, "river", 0)
    found = sampled(llama_folder, f'pairs.sources=["{rows}"]')
    assert (found.pairs[0].total, found.notes[-1]) == (700, f"{rows}: 700 labeled queries")
    limited = sampled(llama_folder, f'pairs.sources=[{{source="{rows}", limit=400}}]')
    assert limited.pairs[0].total == 400
    monkeypatch.setattr(samples, "count_examples", lambda *_, **__: None)
    remote = sampled(llama_folder, f'pairs.sources=["{rows}"]')
    assert (remote.pairs[0].total, remote.notes[-1]) == (300, f"{rows}: at least 300 labeled queries")


def test_the_passages_of_examples_are_their_positives_and_negatives(llama_folder: Path, tmp_path: Path) -> None:
    rows = labeled(tmp_path / "a.jsonl", 30, "river", 3)
    passages = sampled(llama_folder, f'pairs.sources=["{rows}"]').passages_of("01-a.jsonl")
    assert passages.total == 120
    assert passages.bytes > 0
