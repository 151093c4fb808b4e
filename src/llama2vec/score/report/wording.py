"""Numbers, settings and verdicts as text, the same in every format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama2vec.score.comparison import PairedTest
from llama2vec.score.report.sources import Training

MINUS, NONE = "−", "–"
ALPHA = 0.05
"""A corrected p-value below this counts as a difference."""

_FIGURES = {
    "loss": "loss", "loss_self": "EBAE (self)", "loss_next": "EBAR (next)", "learning_rate": "learning rate",
    "gradient_norm": "gradient norm", "mrr@10": "MRR@10", "ndcg@10": "nDCG@10",
}  # fmt: skip

HELD_OUT = "validation_"


def score(value: float) -> str:
    """Return a score with three decimals.

    >>> score(-0.0504)
    '−0.050'
    """
    return f"{value:.3f}".replace("-", MINUS)


def difference(value: float) -> str:
    """Return a difference with its sign.

    >>> difference(0.05), difference(-0.05), difference(0.0)
    ('+0.050', '−0.050', '0.000')
    """
    return f"{value:+.3f}".replace("-", MINUS) if round(value, 3) else "0.000"


def interval(bounds: tuple[float, float] | None, *, signed: bool = False) -> str:
    """Return an interval in brackets, "" for none.

    >>> interval((-0.1, 0.2), signed=True)
    '[−0.100, +0.200]'
    """
    form = difference if signed else score
    return f"[{form(bounds[0])}, {form(bounds[1])}]" if bounds else ""


def interval_text(bounds: tuple[float, float] | None, digits: int) -> str:
    """Return an interval in brackets after a space, "" for none.

    >>> interval_text((-0.1, 0.25), 2)
    ' [-0.10, 0.25]'
    """
    return f" [{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]" if bounds else ""


def p_value_text(value: float | None) -> str:
    """Return a p-value.

    >>> p_value_text(0.03), p_value_text(1e-9), p_value_text(None)
    ('0.0300', '<0.0001', '–')
    """
    if value is None:
        return NONE
    return f"{value:.4f}" if value >= 0.0001 else "<0.0001"


def duration(seconds: float) -> str:
    """Return a time in the two largest units.

    >>> duration(270.8), duration(7.04), duration(9000)
    ('4 min 31 s', '7.0 s', '2 h 30 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def verdict(pair: PairedTest) -> str:
    """Say which of two systems is better, by the corrected p-value of the randomization test."""
    if pair.wins + pair.losses == 0:
        return "the same on every query"
    if pair.randomization_p_corrected >= ALPHA:
        return "no difference shown"
    return f"{pair.second if pair.difference > 0 else pair.first} is better"


def pair_name(pair: PairedTest) -> str:
    """Return the name of a difference."""
    return f"{pair.second} {MINUS} {pair.first}"


def stage_time(stage: Mapping[str, Any]) -> str:
    """Return how long a stage of a run took."""
    return duration(stage["seconds"]) if isinstance(stage.get("seconds"), int | float) else NONE


def training_time(training: Training) -> str:
    """Return how long a finished training took in its last process."""
    results = training.manifest.get("results")
    return stage_time(results) if isinstance(results, Mapping) else NONE


def judgment(gain: int | None) -> str:
    """Return what the judgments say about a passage.

    >>> judgment(None), judgment(0), judgment(2)
    ('not judged', 'judged not relevant', 'relevant (gain 2)')
    """
    if gain is None:
        return "not judged"
    return f"relevant (gain {gain})" if gain > 0 else "judged not relevant"


def figure_name(name: str) -> str:
    """Return the name of a logged figure.

    >>> figure_name("validation_loss_next")
    'EBAR (next), held out'
    """
    base = name.removeprefix(HELD_OUT)
    return _FIGURES.get(base, base.replace("_", " ")) + (", held out" if base != name else "")


def figure_names(trainings: Sequence[Training]) -> list[str]:
    """Return the figures that are drawn, losses first, and training before held-out text."""
    names = {name for training in trainings for line in training.log for name in line}
    kept = [name for name in names if name.startswith(("loss", HELD_OUT))]
    known = list(_FIGURES)

    def place(name: str) -> tuple[bool, bool, int, str]:
        base = name.removeprefix(HELD_OUT)
        return "loss" not in name, base != name, known.index(base) if base in known else len(known), name

    return sorted(kept, key=place)


def last_figures(training: Training) -> dict[str, float]:
    """Return the last value of each figure."""
    found: dict[str, float] = {}
    for line in training.log:
        found |= line
    return {name: found[name] for name in figure_names([training])}


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting, dotted, and its value in each of several settings; NONE where it is absent."""

    name: str
    values: Sequence[str]

    @property
    def differs(self) -> bool:
        """Whether the values differ."""
        return len(set(self.values)) > 1


def setting_rows(things: Sequence[Mapping[str, Any]]) -> list[SettingRow]:
    """Return several settings side by side.

    >>> [(row.name, row.values) for row in setting_rows([{"a": {"b": 1}}, {"a": {"b": 2, "c": "x"}}])]
    [('a.b', ['1', '2']), ('a.c', ['–', 'x'])]
    """
    flat = [_flat(thing) for thing in things]
    names = list(dict.fromkeys(name for one in flat for name in one))
    return [SettingRow(name, [one.get(name, NONE) for one in flat]) for name in names]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
            # As in code, so that line breaks are visible.
            found[f"{prefix}{key}"] = text.replace("\n", "\\n")
    return found
