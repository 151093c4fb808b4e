"""The study as Markdown: scores with their spread over the seeds; an arm appears once a seed of it is complete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import fmean

from benchmarks.study.cells import REFERENCES, Arm, adapted, plan, raw_mean, tuned
from benchmarks.study.comparisons import (
    Answer,
    Scores,
    answers,
    answers_by_set,
    arm_name,
    questions,
    seeded,
    spread,
)
from benchmarks.study.protocol import ALL_PAIRS
from benchmarks.study.results import missing_sets, state, wanted_sets
from benchmarks.tables import markdown, spaced
from llama2vec.score.report.text import p_value_text

MISSING = "missing"
_ADAPTED = ("ebae", "ebar", "both")


def main_table(scores: Scores, *, all_seeds: bool = False) -> str:
    """Return nDCG@10 of the arms of the main plan: the average, then each set, mean and spread over the seeds.

    Args:
        scores: The scores of one budget.
        all_seeds: Show only arms whose planned seeds are all complete; otherwise one complete seed is enough.
    """
    protocol = scores.protocol
    sets = protocol.sets.retrieval
    rows = [["arm (seeds)", "average", *sets]]
    for arm in main_arms(scores):
        done, planned = _seed_counts(scores, arm, sets)
        if done < (planned if all_seeds else 1):
            continue
        columns = [_mean(list(scores.of(arm, task).values())) for task in sets]
        cells = [_mean(list(scores.average(arm).values()), strong=True), *columns]
        rows.append([f"{arm_name(arm, protocol)} ({done}/{planned})", *(cell.replace(" ±", "<br>±") for cell in cells)])
    over = f"The average goes over {', '.join(protocol.sets.average)}." if protocol.sets.average != sets else ""
    return f"{markdown(rows)}\n\n{' '.join(filter(None, (over, _PLUS_MINUS)))}"


_PLUS_MINUS = "± is the standard deviation over the seeds."


def main_arms(scores: Scores) -> Iterator[Arm]:
    """Yield the arms of the main table: references, then per recipe and stage every adaptation."""
    protocol = scores.protocol
    yield from (Arm(name) for name in REFERENCES)
    yield raw_mean()
    for recipe in protocol.adaptation.recipes:
        yield adapted(protocol, "none", recipe)
        yield from (adapted(protocol, part, recipe) for part in _ADAPTED)
    for recipe in protocol.adaptation.recipes:
        yield from (tuned(adapted(protocol, part, recipe)) for part in ("none", *_ADAPTED))
    yield from (tuned(adapted(protocol, part), "corpus") for part in ("none", "both"))
    yield tuned(raw_mean())


def pairs_table(scores: Scores) -> str:
    """Return Spearman's correlation on sentence pairs, for models without a second stage."""
    protocol = scores.protocol
    rows = [["arm", "seeds", *protocol.sets.sts]]
    for arm in main_arms(scores):
        done, planned = _seed_counts(scores, arm, protocol.sets.sts)
        if arm.stage == "none" and arm.adaptation != "bm25" and done:
            found = [list(scores.of(arm, task, "spearman").values()) for task in protocol.sets.sts]
            rows.append([arm_name(arm, protocol), f"{done}/{planned}", *map(_mean, found)])
    return markdown(rows)


def significance_table(scores: Scores) -> str:
    """Return the paired tests of the study's questions, where both arms are there."""
    found = [answer for answer in answers(scores, questions(scores.protocol)) if answer.test]
    rows = [["from", "to", "seeds", *_TEST_COLUMNS]]
    for answer in found:
        names = [arm_name(arm, scores.protocol) for arm in (answer.question.first, answer.question.second)]
        rows.append([*names, str(len(answer.seeds)), *_test_cells(answer)])
    return (
        f"{markdown(rows)}\n\nOver {', '.join(scores.protocol.sets.average)}, each set alike; a query's value is its "
        f"mean over the seeds. {_METHOD} the {len(found)} comparisons of this table."
    )


def sets_table(scores: Scores) -> str:
    """Return the paired tests of the first two questions set by set, where both arms are there."""
    parts = []
    for question in questions(scores.protocol)[:2]:
        names = [arm_name(arm, scores.protocol) for arm in (question.first, question.second)]
        rows = [["set", "seeds", *_TEST_COLUMNS]]
        for task, answer in answers_by_set(scores, question).items():
            if answer.test:
                rows.append([task, str(len(answer.seeds)), *_test_cells(answer)])
        if len(rows) > 1:
            parts.append(f"{names[0]} against {names[1]}:\n\n{markdown(rows)}")
    return "\n\n".join([*parts, f"{_METHOD} the sets of one table."])


_TEST_COLUMNS = ("difference", "d_z", "p, t-test", "p, randomized", "win/tie/loss")
_METHOD = "[95 % bootstrap interval]; p is two-sided, paired, and corrected (Holm) over"


def _test_cells(answer: Answer) -> list[str]:
    test = answer.test
    assert test is not None
    effect = "–" if test.effect_size is None else f"{test.effect_size:.2f}"
    return [
        spaced(f"{test.difference:+.3f}", _interval(test.interval, 3)),
        spaced(effect, _interval(test.effect_interval, 2)),
        p_value_text(test.t_p_corrected),
        p_value_text(test.randomization_p_corrected),
        f"{test.wins}/{test.ties}/{test.losses}",
    ]


def steps_points(scores: Scores) -> dict[str, dict[int, Arm]]:
    """Return the curves over adaptation steps: name → steps → arm; 0 steps is the raw model."""
    protocol = scores.protocol
    steps = sorted({protocol.plan.steps, *protocol.plan.steps_curve})
    arms = {one: adapted(protocol, "both", steps=one) for one in steps}
    return {
        "no labels": {0: raw_mean(), **arms},
        "fine-tuned on labels": {0: tuned(adapted(protocol, "none")), **{one: tuned(arm) for one, arm in arms.items()}},
    }


