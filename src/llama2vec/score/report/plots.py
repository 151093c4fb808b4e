"""Plots as SVG that stands inline in a page: colors and fonts are the page's, also in the dark and on paper.

matplotlib draws with stand-in colors; they become CSS variables (``var(--plot-…)``). Ids get a prefix, because ids of
several inlined pictures would clash. The same values give the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from llama2vec.errors import MissingDependencyError
from llama2vec.score.significance import query_differences
from llama2vec.terminal import counted

_STAND_IN = {
    "ink": "#010201",
    "muted": "#010202",
    "grid": "#010203",
    "win": "#010204",
    "loss": "#010205",
    "card": "#010206",
}
SERIES = 8  # Number of colors; further series begin again
_STAND_IN |= {f"series-{number}": f"#0102{16 + number:02x}" for number in range(SERIES)}
_VARIABLE = {color: f"var(--plot-{name})" for name, color in _STAND_IN.items()}

_WIDTH = 4.2  # Inches; narrow, so that the letters stay readable where a phone fits the plot to its width
_MOST_BARS = 800
_MOST_LETTERS = 24
_MOST_HEADING_LETTERS = 48

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "llama2vec", "text.parse_math": False,
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9.5,
    "axes.titlesize": 10.5, "axes.titlelocation": "left", "axes.labelsize": 9.5, "axes.titlepad": 8,
    "axes.edgecolor": _STAND_IN["grid"], "axes.linewidth": 0.8, "axes.spines.top": False, "axes.spines.right": False,
    "axes.labelcolor": _STAND_IN["muted"], "axes.titlecolor": _STAND_IN["ink"], "text.color": _STAND_IN["ink"],
    "xtick.color": _STAND_IN["grid"], "ytick.color": _STAND_IN["grid"], "xtick.labelcolor": _STAND_IN["muted"],
    "ytick.labelcolor": _STAND_IN["muted"], "axes.grid": True, "axes.axisbelow": True,
    "grid.color": _STAND_IN["grid"], "grid.linewidth": 0.5, "legend.frameon": False, "legend.fontsize": 9,
    "legend.labelcolor": _STAND_IN["ink"], "figure.constrained_layout.use": True,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture: an ``<svg>`` element for an HTML page, and the caption that says what it shows."""

    svg: str
    caption: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean or difference with its 95 % interval, if known."""

    label: str
    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Values over optimizer steps, or over something else that was varied."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    series: int = 0  # Chooses the color
    held_out: bool = False  # A dashed line with dots
    dots: bool = False  # Marks each value


@dataclass(frozen=True, slots=True)
class CurveFamily:
    """Scores over something that was varied: line → value of ``across`` → score by ``axis``, two points or more."""

    title: str
    axis: str
    across: str
    lines: Mapping[str, Mapping[float, float]]


def estimates_plot(
    groups: Mapping[str, Sequence[Estimate]], *, key: str, title: str, axis: str, caption: str, zero: bool = False
) -> Plot:
    """Draw values with intervals as dots and lines, one row each, under the headings of their groups.

    ``groups`` maps a heading ("" = none) to its rows; ``key`` is unique on the page; ``zero`` marks 0 and colors rows
    by the side of 0 that their whole interval is on.
    """
    rows: list[tuple[str, Estimate | None]] = []
    for heading, estimates in groups.items():
        rows += [(heading, None)] if heading else []
        rows += [(estimate.label, estimate) for estimate in estimates]
    with _figure(1.0 + 0.26 * len(rows)) as (figure, axes):
        for place, (_, estimate) in enumerate(rows):
            if estimate is None:
                continue
            color = _side(estimate) if zero else _STAND_IN["series-0"]
            if estimate.interval:
                axes.plot(estimate.interval, [place, place], color=color, linewidth=2, solid_capstyle="round")
            axes.plot([estimate.value], [place], "o", color=color, markersize=5.5)
        if zero:
            axes.axvline(0, color=_STAND_IN["muted"], linewidth=1, zorder=1.2)
        axes.locator_params(axis="x", nbins=6)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), [_short(label) if estimate else "" for label, estimate in rows])
        for text in axes.get_yticklabels():
            text.set_color(_STAND_IN["ink"])
        for place, (heading, estimate) in enumerate(rows):
            if estimate is None:
                # Grid and zero line would run through the letters.
                axes.axhspan(place - 0.6, place + 0.5, color=_STAND_IN["card"], linewidth=0, zorder=1.5)
                _heading(figure, axes, place, heading)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(axis)
        axes.set_title(title)
        return Plot(_svg(figure, key, title, caption), caption)


def difference_plot(
    first: Sequence[float], second: Sequence[float], *, key: str, names: tuple[str, str], metric: str
) -> Plot:
    """Draw the queries' differences as bars, largest gain first."""
    ordered = np.sort(query_differences(first, second))[::-1]
    wins, losses = int((ordered > 0).sum()), int((ordered < 0).sum())
    ties = len(ordered) - wins - losses
    caption = (
        f"{metric} of {names[1]} minus {names[0]}, one bar a query, sorted: "
        f"{wins:,} better, {ties:,} equal, {losses:,} worse."
    )
    edges = np.arange(len(ordered) + 1, dtype=np.float64)
    if len(ordered) > _MOST_BARS:
        kept = np.linspace(0, len(ordered) - 1, _MOST_BARS).round().astype(int)
        ordered, edges = ordered[kept], np.append(edges[kept], edges[-1])
    # Above and below the bars there is room for a line of text.
    bound = 1.2 * max(float(np.abs(ordered).max()), 1e-3)
    with _figure(_WIDTH * 0.92) as (figure, axes):
        for name, part in (("win", np.maximum(ordered, 0)), ("loss", np.minimum(ordered, 0))):
            axes.stairs(part, edges, fill=True, color=_STAND_IN[name], linewidth=0.4)
        axes.axhline(0, color=_STAND_IN["muted"], linewidth=1)
        axes.set(xlim=(0, edges[-1]), ylim=(-bound, bound))
        axes.grid(axis="x", visible=False)
        won, lost = (f"{_short(name)} better: {count:,}" for name, count in ((names[1], wins), (names[0], losses)))
        axes.text(0.01, 0.985, won, color=_STAND_IN["win"], transform=axes.transAxes, ha="left", va="top")
        axes.text(0.99, 0.015, lost, color=_STAND_IN["loss"], transform=axes.transAxes, ha="right", va="bottom")
        axes.set_xlabel(f"{counted(len(first), 'query', 'queries')}, {ties:,} equal")
        axes.set_ylabel(f"difference in {metric}")
        axes.set_title("Difference, sorted")
        return Plot(_svg(figure, key, f"Sorted differences of {names[1]} and {names[0]}", caption), caption)


