"""A teacher's scores beside the rows, and candidates that it refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from made_examples import OPEN
from pair_models import save_cross_encoder

from llama2vec.data.examples.labeled import read_examples
from llama2vec.errors import ConfigError, OutputExistsError
from llama2vec.integrations.pair_scorer import PairScorer
from llama2vec.mine.candidates import Bm25Searcher
from llama2vec.mine.mining import MiningInputs, MiningResult, mine, mine_to_file
from llama2vec.records import Passage, TrainingExample


class WordTeacher:
    """Scores a passage by its length in letters, and remembers what it read."""

    def __init__(self) -> None:
        self.read: list[tuple[str, str]] = []

    def score(self, text: str) -> float:
        return len(text) / 100

    def scores(self, queries: Sequence[str], passages: Sequence[Sequence[str]]) -> list[list[float]]:
        self.read += [(query, text) for query, texts in zip(queries, passages, strict=True) for text in texts]
        return [[self.score(text) for text in texts] for texts in passages]


def mined(
    examples: list[TrainingExample], corpus: list[Passage], teacher: WordTeacher | None, **changes: Any
) -> MiningResult:
    named = {"teacher": "words"} if teacher else {}
    settings = OPEN.model_copy(update={**named, **changes})
    return mine(examples, corpus, [Bm25Searcher(corpus)], settings, teacher)


@pytest.mark.parametrize("choose", ["top", "sample"])
def test_without_a_bound_the_negatives_stay_the_same_and_get_scores(
    choose: str, examples: list[TrainingExample], corpus: list[Passage]
) -> None:
    teacher = WordTeacher()
    plain, scored = (
        mined(examples, corpus, one, choose=choose, teacher_share_of_positive=0) for one in (None, teacher)
    )
    assert [row.negatives for row in scored.examples] == [row.negatives for row in plain.examples]
    assert all(not row.positive_scores for row in plain.examples)
    for row in scored.examples:
        assert row.positive_scores == tuple(map(teacher.score, row.positives))
        assert row.negative_scores == tuple(map(teacher.score, row.negatives))
    assert len(teacher.read) == sum(len(row.positives) + len(row.negatives) for row in scored.examples)


@pytest.mark.parametrize("choose", ["top", "sample"])
def test_what_the_teacher_refuses_gives_its_place_to_the_next_in_order(
    choose: str, examples: list[TrainingExample], corpus: list[Passage]
) -> None:
    share = 0.9
    everything = mined(examples, corpus, None, choose=choose, negatives=50)
    found = mined(examples, corpus, WordTeacher(), choose=choose, teacher_share_of_positive=share)
    removed = 0
    for row, all_of_row in zip(found.examples, everything.examples, strict=True):
        bound = share * min(len(text) for text in row.positives)
        allowed = [text for text in all_of_row.negatives if len(text) <= bound]
        removed += len(allowed) < len(all_of_row.negatives)
        assert all(len(text) <= bound for text in row.negatives)
        assert len(row.negatives) == min(3, len(allowed))
        if choose == "top":
            assert list(row.negatives) == allowed[:3]
    assert removed
    entry = found.report.to_dict()["removed"]["teacher_too_close"]
    assert 0 < entry["queries"] <= len(examples) <= entry["candidates"] + len(examples)
    example = entry["examples"][0]
    assert example["teacher_score"] > share * example["least_positive_teacher_score"]


def test_a_query_whose_candidates_are_all_refused_comes_short(
    examples: list[TrainingExample], corpus: list[Passage]
) -> None:
    found = mined(examples, corpus, WordTeacher(), teacher_share_of_positive=0.01)
    assert [row.negatives for row in found.examples] == [()] * len(examples)
    assert found.report.short == len(examples)


def test_kept_negatives_are_scored_and_stay(examples: list[TrainingExample], corpus: list[Passage]) -> None:
    long = "a kept negative " * 20
    rows = [TrainingExample(one.query, one.positives, (long,), query_id=one.query_id) for one in examples]
    found = mined(rows, corpus, WordTeacher(), keep_existing=True)
    for row in found.examples:
        assert row.negatives[0] == long
        assert row.negative_scores[0] == len(long) / 100
        assert len(row.negative_scores) == len(row.negatives)


class StoppingTeacher(WordTeacher):
    """Is interrupted after some calls."""

    name, fingerprint, facts = "words", "f" * 64, {"kind": "words"}

    def __init__(self, calls: int = 99) -> None:
        super().__init__()
        self.calls = calls

    def scores(self, queries: Sequence[str], passages: Sequence[Sequence[str]]) -> list[list[float]]:
        if not self.calls:
            raise KeyboardInterrupt
        self.calls -= 1
        return super().scores(queries, passages)

    def warn_of_cut_texts(self) -> None: ...


def test_a_mining_killed_while_its_teacher_judges_asks_it_only_for_the_rest(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama2vec.mine.mining._TEACHER_BATCH", 2)
    output, settings = files["output"], OPEN.model_copy(update={"teacher": "words"})

    def run(teacher: StoppingTeacher) -> StoppingTeacher:
        inputs = MiningInputs(str(files["pairs"]), corpus=str(files["corpus"]), teacher=teacher)  # type: ignore[arg-type]
        mine_to_file(inputs, output, settings)
        return teacher

    whole, expected = run(StoppingTeacher()), output.read_bytes()
    output.unlink()
    first = StoppingTeacher(calls=3)
    with pytest.raises(KeyboardInterrupt):
        run(first)
    rest = run(StoppingTeacher())
    assert first.read + rest.read == whole.read
    assert output.read_bytes() == expected
    assert list(output.parent.glob("*.scores-*")) == []


def test_from_file_to_file_with_a_cross_encoder(
    files: dict[str, Path], make_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    folder = save_cross_encoder(make_tokenizer(), tmp_path / "cross")
    settings = OPEN.model_copy(update={"teacher": str(folder), "teacher_share_of_positive": 0.0})

    def run(settings: Any, teacher: PairScorer | None) -> Any:
        inputs = MiningInputs(str(files["pairs"]), corpus=str(files["corpus"]), teacher=teacher)
        return mine_to_file(inputs, files["output"], settings)

    with pytest.raises(ConfigError, match="belong together"):
        run(settings, None)
    report = run(settings, PairScorer(str(folder), "cpu"))
    assert report.facts["teacher"] == {"kind": "cross-encoder", "pairs": 24, "cut": 24, "cut_queries": 0}
    rows = list(read_examples(files["output"]))
    again = PairScorer(str(folder), "cpu")
    for row in rows:
        expected = again.scores([row.query], [[*row.positives, *row.negatives]])[0]
        assert [*row.positive_scores, *row.negative_scores] == pytest.approx(expected.tolist(), abs=1e-4)
    moved = tmp_path / "moved"
    folder.rename(moved)
    assert run(settings.model_copy(update={"teacher": str(moved)}), PairScorer(str(moved), "cpu")) is None
    other = save_cross_encoder(make_tokenizer(), tmp_path / "other", bias=1.0)
    with pytest.raises(OutputExistsError, match="inputs"):
        run(settings, PairScorer(str(other), "cpu"))