def labels_points(scores: Scores) -> dict[str, dict[int, Arm]]:
    """Return the curves over labeled pairs: name → pairs → arm; 0 pairs is the model without a second stage."""
    protocol = scores.protocol
    counts = [*sorted(protocol.plan.pairs_curve), ALL_PAIRS]
    starts = {"raw": (raw_mean(), adapted(protocol, "none")), "adapted": (adapted(protocol, "both"),) * 2}
    return {
        name: {0: zero, **{count: tuned(start, pairs=count) for count in counts}}
        for name, (zero, start) in starts.items()
    }


def _curve_table(scores: Scores, what: str, curves: dict[str, dict[int, Arm]]) -> str:
    points = next(iter(curves.values()))
    rows = [[what, *("all" if point == ALL_PAIRS else f"{point:,}" for point in points)]]
    for name, arms in curves.items():
        rows.append([name, *(_mean(list(scores.average(arm).values())) for arm in arms.values())])
    return f"{markdown(rows)}\n\nnDCG@10, average over {', '.join(scores.protocol.sets.average)}. {_PLUS_MINUS}"


def steps_table(scores: Scores) -> str:
    """Return the learning curve over adaptation steps, EBAE and EBAR together."""
    return _curve_table(scores, "adaptation steps", steps_points(scores))


def labels_table(scores: Scores) -> str:
    """Return the learning curve over labeled pairs."""
    return _curve_table(scores, "labeled pairs", labels_points(scores))


def cost_table(scores: Scores) -> str:
    """Return the mean minutes of the trainings, by arm and machine."""
    rows = [["training", "steps", "minutes", "machine"]]
    found: dict[tuple[str, int, str], list[float]] = {}
    for arm, by_seed in scores.by_arm.items():
        for record in by_seed.values():
            for stage, facts in record["training"].items():
                one = arm.start if stage == "adapt" else arm
                machine = f"{facts['machine'].get('processor')}, {facts['machine'].get('cores')} cores"
                key = (f"{stage}: {arm_name(one, scores.protocol)}", facts["steps"], machine)
                found.setdefault(key, []).append(facts["seconds"] / 60)
    rows += [
        [name, str(steps), f"{fmean(values):.1f}", machine] for (name, steps, machine), values in sorted(found.items())
    ]
    return markdown(rows) if found else "No training is in the results."


def coverage_table(scores: Scores) -> str:
    """Return how much of the plan has run, arm by arm."""
    protocol, results = scores.protocol, scores.results
    cells = plan(protocol)
    states = Counter(state(results, protocol, cell) for cell in cells)
    whole = ", ".join(f"{count} {'in part' if ' of ' in name else name}" for name, count in sorted(states.items()))
    rows = [["arm", "seeds done", "seeds wanted", "sets missing"]]
    for arm in dict.fromkeys(cell.arm for cell in cells):
        wanted = seeded(arm, protocol)
        lacking = [missing_sets(results, protocol, cell) for cell in wanted]
        done = sum(not names for names in lacking)
        untouched = all(state(results, protocol, cell) == "missing" for cell in wanted)
        some = [name for name in wanted_sets(protocol, wanted[0]) if any(name in names for names in lacking)]
        rows.append(
            [arm_name(arm, protocol), str(done), str(len(wanted)), "all" if untouched else ", ".join(some) or "–"]
        )
    return f"Cells: {whole}.\n\n{markdown(rows)}"


TABLES: dict[str, tuple[str, Callable[[Scores], str]]] = {
    "finished": ("What each finished arm reaches (nDCG@10)", partial(main_table, all_seeds=True)),
    "main": ("What each arm reaches, unfinished ones included (nDCG@10)", main_table),
    "significance": ("Paired tests", significance_table),
    "sets": ("The main differences, set by set", sets_table),
    "sts": ("Sentence pairs (Spearman)", pairs_table),
    "steps": ("Over adaptation steps", steps_table),
    "labels": ("Over labeled pairs", labels_table),
    "cost": ("What the trainings took", cost_table),
    "coverage": ("What has run and what is missing", coverage_table),
}
"""Name → heading and maker of every table."""


def page(scores: Scores, command: str, pictures: Sequence[str] = ()) -> str:
    """Return all tables of a budget as one Markdown page.

    Args:
        scores: The scores of the budget.
        command: The command that made the page.
        pictures: Paths of the curves, relative to the page.
    """
    parts = [f"{HEADER} by `{command}`; do not edit. -->", f"# The study, budget `{scores.protocol.name}`"]
    parts.append("Arms that have not run are in the last table only.")
    for heading, table in TABLES.values():
        parts += [f"## {heading}", table(scores)]
    parts += [f"![{path}]({path})" for path in pictures]
    return "\n\n".join(parts) + "\n"


HEADER = "<!-- Written"


def _seed_counts(scores: Scores, arm: Arm, sets: Sequence[str]) -> tuple[int, int]:
    """Return how many seeds have every one of the sets, and how many are planned."""
    done = set.intersection(*(set(scores.seeds(arm, task)) for task in sets)) if sets else ()
    return len(done), len(seeded(arm, scores.protocol))


def _mean(values: Sequence[float], *, strong: bool = False) -> str:
    if not values:
        return MISSING
    apart = spread(values)
    text = f"{fmean(values):.3f}"
    text = f"**{text}**" if strong else text
    return text if apart is None else f"{text} ± {apart:.3f}"


def _interval(bounds: tuple[float, float] | None, digits: int) -> str:
    return f"[{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]" if bounds else ""
