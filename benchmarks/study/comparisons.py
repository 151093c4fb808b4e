"""Which arm is better: paired tests over queries, each query averaged over the seeds first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

from benchmarks.study.cells import REFERENCES, Arm, Cell, adapted, cell_of, raw_mean, tuned
from benchmarks.study.protocol import Protocol
from benchmarks.study.results import Results
from benchmarks.study.sets import MEASURE
from llama2vec.records import Report
from llama2vec.score.comparison import PairedTest, compare_reports, corrected, pooled_comparison


class Scores:
    """The scores of one budget, by arm, set and seed."""

    def __init__(self, results: Results, protocol: Protocol) -> None:
        self.results, self.protocol = results, protocol

    @cached_property
    def by_arm(self) -> dict[Arm, dict[int, Mapping[str, Any]]]:
        """Arm → seed → what the results file holds."""
        found: dict[Arm, dict[int, Mapping[str, Any]]] = {}
        for key, record in self.results["cells"].get(self.protocol.name, {}).items():
            cell = cell_of(key)
            found.setdefault(cell.arm, {})[cell.seed] = record
        return found

    def seeds(self, arm: Arm, task: str) -> list[int]:
        """Return the seeds with which an arm was scored on a set."""
        return sorted(seed for seed, record in self.by_arm.get(arm, {}).items() if task in record["scores"])

    def of(self, arm: Arm, task: str, field: str = MEASURE) -> dict[int, Any]:
        """Return seed → one field of an arm's score on a set."""
        return {seed: self.by_arm[arm][seed]["scores"][task][field] for seed in self.seeds(arm, task)}

    def average(self, arm: Arm) -> dict[int, float]:
        """Return seed → mean over the budget's sets, for the seeds that have them all."""
        sets = self.protocol.sets.average
        by_set = [self.of(arm, task) for task in sets]
        common = set(by_set[0]).intersection(*by_set[1:])
        return {seed: fmean(one[seed] for one in by_set) for seed in sorted(common)}

    def report(self, arm: Arm, task: str, seeds: Sequence[int]) -> Report:
        """Return an arm's values per query on a set, each the mean over the seeds."""
        names = self.results["sets"][self.protocol.name][task]["queries"]
        lists = [self.of(arm, task, "values")[seed] for seed in seeds]
        values = {name: fmean(one) for name, *one in zip(names, *lists, strict=True)}
        return Report(task, arm_name(arm, self.protocol), {}, per_query={MEASURE: values})


def arm_name(arm: Arm, protocol: Protocol) -> str:
    """Name an arm for a table, without the budget's default settings."""
    if arm.is_reference:
        return {"bm25": "BM25", "minilm": "all-MiniLM-L6-v2"}[arm.adaptation]
    names = {"none": "raw", "ebae": "EBAE", "ebar": "EBAR", "both": "EBAE + EBAR"}
    parts = [names[arm.adaptation]]
    if arm.pooling == "mean":
        parts.append("mean pooling")
    elif not arm.is_trained:
        parts.append("prompted")
    if arm.recipe != "paper":
        parts.append(f"`{arm.recipe}`")
    if arm.adaptation != "none" and arm.steps != protocol.plan.steps:
        parts.append(f"{arm.steps} steps")
    if arm.stage == "none":
        return ", ".join(parts)
    pairs = f"{arm.pairs:,} labels" if arm.pairs > 0 else "labels"
    return f"{', '.join(parts)} → {pairs if arm.stage == 'labels' else 'corpus pairs'}"


@dataclass(frozen=True)
class Question:
    """Two arms to compare: does the second gain over the first?"""

    first: Arm
    second: Arm


@dataclass(frozen=True)
class Answer:
    """The result of a paired test.

    Attributes:
        question: The arms.
        test: The test; None where a set or an arm is missing.
        seeds: The seeds that were averaged; both arms' own where both are trained.
    """

    question: Question
    test: PairedTest | None = None
    seeds: tuple[int, ...] = ()


def questions(protocol: Protocol) -> list[Question]:
    """Return the family of comparisons, the main question first."""
    both, none = adapted(protocol, "both"), adapted(protocol, "none")
    bm25, minilm = (Arm(name) for name in REFERENCES)
    pairs = [
        (tuned(none), tuned(both)),
        (raw_mean(), both),
        (bm25, both),
        (bm25, tuned(both)),
        (minilm, tuned(both)),
        (tuned(none, "corpus"), tuned(both, "corpus")),
        (bm25, tuned(both, "corpus")),
    ]
    for part in ("ebae", "ebar"):
        one = adapted(protocol, part)
        pairs += [(one, both), (tuned(one), tuned(both))]
    for recipe in [name for name in protocol.adaptation.recipes if name != "paper"]:
        other, none_other = adapted(protocol, "both", recipe), adapted(protocol, "none", recipe)
        pairs += [(both, other), (tuned(both), tuned(other)), (tuned(none_other), tuned(other))]
    pairs.append((tuned(raw_mean()), tuned(both)))
    return [Question(*pair) for pair in pairs]


def answers(scores: Scores, asked: Sequence[Question], sets: Sequence[str] | None = None) -> list[Answer]:
    """Test each question over several sets at once, every set alike; Holm corrects over those that have an answer.

    Args:
        scores: The scores of one budget.
        asked: The family.
        sets: The sets to test over; None = those that the budget averages.
    """
    return _corrected([_answer(scores, question, sets or scores.protocol.sets.average) for question in asked])


def answers_by_set(scores: Scores, question: Question) -> dict[str, Answer]:
    """Test one question on each set separately; Holm's correction goes over the sets."""
    sets = scores.protocol.sets.retrieval
    found = _corrected([_answer(scores, question, [task]) for task in sets])
    return dict(zip(sets, found, strict=True))


def _answer(scores: Scores, question: Question, sets: Sequence[str]) -> Answer:
    arms = (question.first, question.second)
    # Match seeds where both arms have them: a seed means the same pairs in the same order of batches.
    trained = [arm for arm in arms if arm.is_trained]
    common = [set(scores.seeds(arm, task)) for arm in trained for task in sets]
    seeds = tuple(sorted(set.intersection(*common))) if common else ()
    by_arm = {arm: seeds if arm.is_trained else (0,) for arm in arms}
    if any(not by_arm[arm] or not set(by_arm[arm]) <= set(scores.seeds(arm, task)) for arm in arms for task in sets):
        return Answer(question)
    each = [compare_reports([scores.report(arm, task, by_arm[arm]) for arm in arms], metric=MEASURE) for task in sets]
    return Answer(question, pooled_comparison(each).pairs[0], seeds)


def _corrected(found: Sequence[Answer]) -> list[Answer]:
    tests = iter(corrected([answer.test for answer in found if answer.test is not None]))
    return [answer if answer.test is None else replace(answer, test=next(tests)) for answer in found]


def spread(values: Sequence[float]) -> float | None:
    """Return the standard deviation over seeds; None for a single seed."""
    return stdev(values) if len(values) > 1 else None


def seeded(arm: Arm, protocol: Protocol) -> list[Cell]:
    """Return an arm's cells: one for each seed where training draws anything."""
    return [Cell(arm, seed) for seed in (protocol.plan.seeds if arm.is_trained else [0])]
