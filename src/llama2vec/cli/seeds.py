"""The same training with several seeds: a folder for each, and one table of means and standard deviations."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, TypeVar

import typer

from llama2vec.artifact import read_object
from llama2vec.cli.options import as_overrides, report
from llama2vec.errors import ConfigError, OutputExistsError
from llama2vec.files import FileKind, check_new, write_output
from llama2vec.manifest import MANIFEST_FILE, RUN_RECORD, SEEDS_FILE
from llama2vec.tables import Table
from llama2vec.terminal import counted, display, is_first_process

Seeds = Annotated[
    str | None,
    typer.Option(
        help="Repeat for these seeds, such as 0,1,2; each writes to OUTPUT/seed-N; ends with means and standard "
        "deviations."
    ),
]
ConfigT = TypeVar("ConfigT")
_KIND = FileKind("a table of seeds", rb'\{\s*"format": "llama2vec-seeds"')
_MOST = 2**32


def read_seeds(text: str, overrides: Sequence[str]) -> list[int]:
    """Read ``--seeds``.

    >>> read_seeds("0, 1,7", [])
    [0, 1, 7]

    Raises:
        ConfigError: Not whole numbers, one of them twice, or a seed that ``--set`` gives as well.
    """
    given = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and int(part) < _MOST for part in given):
        raise ConfigError(f"--seeds {text}: write whole numbers from 0 to {_MOST - 1:,} with commas, such as 0,1,2")
    seeds = [int(part) for part in given]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds {text}: a seed is given twice; name each once")
    for override in overrides:
        key = override.partition("=")[0].strip()
        # The validation's own seed is there to be the same for all.
        if key.rpartition(".")[2] == "seed" and not key.endswith("validation.seed"):
            raise ConfigError(f"--seeds and --set {override} both choose the seed; drop one")
    return seeds


def seed_folder(output: Path, seed: int) -> Path:
    """Return the folder of one seed's training."""
    return output / f"seed-{seed}"


def seeded(changes: Sequence[str], seed: int, output: Path) -> list[str]:
    """Return the overrides of one seed; in a tracker, its run is named after the folder of all."""
    name = as_overrides({"tracking.name": f"{output.resolve().name}-seed-{seed}"})
    return [*name, *changes, f"optimizer.seed={seed}"]


def train_with_seeds(
    verb: str,
    read: Callable[[list[str]], ConfigT],
    changes: list[str],
    output: Path,
    seeds: str | None,
    train: Callable[..., Mapping[str, float]],
    *,
    overwrite: bool,
) -> None:
    """Train once, or once for each seed that ``--seeds`` names; all their settings are read before the first training.

    Args:
        verb: The command.
        read: Reads the settings with these overrides.
        changes: The overrides that the command line gives.
        output: Folder of the training, or of the seeds' folders.
        seeds: What ``--seeds`` was given.
        train: Trains with settings into a folder, with ``overwrite`` by name; returns its figures by name.
        overwrite: Replace a training with other settings.
    """
    if seeds is None:
        train(read(changes), output, overwrite=overwrite)
        return
    numbers = read_seeds(seeds, changes)
    configs = {seed: read(seeded(changes, seed, output)) for seed in numbers}

    def again(seed: int, folder: Path) -> Mapping[str, float] | None:
        if not (folder / MANIFEST_FILE).is_file():
            return None
        return train(read(seeded(changes, seed, output)), folder, overwrite=False)

    run_seeds(verb, numbers, output, lambda seed, folder: train(configs[seed], folder, overwrite=overwrite), again)


