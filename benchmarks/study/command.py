r"""The ablation study: which part of adaptation helps, zero-shot and after the same fine-tuning.

    python -m benchmarks.study --plan
    python -m benchmarks.study --data ../shared/data --work runs/study --output benchmarks/results/study.json
    python -m benchmarks.study --tables docs/study.md --plots benchmarks/results

Runs the cells that the results file lacks, the most informative first. Stop it at any time: scores are already in the
file, and a killed training resumes. Without --work nothing is trained. Add results of other machines with --merge.
Cells of different budgets share one file but are never compared.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.mistakes import told_in_one_line
from benchmarks.study.cells import Cell, chosen, plan
from benchmarks.study.estimates import Pace, minutes
from benchmarks.study.models import Models
from benchmarks.study.protocol import Protocol, load_protocol
from benchmarks.study.results import Results, add, missing_sets, read_results, state
from llama2vec.errors import ConfigError, MissingDependencyError, OutputExistsError
from llama2vec.files import FileKind, write_output
from llama2vec.locks import Lock

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with told_in_one_line():
        _do(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--work", type=Path, help="folder for pairs and models; without it nothing is trained")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/study.json"), help="the results file")
    parser.add_argument(
        "--budget",
        default="cpu",
        help="a file of benchmarks/study/budgets without its .toml, or a path to one like them",
    )
    parser.add_argument(
        "--cells", nargs="+", default=[], metavar="NAME=VALUE", help="only these, as adaptation=both seed=0,1"
    )
    parser.add_argument("--limit", type=_positive, help="run at most so many cells")
    parser.add_argument("--time", type=float, metavar="MINUTES", help="start only cells expected to end in time")
    parser.add_argument(
        "--plan", action="store_true", help="print the cells, their state and expected minutes, and stop"
    )
    parser.add_argument("--keep-models", action="store_true", help="keep merged weights as well as the adapters")
    parser.add_argument(
        "--merge", nargs="+", type=Path, default=[], metavar="JSON", help="add other results files first"
    )
    parser.add_argument("--tables", type=Path, metavar="MD", help="write all tables of the budget")
    parser.add_argument("--report", type=Path, metavar="HTML", help="write the budget as one self-contained page")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the learning curves of the budget")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def _do(options: argparse.Namespace) -> None:
    protocol = load_protocol(options.budget)
    cells = chosen(plan(protocol), options.cells)
    models = Models(
        protocol, options.data or Path(), (options.work or Path()) / protocol.name, keep=options.keep_models
    )
    if options.plan:
        print(plan_text(cells, protocol, read_results(options.output), models if options.work else None))
        return
    if not (options.work or options.merge or options.tables or options.plots or options.report):
        raise ConfigError("nothing to do; give --work to run cells, or --plan, --merge, --tables, --plots or --report")
    if options.work and options.data is None:
        raise ConfigError("cells are trained and scored on the data sets; give their folder with --data")
    for path in options.merge:
        if not path.is_file():
            raise ConfigError(f"--merge {path}: no such file")
        add(options.output, read_results(path))
    if options.work:
        run_cells(cells, models, options.output, limit=options.limit, most_minutes=options.time)
    pictures = _draw(options.plots, protocol, options.output) if options.plots else []
    if options.tables:
        _write_tables(options.tables, protocol, options.output, pictures)
    if options.report:
        _write_report(options.report, protocol, options.output)


def run_cells(
    cells: Sequence[Cell],
    models: Models,
    output: Path,
    *,
    limit: int | None = None,
    most_minutes: float | None = None,
) -> None:
    """Run the cells that a results file lacks, in their order.

    Args:
        cells: The cells to run.
        models: The models of the budget; one process at a time may use their folder.
        output: The results file.
        limit: Stop after this many cells.
        most_minutes: Stop before a cell that would end later than this many minutes from now.

    Raises:
        ConfigError: Another process uses the work folder.
    """
    from benchmarks.study.run import budget_facts

    models.work.mkdir(parents=True, exist_ok=True)
    lock = Lock(models.work / ".in-use")
    if not lock.acquire():
        raise ConfigError(f"{models.work} is in use by another process; wait for it, or give another --work")
    try:
        results = add(output, budget_facts(models.protocol, models.data))
        todo = [cell for cell in cells if missing_sets(results, models.protocol, cell)]
        _run_in_order(todo, models, output, limit, most_minutes)
    finally:
        lock.release()


def _run_in_order(
    todo: Sequence[Cell], models: Models, output: Path, limit: int | None, most_minutes: float | None
) -> None:
    from benchmarks.study.run import run_cell

    started, done = time.monotonic(), 0
    for place, cell in enumerate(todo):
        # Another process may have written meanwhile.
        results = read_results(output)
        if not missing_sets(results, models.protocol, cell):
            continue
        needed = minutes([cell], results, Pace(results, models.protocol), models)[cell]
        left = None if most_minutes is None else most_minutes - (time.monotonic() - started) / 60
        if (limit is not None and done >= limit) or (left is not None and needed > left):
            logger.info("stopped before %s (about %.0f minutes)", cell.key, needed)
            break
        logger.info("%s: about %.0f minutes", cell.key, needed)
        try:
            run_cell(cell, models, results, lambda new: add(output, new))
        except MissingDependencyError as error:
            if not cell.arm.is_reference:
                raise
            logger.warning("%s stays missing: %s", cell.key, error)
            continue
        done += 1
        following = todo[place + 1 : place + 2] if done != limit else []
        for one in {cell, cell.start} - {kept for later in following for kept in (later, later.start)}:
            models.tidy(one)


def plan_text(cells: Sequence[Cell], protocol: Protocol, results: Results, models: Models | None) -> str:
    """Return the cells with their state and expected minutes as a table for a terminal."""
    pace = Pace(results, protocol)
    expected = minutes(list(cells), results, pace, models)
    states = {cell: state(results, protocol, cell) for cell in cells}
    counts = Counter("in part" if " of " in one else one for one in states.values())
    known = ", ".join(f"{counts[name]} {name}" for name in ("done", "in part", "missing") if counts[name])
    basis = (
        f"from {pace.measured} cells measured on this machine" if pace.measured else "a first guess, nothing measured"
    )
    hours = sum(expected.values()) / 60
    lines = [f"budget {protocol.name}: {len(cells)} cells, {known}; about {hours:.1f} hours to go ({basis})", ""]
    names = ("adaptation", "recipe", "steps", "seed", "stage", "pairs", "pooling")
    rows = [["state", "minutes", *names]]
    for cell in cells:
        fields = {"adaptation": cell.arm.adaptation} if cell.arm.is_reference else cell.fields
        time_left = f"{expected[cell]:.0f}" if cell in expected else "–"
        rows.append([states[cell], time_left, *(fields.get(name, "–") for name in names)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines += ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def _draw(folder: Path, protocol: Protocol, output: Path) -> list[Path]:
    from benchmarks.study.comparisons import Scores
    from benchmarks.study.plots import draw_curves

    return draw_curves(Scores(read_results(output), protocol), folder)


def _write_tables(path: Path, protocol: Protocol, output: Path, pictures: Sequence[Path]) -> None:
    from benchmarks.study.comparisons import Scores
    from benchmarks.study.tables import HEADER, page

    if path.exists() and not path.read_text(encoding="utf-8").startswith(HEADER):
        raise OutputExistsError(f"{path} was not written by this command; choose another file for --tables")
    command = f"python -m benchmarks.study --budget {protocol.name} --output {output} --tables {path}"
    relative = [Path(os.path.relpath(one, path.parent)).as_posix() for one in pictures]
    kind = FileKind("a page of tables of this command", re.escape(HEADER.encode()))
    write_output(path, page(Scores(read_results(output), protocol), command, relative), kind, overwrite=True)


def _write_report(path: Path, protocol: Protocol, output: Path) -> None:
    from benchmarks.study.comparisons import Scores
    from benchmarks.study.report import study_page

    if path.suffix != ".html":
        raise ConfigError(f"--report {path} is replaced when it is there; give a path that ends in .html")
    command = f"python -m benchmarks.study --budget {protocol.name} --output {output} --report {path}"
    kind = FileKind("a page of this command", rb'<!DOCTYPE html>.*<meta name="generator" content="llama2vec ')
    write_output(path, study_page(Scores(read_results(output), protocol), output, command), kind, overwrite=True)
