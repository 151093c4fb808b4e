"""``llama2vec compare``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field

from llama2vec.cli.options import READING_KEYS, DataRoot, ReadingSets, only_reading
from llama2vec.cli.settings_options import lists_settings, options_from, refuse_options
from llama2vec.config import Settings
from llama2vec.errors import ConfigError
from llama2vec.files import check_new
from llama2vec.terminal import counted

if TYPE_CHECKING:
    from llama2vec.data.settings import ReadingSettings
    from llama2vec.data.tasks.beir import BeirTask
    from llama2vec.records import Qrels, Run

logger = logging.getLogger(__name__)


class _Shown(Settings):
    """What is tested and listed."""

    all_pairs: bool = Field(default=False, description="Compare every pair of runs instead of each run with the first.")
    changed: int = Field(
        default=5, ge=0, le=1000, description="List this many of the most improved queries, and of the most worsened."
    )
    passages: int = Field(default=2, ge=0, le=1000, description="Passages shown for each listed query and run.")
    flips: int = Field(default=100_000, ge=1, description="Random sign patterns in the randomization test.")
    seed: int = Field(default=0, ge=0, description="Seed of the randomization test and the bootstrap.")


@options_from(_Shown, "shown", panel="Tests and lists")
@lists_settings(READING_KEYS)
def compare_command(
    shown: _Shown,
    runs: Annotated[list[Path], typer.Argument(help="TREC runs of any system; the first is the baseline.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write everything to this JSON file.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Task with the judgments and texts: a BEIR folder (PATH or PATH:SPLIT), beir/NAME, ir:ID."),
    ] = None,
    data_root: DataRoot = "data",
    qrels: Annotated[Path | None, typer.Option(help="TREC or BEIR judgments instead of the task's.")] = None,
    metrics: Annotated[
        list[str] | None, typer.Option("--metric", help="nDCG@10 (the default), MRR@10, R@100, AP, …; repeatable.")
    ] = None,
    sets: ReadingSets = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --output.")] = False,
) -> None:
    """Test whether one run is better than another, query by query."""
    from llama2vec.data.tasks.trec import read_qrels
    from llama2vec.score.comparison import ComparisonOptions, check_options, compare_runs, with_texts
    from llama2vec.score.report.text import terminal_comparison
    from llama2vec.score.results import COMPARISON_FILE, check_same_corpus, read_named_runs, write_comparisons
    from llama2vec.score.tasks import retrieval_task, task_places
    from llama2vec.terminal import table_console

    if task is None:
        refuse_options({"--set": sets}, "says how the corpus of --task is read, and no task is named")
    reading = only_reading(sets, "compare")
    read = [*runs, qrels, *(task_places([task], data_root) if task else ())]
    check_new(output, overwrite=overwrite, inputs=read, kind=COMPARISON_FILE)
    check_options(options := ComparisonOptions(**shown.model_dump()))
    if task is None and qrels is None:
        raise ConfigError("runs need judgments; give --task or --qrels FILE")
    data = retrieval_task(task, data_root) if task else None
    judgments = read_qrels(qrels) if qrels else data.qrels if data else {}
    named = read_named_runs(runs)
    check_same_corpus(runs, data.corpus_source if data else None)
    if task and data:
        named = _without_own(named, runs, task, data, judgments, reading)
    wanted = list(dict.fromkeys(metrics or ["nDCG@10"]))
    name = _task_name(runs, data, qrels, judgments)
    comparisons = compare_runs(named, judgments, metrics=wanted, task=name, options=options)
    if data:
        comparisons = with_texts(comparisons, named, data.queries, data.corpus_source, reading)
    if output:
        write_comparisons(output, comparisons, overwrite=overwrite)
    console = table_console(120)
    for comparison in comparisons:
        console.print(terminal_comparison(comparison))
        console.print()
    if output:
        typer.echo(f"Wrote {output}")


def _without_own(
    runs: Sequence[Run], paths: Sequence[Path], task: str, data: BeirTask, judgments: Qrels, reading: ReadingSettings
) -> list[Run]:
    """Return the runs without the passages that evaluating them skips, because they are the queries."""
    from llama2vec.retrieve.search.fusion import first_of_each
    from llama2vec.score.results import same_id_choice
    from llama2vec.score.tasks import find_task, left_out

    exclude = same_id_choice(paths, find_task(task).exclude_same_id)
    if own := left_out(exclude, data, judgments, runs, reading):
        logger.info(
            "%s: the passage of the same id is left out for %s", data.name, counted(len(own), "query", "queries")
        )
    return [first_of_each(run, None, own) for run in runs]


def _task_name(runs: Sequence[Path], data: BeirTask | None, qrels: Path | None, judgments: Qrels) -> str:
    """Return the name of the judgments: that of the task in the runs' results, where these used the same ones."""
    from llama2vec.score.results import task_of
    from llama2vec.score.tasks import judgments_fingerprint

    if data is not None and judgments == data.qrels:
        return task_of(runs, judgments_fingerprint(data)) or data.name
    return _judgments_name(qrels) if qrels else ""


def _judgments_name(qrels: Path) -> str:
    """Return a name for a judgment file: that of a BEIR folder and its split, or of the file."""
    stem = Path(qrels.name.removesuffix(".gz")).stem
    return f"{qrels.parent.parent.name}/{stem}" if qrels.parent.name == "qrels" and qrels.parent.parent.name else stem
