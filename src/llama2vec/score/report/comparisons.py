"""Comparisons of runs: the files, the texts that they returned, and what the terminal shows."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from llama2vec.data.corpus import corpus_fingerprint, read_passages
from llama2vec.data.trec import read_run
from llama2vec.errors import DataError, EvaluationError
from llama2vec.records import Passage, Query, Run
from llama2vec.retrieve.texts import snippet
from llama2vec.score.comparison import Comparison, PairedTest, ShownPassage, ShownQuery
from llama2vec.score.report.text import (
    ALPHA,
    interval_text,
    p_value_text,
    pair_name,
    terminal_table,
)
from llama2vec.score.results import read_json
from llama2vec.score.significance import SAME

logger = logging.getLogger(__name__)

_SNIPPET_CHARACTERS = 160


def read_named_runs(paths: Sequence[Path]) -> list[Run]:
    """Read TREC runs; if two share a tag, name every run after its path."""
    resolved = [path.resolve() for path in paths]
    twice = next((path for place, path in enumerate(paths) if resolved[place] in resolved[:place]), None)
    if twice is not None:
        raise EvaluationError(f"{twice} is given twice; compare two different runs")
    runs = [read_run(path) for path in paths]
    if len({run.tag for run in runs}) == len(runs):
        return runs
    names = [str(path.with_name(_stem(path))) for path in paths]
    return [dataclasses.replace(run, tag=name) for run, name in zip(runs, names, strict=True)]


def check_same_corpus(paths: Sequence[Path], corpus_source: str | None = None) -> None:
    """Check that runs were made on one corpus, as far as their results tell.

    A run without a result of ``evaluate`` in its folder is taken on trust. ``corpus_source``, from which texts are
    shown, must be the same corpus, too.
    """
    known = [(str(path), found) for path in paths if (found := _corpus_of(path))]
    if known and corpus_source is not None:
        known.append((corpus_source, corpus_fingerprint(corpus_source)))
    for where, found in known[1:]:
        if found != known[0][1]:
            both = f"{known[0][0]} ({known[0][1][:12]}) and {where} ({found[:12]})"
            raise EvaluationError(f"{both} belong to different corpora, or one that changed; compare on one corpus")


def task_of(paths: Sequence[Path]) -> str | None:
    """Return the task that the results of the runs name; None if one is missing or they differ."""
    names = {_result_of(path).get("task") for path in paths}
    name = names.pop() if len(names) == 1 else None
    return name if isinstance(name, str) else None


def with_texts(
    comparisons: Sequence[Comparison], runs: Sequence[Run], queries: Iterable[Query], corpus_source: str
) -> list[Comparison]:
    """Return the comparisons with the texts of the queries and passages they show; the corpus is read once.

    Raises:
        EvaluationError: Most of what a run returned is not in the corpus.
    """
    returned = {run.tag: {passage_id for scores in run.results.values() for passage_id in scores} for run in runs}
    missing = set().union(*returned.values())
    queries_shown = [query for comparison in comparisons for query in comparison.shown.values()]
    shown = {passage.id for query in queries_shown for found in query.answers.values() for passage in found}
    texts: dict[str, Passage] = {}
    for passage in read_passages(corpus_source):
        missing.discard(passage.id)
        if passage.id in shown:
            texts[passage.id] = passage
    for tag, ids in returned.items():
        _check_known(tag, len(ids & missing), len(ids), corpus_source)
    asked = {query.id: query.text for query in queries}

    def told(query_id: str, query: ShownQuery) -> ShownQuery:
        text = asked.get(query_id, "")
        answers = {
            system: tuple(_with_text(passage, text, texts) for passage in found)
            for system, found in query.answers.items()
        }
        return ShownQuery(text, answers)

    return [
        dataclasses.replace(one, shown={query_id: told(query_id, query) for query_id, query in one.shown.items()})
        for one in comparisons
    ]


def _with_text(shown: ShownPassage, query: str, texts: Mapping[str, Passage]) -> ShownPassage:
    found = texts.get(shown.id)
    if found is None:
        return shown
    part = snippet(found.text, query, _SNIPPET_CHARACTERS)
    return dataclasses.replace(shown, title=found.title, snippet=part)


def _check_known(tag: str, unknown: int, count: int, corpus_source: str) -> None:
    message = f"run '{tag}': {unknown:,} of the {count:,} passages it returned are not in {corpus_source}"
    if 2 * unknown > count:
        raise EvaluationError(f"{message}; give the corpus that was searched")
    if unknown:
        logger.warning("%s", message)


def _corpus_of(path: Path) -> str | None:
    """Return the corpus fingerprint in the result of a run; None if unknown."""
    settings = _result_of(path).get("settings")
    found = settings.get("corpus_fingerprint") if isinstance(settings, dict) else None
    return found if isinstance(found, str) else None


def _result_of(path: Path) -> dict[str, Any]:
    """Return the result that ``evaluate`` wrote with a run; empty for runs of other systems."""
    file = path.with_name(f"{_stem(path)}.json")
    try:
        return read_json(file) if file.is_file() else {}
    except DataError:
        return {}


def _stem(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).stem


_NOTHING = ShownQuery("", {})


def terminal_comparison(comparison: Comparison) -> Group:
    """Return systems, tests, verdicts and the queries that changed most, for the terminal."""
    systems, pairs = _system_rows(comparison), _pair_rows(comparison)
    parts: list[RenderableType] = [
        terminal_table(systems, title=_title(comparison)),
        terminal_table(pairs, caption=_method(comparison)),
    ]
    parts += [Text(_verdict(pair, comparison)) for pair in comparison.pairs]
    for pair in comparison.pairs:
        if not pair.changed:
            continue
        parts.append(Text(f"\nQueries that changed most, {pair_name(pair)}", style="bold"))
        for query_id, first, second in pair.changed:
            query = comparison.shown.get(query_id, _NOTHING)
            head = Text(f"{second - first:+.3f}  {query_id}  ({first:.3f} → {second:.3f})  {query.text}")
            head.stylize("green" if second > first else "red", 0, 6)
            parts.append(head)
            parts += [Padding(Text(line, style="dim"), (0, 0, 0, 8)) for line in _answers(query, pair)]
    return Group(*parts)


def _title(comparison: Comparison) -> str:
    queries = len(next(iter(comparison.per_query.values())))
    return " · ".join(part for part in (comparison.task, comparison.metric, f"{queries:,} judged queries") if part)


def _system_rows(comparison: Comparison) -> list[list[str]]:
    """Return a head and a row per system: mean, the tasks' means if pooled, and what the run lacks."""
    settings = comparison.settings
    tasks = settings.get("tasks", {})
    columns = ["System", comparison.metric, *tasks]
    columns += [name for key, name in _RUN_COLUMNS.items() if key in settings]
    rows = [columns]
    for system, mean in comparison.systems.items():
        cells = [system, f"{mean:.3f}", *(f"{means[system]:.3f}" for means in tasks.values())]
        rows.append([*cells, *(f"{settings[key][system]:,}" for key in _RUN_COLUMNS if key in settings)])
    return rows


