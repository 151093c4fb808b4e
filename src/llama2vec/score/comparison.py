"""Is one system better than another? Runs of the same queries compared query by query."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama2vec.errors import EvaluationError
from llama2vec.records import Qrels, Report, Run
from llama2vec.score.metrics import evaluate_run
from llama2vec.score.paired_tests import (
    Groups,
    detectable_difference,
    effect_size,
    holm,
    mean_difference,
    query_differences,
    randomization_test,
    t_test,
)
from llama2vec.score.significance import SAME, bootstrap_difference
from llama2vec.score.tables import write_json

_FORMAT, _FORMAT_VERSION = "llama2vec-comparison", 1


@dataclass(frozen=True, slots=True)
class PairedTest:
    """What one system gains over another.

    Attributes:
        first: The system compared with, the baseline.
        second: The other.
        difference: Mean of second - first.
        interval: Its 95 % bootstrap interval.
        effect_size: Cohen's d_z; None where every query differs by the same amount.
        effect_interval: Its 95 % bootstrap interval.
        t_p: Two-sided p of the paired t-test; None where every query differs by the same amount.
        randomization_p: Two-sided p of the paired randomization test.
        t_p_corrected: After Holm, over the pairs of the comparison.
        randomization_p_corrected: The same.
        wins: Queries on which second is better, by more than 1e-9.
        ties: Queries without a difference.
        losses: Queries on which first is better.
        changed: (query id, value of first, value of second): those that gained most, then those that lost most.
        detectable_difference: About how big a true difference so many queries would show at p < 0.05 with 80 % power.
        flips: Random sign patterns of the randomization test; None where all patterns were tried.
    """

    first: str
    second: str
    difference: float
    interval: tuple[float, float]
    effect_size: float | None
    effect_interval: tuple[float, float] | None
    t_p: float | None
    randomization_p: float
    t_p_corrected: float | None
    randomization_p_corrected: float
    wins: int
    ties: int
    losses: int
    changed: tuple[tuple[str, float, float], ...] = ()
    detectable_difference: float | None = None
    flips: int | None = None


@dataclass(frozen=True, slots=True)
class ShownPassage:
    """A passage that a run returned near the top.

    Attributes:
        rank: 1 is the best.
        id: The passage's id.
        score: The run's.
        gain: What the judgments say; None = not judged.
        title: Empty where there is none or texts were not looked up.
        snippet: The telling part of the text; empty where texts were not looked up.
    """

    rank: int
    id: str
    score: float
    gain: int | None
    title: str = ""
    snippet: str = ""


@dataclass(frozen=True, slots=True)
class ShownQuery:
    """A query that changed and what each system returned for it.

    Attributes:
        text: The query; empty where texts were not looked up.
        answers: System → its best passages.
    """

    text: str
    answers: Mapping[str, tuple[ShownPassage, ...]]


@dataclass(frozen=True)
class Comparison:
    """Systems compared on one task by one measure.

    Attributes:
        task: What they were evaluated on.
        measure: Such as ``nDCG@10``.
        systems: System → mean over all judged queries.
        per_query: System → query id → value; every system has the same queries.
        pairs: One test per compared pair.
        settings: How it was made: queries, how many of them each run lacks, depths, samples, seed.
        shown: Query id → its text and passages, for the queries in :attr:`PairedTest.changed`.
    """

    task: str
    measure: str
    systems: Mapping[str, float]
    per_query: Mapping[str, Mapping[str, float]]
    pairs: Sequence[PairedTest]
    settings: Mapping[str, Any] = field(default_factory=dict)
    shown: Mapping[str, ShownQuery] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ComparisonOptions:
    """How systems are compared.

    Attributes:
        all_pairs: Every pair instead of the first system against each other one.
        changed: How many queries that gained most, and that lost most, are listed per pair.
        passages: How many passages of each run are shown for them.
        flips: Random sign patterns of the randomization test.
        resamples: Samples of the bootstrap.
        seed: The same seed gives the same numbers.
    """

    all_pairs: bool = False
    changed: int = 5
    passages: int = 2
    flips: int = 100_000
    resamples: int = 2000
    seed: int = 0


_DEFAULTS = ComparisonOptions()


def compare_runs(
    runs: Sequence[Run],
    qrels: Qrels,
    *,
    measure: str = "nDCG@10",
    task: str = "",
    options: ComparisonOptions = _DEFAULTS,
) -> Comparison:
    """Compare what systems returned for the same queries.

    Every judged query counts; a run that lacks one scores 0 there, as in
    :func:`llama2vec.score.metrics.evaluate_run`.

    >>> runs = [Run({"q1": {"b": 2.0, "a": 1.0}, "q2": {"c": 1.0}}, "old"), Run({"q1": {"a": 1.0}, "q2": {}}, "new")]
    >>> pair = compare_runs(runs, {"q1": {"a": 1}, "q2": {"c": 1}}, measure="MRR@10").pairs[0]
    >>> pair.difference, (pair.wins, pair.ties, pair.losses), pair.randomization_p
    (-0.25, (1, 0, 1), 1.0)

    Args:
        runs: Two or more, with tags of their own; the first is the baseline.
        qrels: Relevance judgments.
        measure: As ir_measures writes it.
        task: Name for the result.
        options: Which pairs, how many samples.

    Raises:
        EvaluationError: Fewer than two runs or judged queries, two runs with one tag, runs without a judged query in
            common, or what :func:`llama2vec.score.metrics.evaluate_run` refuses.
        MissingDependencyError: scipy or ir-measures is not installed.
    """
    return compare_measures(runs, qrels, measures=[measure], task=task, options=options)[0]


def compare_measures(
    runs: Sequence[Run],
    qrels: Qrels,
    *,
    measures: Sequence[str],
    task: str = "",
    options: ComparisonOptions = _DEFAULTS,
) -> list[Comparison]:
    """Compare runs as :func:`compare_runs` does, by several measures: a comparison for each."""
    _check_systems([run.tag for run in runs])
    reports = [evaluate_run(run, qrels, task=task, measures=measures) for run in runs]
    judged = {query_id for query_id in qrels if qrels[query_id]}
    for first, second in _pairs(runs, options):
        if not judged & first.results.keys() & second.results.keys():
            names = f"runs {first.tag!r} and {second.tag!r}"
            raise EvaluationError(f"{names} have no judged query in common; compare runs of the same queries")
    facts = {
        "judged_queries": len(judged),
        "unanswered_queries": {report.system: report.settings["unanswered_queries"] for report in reports},
        "depth": {run.tag: max(map(len, run.results.values())) for run in runs},
        "ir_measures": reports[0].settings["ir_measures"],
    }
    found = []
    for measure in measures:
        comparison = compare_reports(reports, measure=measure, options=options)
        shown = _shown_queries(comparison, runs, qrels, options.passages)
        settings = {**facts, **comparison.settings}
        found.append(dataclasses.replace(comparison, settings=settings, shown=shown))
    return found


def compare_reports(
    reports: Sequence[Report], *, measure: str = "nDCG@10", options: ComparisonOptions = _DEFAULTS
) -> Comparison:
    """Compare systems whose values per query are there already.

    Args:
        reports: Two or more of one task, over the same queries; the first is the baseline.
        measure: One that every report has per query.
        options: Which pairs, how many samples.

    Raises:
        EvaluationError: Fewer than two reports or queries, different tasks or queries, two of one system, or a report
            without the measure.
        MissingDependencyError: scipy is not installed.
    """
    _check_systems([report.system for report in reports])
    if len({report.task for report in reports}) > 1:
        tasks = ", ".join(dict.fromkeys(report.task for report in reports))
        raise EvaluationError(f"the reports belong to different tasks ({tasks}); compare one task at a time")
    without = next((report.system for report in reports if measure not in report.per_query), None)
    if without is not None:
        raise EvaluationError(f"the report of '{without}' has no values per query of '{measure}'; evaluate with it")
    queries = sorted(reports[0].per_query[measure])
    if len(queries) < 2:
        raise EvaluationError(f"{len(queries)} judged query is too few to compare systems on; give two or more")
    per_query: dict[str, dict[str, float]] = {}
    for report in reports:
        values = report.per_query[measure]
        if sorted(values) != queries:
            names = f"'{reports[0].system}' and '{report.system}'"
            raise EvaluationError(f"the reports of {names} cover different queries; evaluate both on one qrels file")
        per_query[report.system] = {query_id: values[query_id] for query_id in queries}
    return _compare(reports[0].task, measure, {"": per_query}, list(_pairs(list(per_query), options)), options)


def pooled_comparison(comparisons: Sequence[Comparison], *, options: ComparisonOptions = _DEFAULTS) -> Comparison:
    """Compare systems over several tasks at once: does one win on average?

    What is compared is the mean of the tasks' means: each task counts alike, however many queries it has, and the
    tests are of that mean (:mod:`llama2vec.score.paired_tests`). Queries are named ``task:query``.

    Args:
        comparisons: One per task, of the same systems and pairs by the same measure.
        options: How many samples; the pairs are those of the comparisons.

    Returns:
        A comparison whose ``settings["tasks"]`` holds each task's means.

    Raises:
        EvaluationError: No comparison, one task twice, or systems, pairs or measures that differ.
        MissingDependencyError: scipy is not installed.
    """
    if not comparisons:
        raise EvaluationError("there is no comparison to pool; compare runs on at least one task")
    tasks = [comparison.task for comparison in comparisons]
    twice = next((task for task in tasks if tasks.count(task) > 1), None)
    if twice is not None:
        raise EvaluationError(f"two comparisons are of the task '{twice}'; give each task once")
    pairs = [(pair.first, pair.second) for pair in comparisons[0].pairs]
    for comparison in comparisons[1:]:
        alike = comparison.measure == comparisons[0].measure, set(comparison.systems) == set(comparisons[0].systems)
        if not all(alike) or [(pair.first, pair.second) for pair in comparison.pairs] != pairs:
            what = f"'{tasks[0]}' and '{comparison.task}'"
            raise EvaluationError(f"{what} compare different systems, pairs or measures; compare alike on every task")
    values = {comparison.task: comparison.per_query for comparison in comparisons}
    pooled = _compare(" + ".join(tasks), comparisons[0].measure, values, pairs, options)
    shown = {f"{one.task}:{query_id}": query for one in comparisons for query_id, query in one.shown.items()}
    changed = {query_id for pair in pooled.pairs for query_id, _, _ in pair.changed}
    return dataclasses.replace(
        pooled,
        settings={**pooled.settings, "tasks": {one.task: dict(one.systems) for one in comparisons}},
        shown={query_id: query for query_id, query in shown.items() if query_id in changed},
    )


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain data; :func:`comparison_from_json` gives it back."""
    data = dataclasses.asdict(comparison)
    return {"format": _FORMAT, "version": _FORMAT_VERSION, **data}


