"""Methods compared over their seeds: each query's value is the mean over the trainings, then the queries are tested."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import cast

from llama2vec.errors import ConfigError, EvaluationError
from llama2vec.records import Report
from llama2vec.score.comparison import Comparison, ComparisonOptions, compare_reports
from llama2vec.score.report.content import check_corpora
from llama2vec.score.report.sources import Evaluation, read_sources, seed_folders
from llama2vec.score.runs import one_same_id_choice
from llama2vec.terminal import first_few

logger = logging.getLogger(__name__)

_LAST_MODELS = ("finetuned", "adapted")
"""What a run makes last; the other systems of its report are there for comparison."""


@dataclass(frozen=True)
class Method:
    """One system with the results of each of its seeds."""

    name: str
    seeds: Mapping[int | None, Mapping[str, Evaluation]]  # Seed → task → result; the key None = trained once, or never

    @property
    def is_seeded(self) -> bool:
        """Whether it was trained with seeds."""
        return None not in self.seeds


def method_folder(named: str) -> tuple[Path, str] | None:
    """Return the folder and the system that ``FOLDER`` or ``FOLDER:SYSTEM`` names; None where there is none."""
    folder, _, system = named.rpartition(":")
    if Path(named).is_dir():
        return Path(named), ""
    return (Path(folder), system) if folder and system and Path(folder).is_dir() else None


def read_method(folder: Path, system: str = "") -> Method:
    """Read the results of a method: of every ``seed-N`` in its folder, or of the folder itself.

    Args:
        folder: What ``run --seeds`` made, ``seed-N`` folders of ``evaluate``, or one folder of results.
        system: The system to take; "" = the only one, or the last model that a run made.

    Raises:
        ConfigError: No results, or not those of the system.
    """
    places = cast("dict[int | None, Path]", seed_folders(folder)) or {None: folder}
    found = {seed: _by_system(path) for seed, path in places.items()}
    everywhere = set.intersection(*(set(systems) for systems in found.values()))
    alone = all(len(systems) == 1 for systems in found.values())
    chosen = system or next((name for name in _LAST_MODELS if name in everywhere and not alone), "")
    if not chosen and not alone:
        known = ", ".join(sorted(everywhere)) or "none in every seed"
        raise ConfigError(f"{folder} holds several systems ({known}); name one, as {folder}:SYSTEM")
    if chosen and chosen not in everywhere:
        seed = next(seed for seed, systems in found.items() if chosen not in systems)
        there = ", ".join(sorted(found[seed]))
        raise ConfigError(f"{places[seed]} holds no results of {chosen}; there are: {there}")
    # Evaluated one by one, each seed's system may have the name of its own folder.
    by_seed = {seed: systems[chosen] if chosen else next(iter(systems.values())) for seed, systems in found.items()}
    return Method(f"{folder}:{chosen}" if chosen else str(folder), by_seed)


def _by_system(folder: Path) -> dict[str, dict[str, Evaluation]]:
    """Return system → task → result."""
    found: dict[str, dict[str, Evaluation]] = {}
    for one in read_sources([folder]).evaluations:
        found.setdefault(one.report.system, {})[one.report.task] = one
    if not found:
        raise ConfigError(
            f"{folder} holds no scores; score it with `llama2vec evaluate {folder} --task … --output "
            f"SCORES/{_place(folder)}`, and compare folders of scores"
        )
    return found


def _place(folder: Path) -> str:
    """Return where the scores of a folder belong below a common one: of a seed, under its method."""
    path = folder.resolve()
    return f"{path.parent.name}/{path.name}" if path.name.startswith("seed-") else path.name


def compare_methods(
    methods: Sequence[Method], *, task: str = "", metrics: Sequence[str] = (), options: ComparisonOptions
) -> list[Comparison]:
    """Compare methods on each task that all were scored on, by the mean of every query's values over the seeds.

    Methods with seeds are compared on those that all of them have: a seed means the same pairs in the same batches.

    Args:
        methods: The first one is the baseline.
        task: Compare on this task alone.
        metrics: Empty = the first metric of each task.
        options: How they are tested.

    Raises:
        ConfigError: No common seed or task.
        EvaluationError: Results that do not fit together, or that lack a metric.
    """
    names = [method.name for method in methods]
    if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
        raise ConfigError(f"{twice} is given twice; compare two different methods")
    seeded = [method for method in methods if method.is_seeded]
    common = set.intersection(*(set(method.seeds) for method in seeded)) if seeded else set()
    if seeded and not common:
        raise ConfigError(
            f"{' and '.join(one.name for one in seeded)} have no seed in common; train them with the same"
        )
    for method in seeded:
        if others := sorted(str(seed) for seed in set(method.seeds) - common):
            logger.warning("%s: left out seed %s, which not every method has", method.name, first_few(others))
    kept = [
        Method(one.name, {seed: found for seed, found in one.seeds.items() if seed in common or not one.is_seeded})
        for one in methods
    ]
    known = [found.keys() for one in kept for found in one.seeds.values()]
    tasks = [name for name in known[0] if all(name in one for one in known)]
    if (task and task not in tasks) or not tasks:
        there = ", ".join(tasks) or "none"
        raise ConfigError(f"not every folder holds scores of {task or 'one task'}; scored in all: {there}")
    return [one for name in ([task] if task else tasks) for one in _compared(kept, name, metrics, options)]


def _compared(
    methods: Sequence[Method], task: str, metrics: Sequence[str], options: ComparisonOptions
) -> list[Comparison]:
    scored = [found[task] for one in methods for found in one.seeds.values()]
    check_corpora(task, scored)
    one_same_id_choice((one.where, one.report.settings) for one in scored)
    by_method = {one.name: [found[task].report for found in one.seeds.values()] for one in methods}
    first = next(iter(by_method.values()))[0]
    comparisons = []
    for metric in metrics or [next(iter(first.metrics))]:
        reports = [_mean(name, task, metric, seeds) for name, seeds in by_method.items()]
        comparison = compare_reports(reports, metric=metric, options=options)
        facts = {
            "seeds": {name: len(seeds) for name, seeds in by_method.items()},
            "deviations": {
                name: stdev(one.metrics[metric] for one in seeds) if len(seeds) > 1 else None
                for name, seeds in by_method.items()
            },
        }
        comparisons.append(dataclasses.replace(comparison, settings={**facts, **comparison.settings}))
    return comparisons


def _mean(name: str, task: str, metric: str, seeds: Sequence[Report]) -> Report:
    """Return a method's values per query, each the mean over the seeds."""
    for one in seeds:
        if metric not in one.per_query:
            raise EvaluationError(f"{name}: {one.system} has no values per query of '{metric}'; evaluate with it")
        if one.per_query[metric].keys() != seeds[0].per_query[metric].keys():
            raise EvaluationError(f"{name}: the seeds were scored on different queries of {task}; evaluate them alike")
    values = {query: fmean(one.per_query[metric][query] for one in seeds) for query in seeds[0].per_query[metric]}
    return Report(task, name, {}, per_query={metric: values})