_RUN_COLUMNS = {"unanswered_queries": "queries it lacks", "depth": "depth"}


def _pair_rows(comparison: Comparison) -> list[list[str]]:
    """Return a head and a row per pair."""
    rows = [["Pair", "difference", "d_z", "p, t-test", "p, randomized", "win/tie/loss"]]
    for pair in comparison.pairs:
        t_p, random_p = p_value_text(pair.t_p_corrected), p_value_text(pair.randomization_p_corrected)
        effect = "–" if pair.effect_size is None else f"{pair.effect_size:.2f}{interval_text(pair.effect_interval, 2)}"
        difference = f"{pair.difference:+.3f}{interval_text(pair.interval, 3)}"
        counts = f"{pair.wins}/{pair.ties}/{pair.losses}"
        rows.append([pair_name(pair), difference, effect, t_p, random_p, counts])
    return rows


def _method(comparison: Comparison) -> str:
    count = len(comparison.pairs)
    sampled = [pair.flips for pair in comparison.pairs if pair.flips]
    holm = f", after Holm over the {count} pairs of this metric" if count > 1 else ""
    drawn = f"{sampled[0]:,} random sign patterns" if sampled else "every sign pattern"
    return (
        f"[95 % bootstrap interval]. p: two-sided, paired{holm}; randomized: {drawn}. "
        f"Tie: at most {comparison.settings.get('tie_tolerance', SAME):g} apart."
    )


def _verdict(pair: PairedTest, comparison: Comparison) -> str:
    """Return what the randomization test says, and what difference so many queries could have shown."""
    if pair.wins + pair.losses == 0:
        return f"{pair.second} and {pair.first} score the same on every query."
    corrected = " after Holm" if len(comparison.pairs) > 1 else ""
    p_value = f"p = {p_value_text(pair.randomization_p_corrected)}{corrected}".replace("= <", "< ")
    if pair.randomization_p_corrected >= ALPHA:
        said = f"No difference is shown between {pair.second} and {pair.first} ({p_value})"
    else:
        better, worse = (pair.second, pair.first) if pair.difference > 0 else (pair.first, pair.second)
        said = f"{better} is better than {worse} by {abs(pair.difference):.3f} ({p_value})"
    if pair.detectable_difference is None:
        return f"{said}."
    count = pair.wins + pair.ties + pair.losses
    could = f"a true difference of {pair.detectable_difference:.3f} with 80 % power"
    return f"{said}; {count:,} queries of this spread show {could}."


def _answers(query: ShownQuery, pair: PairedTest) -> Iterator[str]:
    """Yield a line per passage that each of the two systems returned."""
    for system in (pair.first, pair.second):
        if system in query.answers and not query.answers[system]:
            yield f"{system}: returned nothing"
        for passage in query.answers.get(system, ()):
            yield f"{system} {_passage(passage)}"


def _passage(passage: ShownPassage) -> str:
    gain = "not judged" if passage.gain is None else f"gain {passage.gain}"
    text = " — ".join(part for part in (passage.title, passage.snippet) if part)
    return f"{passage.rank}. {passage.id} ({gain}) {text}".rstrip()
