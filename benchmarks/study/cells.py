"""The cells of a budget, most informative first: the main question, then what explains the answer."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.study.protocol import ALL_PAIRS, Protocol
from llama2vec.errors import ConfigError

ADAPTATIONS = ("none", "ebae", "ebar", "both")
STAGES = ("none", "labels", "corpus")
REFERENCES = ("bm25", "minilm")


@dataclass(frozen=True)
class Arm:
    """The unit of comparison: a cell without its seed.

    Attributes:
        adaptation: ``none``, ``ebae``, ``ebar`` or ``both``; or the name of a reference, which has no other fields.
        recipe: A name of the budget's recipes; ``paper`` is the main one.
        steps: Adaptation steps.
        stage: The second stage: ``none``, ``labels``, or ``corpus`` for pairs made from the corpora without labels.
        pairs: Labeled pairs; ``ALL_PAIRS`` = all of the budget.
        pooling: ``slots``, or ``mean`` over the text's tokens without a prompt.
    """

    adaptation: str
    recipe: str = "paper"
    steps: int = 0
    stage: str = "none"
    pairs: int = 0
    pooling: str = "slots"

    @property
    def is_reference(self) -> bool:
        """Whether this is a system that the study does not train."""
        return self.adaptation in REFERENCES

    @property
    def is_trained(self) -> bool:
        """Whether the seed has any effect."""
        return not self.is_reference and (self.adaptation != "none" or self.stage != "none")

    @property
    def start(self) -> Arm:
        """The arm that the second stage starts from."""
        return replace(self, stage="none", pairs=0)


@dataclass(frozen=True)
class Cell:
    """One model of an arm; the seed also draws the pairs."""

    arm: Arm
    seed: int = 0

    @property
    def start(self) -> Cell:
        """The cell whose model the second stage starts from."""
        return Cell(self.arm.start, self.seed)

    @property
    def fields(self) -> dict[str, str]:
        """Names and values as ``--cells`` takes them.

        >>> Cell(Arm("bm25")).fields
        {'reference': 'bm25'}
        """
        if self.arm.is_reference:
            return {"reference": self.arm.adaptation}
        values = {**asdict(self.arm), "seed": self.seed}
        order = ("adaptation", "recipe", "steps", "seed", "stage", "pairs", "pooling")
        return {name: "all" if values[name] == ALL_PAIRS else str(values[name]) for name in order}

    @property
    def key(self) -> str:
        """The cell's name in the results file.

        >>> Cell(Arm("both", steps=32, stage="labels", pairs=ALL_PAIRS), 1).key
        'adaptation=both recipe=paper steps=32 seed=1 stage=labels pairs=all pooling=slots'
        """
        return " ".join(f"{name}={value}" for name, value in self.fields.items())


def cell_of(key: str) -> Cell:
    """Return the cell of a key.

    >>> cell_of(Cell(Arm("none", pooling="mean")).key) == Cell(Arm("none", pooling="mean"))
    True

    Raises:
        ConfigError: The key names no cell.
    """
    fields = dict(part.partition("=")[::2] for part in key.split())
    try:
        if list(fields) == ["reference"] and fields["reference"] in REFERENCES:
            return Cell(Arm(fields["reference"]))
        pairs = ALL_PAIRS if fields["pairs"] == "all" else int(fields["pairs"])
        texts: dict[str, Any] = {name: fields[name] for name in ("adaptation", "recipe", "stage", "pooling")}
        cell = Cell(Arm(**texts, steps=int(fields["steps"]), pairs=pairs), int(fields["seed"]))
    except (KeyError, ValueError):
        cell = None
    if cell is None or cell.key != key:
        raise ConfigError(f"{key!r} does not name a cell of the study; was the results file edited?")
    return cell


def adapted(protocol: Protocol, adaptation: str, recipe: str = "paper", steps: int | None = None) -> Arm:
    """Return the arm of an adaptation without a second stage; ``none`` is the raw model with the recipe's prompt."""
    if adaptation == "none":
        return Arm("none", recipe)
    return Arm(adaptation, recipe, protocol.plan.steps if steps is None else steps)