def run_seeds(
    verb: str,
    seeds: Sequence[int],
    output: Path,
    train: Callable[[int, Path], Mapping[str, float]],
    again: Callable[[int, Path], Mapping[str, float] | None] = lambda *_: None,
) -> None:
    """Train once for each seed, then print and write what the seeds agree on.

    A seed that is finished is skipped by its training, so the same call resumes. Seeds of an earlier call stay in the
    table where they are finished with the same settings.

    Args:
        verb: The command, for the table.
        seeds: The seeds, in order.
        output: Folder that holds ``seed-N`` for each, and ``seeds.json``.
        train: Trains with a seed into a folder, and returns its figures by name.
        again: Returns the figures of a finished seed of an earlier call; None, or an OutputExistsError, where the
            folder holds nothing finished with these settings.

    Raises:
        ConfigError: ``output`` holds a training itself.
        OutputExistsError: ``seeds.json`` is something else.
    """
    taken = next((name for name in ("adapt.json", "finetune.json", RUN_RECORD) if (output / name).exists()), None)
    if taken:
        raise ConfigError(f"{output}: holds {taken}, a training of its own; choose another --output for --seeds")
    table = output / SEEDS_FILE
    check_new(table, overwrite=True, kind=_KIND)
    found = _earlier(table, verb, seeds, again)
    for place, seed in enumerate(seeds, start=1):
        folder = seed_folder(output, seed)
        report(f"Seed {seed} ({place} of {len(seeds)}): {folder}")
        found[seed] = train(seed, folder)
    if not is_first_process():
        return
    figures = summarized(found)
    content = {"format": "llama2vec-seeds", "version": 1, "verb": verb, "seeds": [*found], "figures": figures}
    write_output(table, json.dumps(content, indent=1, ensure_ascii=False) + "\n", _KIND, overwrite=True)
    _print(f"{verb}, {counted(len(found), 'seed')}", [*found], figures)
    report(f"Wrote {table}")


def _earlier(
    table: Path, verb: str, seeds: Sequence[int], again: Callable[[int, Path], Mapping[str, float] | None]
) -> dict[int, Mapping[str, float]]:
    """Return the figures of those seeds of a table that are not trained now; say which ones drop out of it."""
    written = read_object(table) or {}
    listed = written.get("seeds") if written.get("verb") == verb else None
    found: dict[int, Mapping[str, float]] = {}
    for seed in listed if isinstance(listed, list) else ():
        if not isinstance(seed, int) or seed in seeds:
            continue
        folder = seed_folder(table.parent, seed)
        report(f"Seed {seed} of {table}: {folder}")
        try:
            figures, why = again(seed, folder), "it is not finished with these settings"
        except OutputExistsError as error:
            figures, why = None, str(error)
        if figures is None:
            report(f"Seed {seed} leaves the table: {why}")
        else:
            found[seed] = figures
    return found


def losses_of(folder: Path) -> dict[str, float]:
    """Return the last losses and validation figures of a finished training."""
    found = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))["results"]["losses"]
    return {name: float(value) for name, value in found.items()}


def summarized(found: Mapping[int, Mapping[str, float]]) -> dict[str, dict[str, object]]:
    """Return, for each figure that every seed has, its values in the order of the seeds, their mean and deviation.

    The standard deviation is that of a sample (n - 1), None for a single seed.

    >>> summarized({0: {"loss": 1.0}, 1: {"loss": 3.0, "other": 1.0}})
    {'loss': {'values': [1.0, 3.0], 'mean': 2.0, 'std': 1.4142135623730951}}
    """
    rows = list(found.values())
    names = [name for name in rows[0] if all(name in row for row in rows)]
    values = {name: [row[name] for row in rows] for name in names}
    return {
        name: {"values": those, "mean": fmean(those), "std": stdev(those) if len(those) > 1 else None}
        for name, those in values.items()
    }


def _print(title: str, seeds: Sequence[int], figures: Mapping[str, Mapping[str, object]]) -> None:
    rows = [["Figure", *(f"seed {seed}" for seed in seeds), "mean", "std"]]
    for name, row in figures.items():
        numbers = [*row["values"], row["mean"], row["std"]]  # type: ignore[misc]
        rows.append([name, *("–" if number is None else f"{number:.4f}" for number in numbers)])
    display(Table(rows, title, "Lower is better for losses, higher for scores. std: standard deviation over the seeds"))