def comparison_from_json(data: object) -> Comparison:
    """Return the comparison that :func:`comparison_to_json` wrote.

    Raises:
        EvaluationError: The data are not such a comparison.
    """
    if not isinstance(data, dict) or (data.get("format"), data.get("version")) != (_FORMAT, _FORMAT_VERSION):
        raise EvaluationError(f"this is no {_FORMAT} of version {_FORMAT_VERSION}; give what `llama2vec compare` wrote")
    try:
        return Comparison(
            task=data["task"],
            measure=data["measure"],
            systems=dict(data["systems"]),
            per_query={system: dict(values) for system, values in data["per_query"].items()},
            pairs=[_pair_from_json(pair) for pair in data["pairs"]],
            settings=dict(data["settings"]),
            shown={query_id: _shown_from_json(query) for query_id, query in data["shown"].items()},
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise EvaluationError(
            f"the comparison is damaged ({error!r}); write it again with `llama2vec compare`"
        ) from None


def write_comparisons(path: str | Path, comparisons: Sequence[Comparison], *, overwrite: bool = False) -> None:
    """Write comparisons as JSON: one as :func:`comparison_to_json` has it, several as ``{"comparisons": […]}``.

    Raises:
        OutputExistsError: The file is there already and ``overwrite`` is not given.
        DataError: The file cannot be written.
    """
    data = [comparison_to_json(one) for one in comparisons]
    write_json(path, data[0] if len(data) == 1 else {"comparisons": data}, overwrite=overwrite)


def read_comparisons(path: str | Path) -> list[Comparison]:
    """Return the comparisons that :func:`write_comparisons` wrote.

    Raises:
        EvaluationError: No such file, or one that holds something else.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read ({error.strerror}); check the path") from None
    except ValueError:
        data = None
    several = data.get("comparisons") if isinstance(data, dict) else None
    try:
        return [comparison_from_json(one) for one in (several if isinstance(several, list) else [data])]
    except EvaluationError as error:
        raise EvaluationError(f"{path}: {error}") from None


# --------------------------------------------------------------------------------------------------------- inside


def _check_systems(names: Sequence[str]) -> None:
    if len(names) < 2:
        raise EvaluationError(f"{len(names)} of two runs or more; give each system's run")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise EvaluationError(f"two runs are called '{twice}'; give each run a tag of its own")


def _pairs(systems: Sequence[Any], options: ComparisonOptions) -> list[tuple[Any, Any]]:
    if options.all_pairs:
        return list(itertools.combinations(systems, 2))
    return [(systems[0], other) for other in systems[1:]]


def _compare(
    task: str,
    measure: str,
    values: Mapping[str, Mapping[str, Mapping[str, float]]],
    pairs: Sequence[tuple[str, str]],
    options: ComparisonOptions,
) -> Comparison:
    """Test every pair; ``values`` are task → system → query id → value, and a task's name is put before its queries."""
    systems = list(next(iter(values.values())))
    means = {
        system: math.fsum(math.fsum(by[system].values()) / max(len(by[system]), 1) for by in values.values())
        / len(values)
        for system in systems
    }
    tests = [_test_pair(first, second, values, options) for first, second in pairs]
    t_p, randomization_p = holm([test.t_p for test in tests]), holm([test.randomization_p for test in tests])
    tests = [
        dataclasses.replace(test, t_p_corrected=t, randomization_p_corrected=1.0 if other is None else other)
        for test, t, other in zip(tests, t_p, randomization_p, strict=True)
    ]
    return Comparison(
        task=task,
        measure=measure,
        systems=means,
        per_query={
            system: {_name(one, query): value for one, by in values.items() for query, value in by[system].items()}
            for system in systems
        },
        pairs=tests,
        settings={
            "correction": f"Holm, over the {len(tests)} pairs of this comparison",
            "confidence": 0.95,
            "tie_tolerance": SAME,
            "flips": options.flips,
            "resamples": options.resamples,
            "seed": options.seed,
        },
    )


def _test_pair(
    first: str, second: str, values: Mapping[str, Mapping[str, Mapping[str, float]]], options: ComparisonOptions
) -> PairedTest:
    """Test one pair; the corrected p-values are still those of this pair alone."""
    if options.changed < 0:
        raise EvaluationError(f"changed is {options.changed}; list 0 queries or more")
    groups: Groups = [
        query_differences([*by[first].values()], [by[second][query] for query in by[first]]) for by in values.values()
    ]
    interval, effect_interval = bootstrap_difference(groups, resamples=options.resamples, seed=options.seed)
    t_p = t_test(groups)
    randomization_p, flips = randomization_test(groups, flips=options.flips, seed=options.seed)
    named = [
        (float(difference), _name(task, query_id), by[first][query_id], by[second][query_id])
        for (task, by), differences in zip(values.items(), groups, strict=True)
        for query_id, difference in zip(by[first], differences, strict=True)
    ]
    gained = sorted((row for row in named if row[0] > 0), key=lambda row: (-row[0], row[1]))
    lost = sorted((row for row in named if row[0] < 0), key=lambda row: (row[0], row[1]))
    changed = [*gained[: options.changed], *lost[: options.changed]]
    return PairedTest(
        first=first,
        second=second,
        difference=mean_difference(groups),
        interval=interval,
        effect_size=effect_size(groups),
        effect_interval=effect_interval,
        t_p=t_p,
        randomization_p=randomization_p,
        t_p_corrected=t_p,
        randomization_p_corrected=randomization_p,
        wins=len(gained),
        ties=len(named) - len(gained) - len(lost),
        losses=len(lost),
        changed=tuple(row[1:] for row in changed),
        detectable_difference=detectable_difference(groups),
        flips=flips,
    )


def _name(task: str, query_id: str) -> str:
    return f"{task}:{query_id}" if task else query_id


def _shown_queries(comparison: Comparison, runs: Sequence[Run], qrels: Qrels, depth: int) -> dict[str, ShownQuery]:
    """Return the changed queries with the best passages of every run, without texts."""
    shown: dict[str, ShownQuery] = {}
    for query_id in dict.fromkeys(query_id for pair in comparison.pairs for query_id, _, _ in pair.changed):
        answers = {}
        for run in runs:
            ranking = run.ranking(query_id)[:depth] if query_id in run.results else []
            answers[run.tag] = tuple(
                ShownPassage(rank, passage_id, float(score), qrels[query_id].get(passage_id))
                for rank, (passage_id, score) in enumerate(ranking, start=1)
            )
        shown[query_id] = ShownQuery("", answers)
    return shown


def _pair_from_json(data: Mapping[str, Any]) -> PairedTest:
    effect_interval = data["effect_interval"]
    return PairedTest(
        **{
            **data,
            "interval": tuple(data["interval"]),
            "effect_interval": None if effect_interval is None else tuple(effect_interval),
            "changed": tuple((str(query_id), first, second) for query_id, first, second in data["changed"]),
        }
    )


def _shown_from_json(data: Mapping[str, Any]) -> ShownQuery:
    return ShownQuery(
        data["text"],
        {system: tuple(ShownPassage(**passage) for passage in found) for system, found in data["answers"].items()},
    )