def curves_plot(
    curves: Sequence[Curve], *, key: str, title: str, axis: str, caption: str, across: str = "optimizer step"
) -> Plot:
    """Draw values over optimizer steps, or over something else."""
    with _figure(2.9 + 0.09 * len(curves)) as (figure, axes):
        for curve in curves:
            style: dict[str, Any] = {"linewidth": 1.6, "color": _STAND_IN[f"series-{curve.series % SERIES}"]}
            if curve.held_out or curve.dots or len(curve.steps) == 1:
                style |= {"marker": "o", "markersize": 4}
            if curve.held_out:
                style |= {"linestyle": (0, (4, 2))}
            # The legend skips names that begin with an underscore.
            label = re.sub("^_", "\u200b_", _short(curve.label))
            axes.plot(curve.steps, curve.values, label=label, **style)
        axes.set_xlabel(across)
        axes.set_ylabel(axis)
        axes.set_title(title)
        axes.ticklabel_format(axis="y", scilimits=(-3, 5))
        axes.margins(x=0.03, y=0.08)
        if len(curves) > 1:
            figure.legend(loc="outside lower left", ncols=2, handlelength=2.4)
        return Plot(_svg(figure, key, title, caption), caption)


@contextmanager
def _figure(height: float) -> Iterator[tuple[Any, Any]]:
    """Give a figure and its axes, drawn in our style; no state of matplotlib is changed."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("plots need matplotlib; pip install 'llama2vec[report]'") from None
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # The reader's browser draws the letters, with a font of its own.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(_WIDTH, height))
        yield figure, figure.subplots()


def _svg(figure: Any, key: str, title: str, description: str) -> str:
    """Return a figure as an element of an HTML page."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    # A style sheet inside would be the whole page's; name spaces are not needed in HTML.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = re.sub(r'href="#', f'href="#{key}-', text).replace("url(#", f"url(#{key}-")
    text = re.sub(r"#0102[0-9a-f]{2}", lambda found: _VARIABLE.get(found[0], found[0]), text)
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box
    head = (
        f'<svg class="plot" role="img" viewBox="{box[1]}" aria-labelledby="{key}-title {key}-description">'
        f'<title id="{key}-title">{escape(title)}</title>'
        f'<desc id="{key}-description">{escape(description)}</desc>'
    )
    body = text[text.index(">") + 1 :]
    return head + re.sub(r"\s*\n\s*", "\n", body).strip()


def _heading(figure: Any, axes: Any, place: float, text: str) -> None:
    """Write a group's heading across the whole picture: among the labels there would be room for half of it."""
    from matplotlib.transforms import blended_transform_factory

    where = blended_transform_factory(figure.transFigure, axes.transData)
    heading = axes.text(
        0.01, place, _short(text, _MOST_HEADING_LETTERS), transform=where, ha="left", va="center", fontweight="bold"
    )
    heading.set_in_layout(False)


def _side(estimate: Estimate) -> str:
    low, high = estimate.interval or (0.0, 0.0)
    return _STAND_IN["win" if low > 0 else "loss" if high < 0 else "muted"]


def _short(label: str, most: int = _MOST_LETTERS) -> str:
    """Return a label of at most so many letters, so that it leaves room for the plot.

    >>> _short("a-name-that-is-far-too-long-for-the-labels-of-an-axis")
    'a-name-that…-of-an-axis'
    """
    label = " ".join(label.split())
    half = most // 2
    return label if len(label) <= most else f"{label[: half - 1]}…{label[-half + 1 :]}"
