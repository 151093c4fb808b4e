"""Comparisons for the terminal and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llama2vec.score.comparison import Comparison, PairedTest, ShownPassage, ShownQuery
from llama2vec.score.significance import SAME

ALPHA = 0.05
"""Below this a corrected p-value is told as a difference."""

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#~&])")
_NOTHING = ShownQuery("", {})


def rich_comparison(comparison: Comparison) -> Group:
    """Return systems, tests, what they say, and the queries that changed most, for the terminal."""
    systems, pairs = _system_rows(comparison), _pair_rows(comparison, raw=False)
    parts: list[RenderableType] = [
        _rich_table(systems, title=_title(comparison)),
        _rich_table(pairs, caption=_method(comparison, raw=False)),
    ]
    parts += [Text(_verdict(pair, comparison)) for pair in comparison.pairs]
    for pair in comparison.pairs:
        if not pair.changed:
            continue
        parts.append(Text(f"\nQueries that changed most, {_pair_name(pair)}", style="bold"))
        for query_id, first, second in pair.changed:
            query = comparison.shown.get(query_id, _NOTHING)
            head = Text(f"{second - first:+.3f}  {query_id}  ({first:.3f} → {second:.3f})  {query.text}")
            head.stylize("green" if second > first else "red", 0, 6)
            parts.append(head)
            parts += [Padding(Text(line, style="dim"), (0, 0, 0, 8)) for line in _answers(query, pair)]
    return Group(*parts)


def markdown_comparison(comparison: Comparison) -> str:
    """Return the same as Markdown, with headings from level 2."""
    parts = [f"## {_plain(_title(comparison))}", _markdown_table(_system_rows(comparison))]
    parts += [_markdown_table(_pair_rows(comparison, raw=True)), _plain(_method(comparison, raw=True))]
    parts.append("\n".join(f"- {_plain(_verdict(pair, comparison))}" for pair in comparison.pairs))
    for pair in comparison.pairs:
        if not pair.changed:
            continue
        lines = [f"### Queries that changed most: {_plain(_pair_name(pair))}", ""]
        for query_id, first, second in pair.changed:
            query = comparison.shown.get(query_id, _NOTHING)
            change = f"**{second - first:+.3f}** ({first:.3f} → {second:.3f})"
            lines.append(f"- {change} {_plain(query_id)}: {_plain(query.text)}".removesuffix(": "))
            lines += [f"    - {_plain(line)}" for line in _answers(query, pair)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _title(comparison: Comparison) -> str:
    queries = len(next(iter(comparison.per_query.values())))
    return " · ".join(part for part in (comparison.task, comparison.measure, f"{queries:,} judged queries") if part)


def _system_rows(comparison: Comparison) -> list[list[str]]:
    """Return a head and a row per system: means, the tasks' means where pooled, and what the run lacks."""
    settings = comparison.settings
    tasks = settings.get("tasks", {})
    columns = ["System", comparison.measure, *tasks]
    columns += [name for key, name in _RUN_COLUMNS.items() if key in settings]
    rows = [columns]
    for system, mean in comparison.systems.items():
        cells = [system, f"{mean:.3f}", *(f"{means[system]:.3f}" for means in tasks.values())]
        rows.append([*cells, *(f"{settings[key][system]:,}" for key in _RUN_COLUMNS if key in settings)])
    return rows


_RUN_COLUMNS = {"unanswered_queries": "queries it lacks", "depth": "depth"}


def _pair_rows(comparison: Comparison, *, raw: bool) -> list[list[str]]:
    """Return a head and a row per pair; ``raw`` shows the p-values also as they were before the correction."""
    raw = raw and len(comparison.pairs) > 1
    rows = [["Pair", "difference", "d_z", "p, t-test", "p, randomized", "win/tie/loss"]]
    for pair in comparison.pairs:
        t_p, random_p = p_value_text(pair.t_p_corrected), p_value_text(pair.randomization_p_corrected)
        if raw:
            t_p, random_p = f"{t_p} ({p_value_text(pair.t_p)})", f"{random_p} ({p_value_text(pair.randomization_p)})"
        effect = "–" if pair.effect_size is None else f"{pair.effect_size:.2f}{interval_text(pair.effect_interval, 2)}"
        difference = f"{pair.difference:+.3f}{interval_text(pair.interval, 3)}"
        counts = f"{pair.wins}/{pair.ties}/{pair.losses}"
        rows.append([_pair_name(pair), difference, effect, t_p, random_p, counts])
    return rows


def _pair_name(pair: PairedTest) -> str:
    return f"{pair.second} − {pair.first}"


def interval_text(bounds: tuple[float, float] | None, digits: int) -> str:
    """Return an interval in brackets after a space, "" for none.

    >>> interval_text((-0.1, 0.25), 2)
    ' [-0.10, 0.25]'
    """
    return f" [{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]" if bounds else ""


def p_value_text(value: float | None) -> str:
    """Return a p-value as text.

    >>> p_value_text(0.03), p_value_text(1e-9), p_value_text(None)
    ('0.0300', '<0.0001', '–')
    """
    if value is None:
        return "–"
    return f"{value:.4f}" if value >= 0.0001 else "<0.0001"


def _method(comparison: Comparison, *, raw: bool) -> str:
    count = len(comparison.pairs)
    sampled = [pair.flips for pair in comparison.pairs if pair.flips]
    before = " (in brackets: before)" if raw else ""
    holm = f", after Holm over the {count} pairs of this measure{before}" if count > 1 else ""
    drawn = f"{sampled[0]:,} random sign patterns" if sampled else "every sign pattern"
    return (
        f"[95 % bootstrap interval]. p: two-sided, paired{holm}; randomized: {drawn}. "
        f"Tie: at most {comparison.settings.get('tie_tolerance', SAME):g} apart."
    )


def _verdict(pair: PairedTest, comparison: Comparison) -> str:
    """Return in words what the randomization test says, and what so many queries could have shown."""
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


def _rich_table(rows: Sequence[Sequence[str]], title: str = "", caption: str = "") -> Table:
    # Text, not strings: square brackets would be read as markup.
    table = Table(title=Text(title) if title else None, caption=Text(caption) if caption else None)
    table.title_justify = table.caption_justify = "left"
    for place, name in enumerate(rows[0]):
        table.add_column(Text(name), justify="right" if place else "left", overflow="fold")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    return table


def _markdown_table(rows: Sequence[Sequence[str]]) -> str:
    cells = [[_plain(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [cells[0], ["---"] * len(rows[0]), *cells[1:]])


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is.

    >>> _plain("a*b  [c]")
    'a\\\\*b \\\\[c\\\\]'
    """
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