def tuned(start: Arm, stage: str = "labels", pairs: int = ALL_PAIRS) -> Arm:
    """Return the arm that fine-tunes another arm's model."""
    return replace(start, stage=stage, pairs=pairs)


def raw_mean() -> Arm:
    """Return the stronger raw baseline: mean pooling without a prompt, so the prompt recipe has no effect."""
    return Arm("none", pooling="mean")


def plan(protocol: Protocol) -> list[Cell]:
    """Return all cells of a budget, the most informative first."""
    return list(dict.fromkeys(_cells(protocol)))


def _cells(protocol: Protocol) -> Iterator[Cell]:
    seeds = protocol.plan.seeds
    none, both = adapted(protocol, "none"), adapted(protocol, "both")
    yield from (Cell(Arm(name)) for name in REFERENCES)
    yield Cell(raw_mean())
    yield from _seeded(seeds, both, tuned(both), tuned(none))
    yield from _seeded(seeds, tuned(both, "corpus"), tuned(none, "corpus"))
    yield from _parts(protocol, "paper", "ebae", "ebar")
    for recipe in protocol.adaptation.recipes:
        yield from _parts(protocol, recipe, "both")
        yield from _seeded(seeds, tuned(adapted(protocol, "none", recipe)))
        yield from _parts(protocol, recipe, "ebae", "ebar")
    for steps in protocol.plan.steps_curve:
        arm = adapted(protocol, "both", steps=steps)
        yield from _seeded(seeds, arm, tuned(arm))
    for pairs in protocol.plan.pairs_curve:
        yield from _seeded(seeds, tuned(both, pairs=pairs), tuned(none, pairs=pairs))
    yield from (Cell(adapted(protocol, "none", recipe)) for recipe in protocol.adaptation.recipes)
    yield from _seeded(seeds, tuned(raw_mean()))


def _parts(protocol: Protocol, recipe: str, *parts: str) -> Iterator[Cell]:
    arms = [adapted(protocol, part, recipe) for part in parts]
    yield from _seeded(protocol.plan.seeds, *(one for arm in arms for one in (arm, tuned(arm))))


def _seeded(seeds: Iterable[int], *arms: Arm) -> Iterator[Cell]:
    """Yield every arm with the first seed, then with the next."""
    for seed in seeds:
        yield from (Cell(arm, seed) for arm in arms)


def chosen(cells: Sequence[Cell], terms: Sequence[str]) -> list[Cell]:
    """Return the cells that fit every ``name=value[,value…]`` term, in their order.

    >>> [cell.seed for cell in chosen([Cell(Arm("both", steps=8), seed) for seed in (0, 1, 2)], ["seed=0,2"])]
    [0, 2]

    Raises:
        ConfigError: No such name, no cell with such a value, or no cell that fits all terms.
    """
    wanted: dict[str, set[str]] = {}
    known: dict[str, dict[str, None]] = {}
    for cell in cells:
        for name, value in cell.fields.items():
            known.setdefault(name, {})[value] = None
    for term in terms:
        name, _, values = term.partition("=")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(f"--cells {term}: {_hint('name', name, near, known)}")
        wanted[name] = set(values.split(","))
        for value in sorted(wanted[name] - known[name].keys()):
            near = difflib.get_close_matches(value, known[name], n=1)
            raise ConfigError(f"--cells {term}: {_hint(name, value, near, known[name])}")
    found = [cell for cell in cells if all(cell.fields.get(name) in values for name, values in wanted.items())]
    if not found:
        raise ConfigError(f"--cells {' '.join(terms)}: no cell of the budget fits all of these")
    return found


def _hint(what: str, given: str, near: Sequence[str], known: Mapping[str, object]) -> str:
    return f"no {what} '{given}'; " + (f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(known)}")
