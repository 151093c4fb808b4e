"""``llama2vec compare``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, cast

import typer
from pydantic import Field

from llama2vec.cli.options import READING_KEYS, DataRoot, ReadingSets, only_reading
from llama2vec.cli.settings_options import lists_settings, options_from, refuse_options
from llama2vec.config import Settings
from llama2vec.errors import ConfigError
from llama2vec.files import check_new
from llama2vec.terminal import counted, display

if TYPE_CHECKING:
    from llama2vec.data.settings import ReadingSettings, Ties
    from llama2vec.data.tasks.beir import BeirTask
    from llama2vec.records import Qrels, Run
    from llama2vec.score.comparison import Comparison, ComparisonOptions

logger = logging.getLogger(__name__)


class _Shown(Settings):
    """What is tested and listed."""

    all_pairs: bool = Field(default=False, description="Compare every pair of runs instead of each run with the first.")
    changed: int = Field(
        default=5, ge=0, le=1000, description="List this many of the most improved queries, and of the most worsened."
    )
    passages: int = Field(default=2, ge=0, le=1000, description="Passages shown for each listed query and run.")
    ties: str | None = Field(
        default=None,
        description="Order of equal scores: trec_eval or id (ascending); default: as the run's own result has it, for "
        "other runs trec_eval.",
    )
    flips: int = Field(default=100_000, ge=1, description="Random sign patterns in the randomization test.")
    seed: int = Field(default=0, ge=0, description="Seed of the randomization test and the bootstrap.")


@options_from(_Shown, "shown", panel="Tests and lists")
@lists_settings(READING_KEYS)
def compare_command(
    shown: _Shown,
    runs: Annotated[
        list[str],
        typer.Argument(
            help="TREC runs of any system, or folders of results: of several seeds, of `run`, of `evaluate` (FOLDER or "
            "FOLDER:SYSTEM); the first is the baseline."
        ),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write all to this JSON file.")] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Task with the judgments and texts: a BEIR folder (PATH or PATH:SPLIT), beir/NAME, ir:ID."),
    ] = None,
    data_root: DataRoot = "data",
    qrels: Annotated[Path | None, typer.Option(help="TREC or BEIR judgments instead of the task's.")] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metric", help="nDCG@10 (the default for runs), MRR@10, R@100, AP, …; repeatable."),
    ] = None,
    sets: ReadingSets = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --output.")] = False,
) -> None:
    """Test whether one run is better than another, query by query.

    Where a folder holds several seeds, each query counts with its mean over them.
    """
    from llama2vec.score.comparison import ComparisonOptions, check_options
    from llama2vec.score.methods import method_folder
    from llama2vec.score.results import COMPARISON_FILE, write_comparisons
    from llama2vec.score.tasks import task_places

    if shown.ties not in (None, "trec_eval", "id"):
        raise ConfigError(f"--ties {shown.ties}: choose trec_eval or id")
    folders = [method_folder(run) for run in runs]
    read = [*(found[0] if found else run for found, run in zip(folders, runs, strict=True)), qrels]
    read += [] if all(folders) or task is None else task_places([task], data_root)
    check_new(output, overwrite=overwrite, inputs=read, kind=COMPARISON_FILE)
    check_options(options := ComparisonOptions(**shown.model_dump(exclude={"ties"})))
    wanted = list(dict.fromkeys(metrics or []))
    if any(folders):
        of_runs = {"--qrels": qrels, "--set": sets, "--ties": shown.ties}
        comparisons = _compare_folders(_all_folders(runs, folders, of_runs), task, wanted, options)
    else:
        if task is None:
            refuse_options({"--set": sets}, "says how the corpus of --task is read, and no task is named")
        asked = _Judged(task, data_root, qrels, only_reading(sets, "compare"))
        ties = cast("Ties | None", shown.ties)
        comparisons = _compare_runs([*map(Path, runs)], asked, ties, wanted or ["nDCG@10"], options)
    if output:
        write_comparisons(output, comparisons, overwrite=overwrite)
    _show(comparisons, _missing_texts(comparisons, task, are_folders=any(folders)) if shown.passages else "")
    if output:
        display(f"Wrote {output}")


def _show(comparisons: Sequence[Comparison], note: str) -> None:
    """Print the tables of each comparison, and a line about all of them."""
    from llama2vec.score.report.text import terminal_comparison

    for comparison in comparisons:
        display(*terminal_comparison(comparison), "")
    if note:
        display(note, "")


def _missing_texts(comparisons: Sequence[Comparison], task: str | None, *, are_folders: bool) -> str:
    """Say why the changed queries have no passages, or only ids, and what to give; "" where there is nothing to say."""
    if not any(pair.changed for comparison in comparisons for pair in comparison.pairs):
        return ""
    if are_folders:
        return (
            "Passages are not shown for folders, whose values may be means over seeds; to read them, compare two runs: "
            "the .trec files in these folders, with --task"
        )
    return "" if task else "Passages are shown by their ids alone; to read them, name the task with --task"


class _Judged(NamedTuple):
    """Where judgments and texts are."""

    task: str | None
    data_root: str
    qrels: Path | None
    reading: ReadingSettings


def _compare_runs(
    paths: Sequence[Path], asked: _Judged, ties: Ties | None, metrics: Sequence[str], options: ComparisonOptions
) -> list[Comparison]:
    from llama2vec.data.tasks.ties import kept_apart
    from llama2vec.data.tasks.trec import read_qrels
    from llama2vec.score.comparison import compare_runs, with_texts
    from llama2vec.score.metrics import tell_of_ties
    from llama2vec.score.runs import check_same_corpus, read_named_runs, ties_of
    from llama2vec.score.tasks import retrieval_task

    if asked.task is None and asked.qrels is None:
        raise ConfigError("runs need judgments; give --task or --qrels FILE")
    data = retrieval_task(asked.task, asked.data_root, asked.reading) if asked.task else None
    judgments = read_qrels(asked.qrels) if asked.qrels else data.qrels if data else {}
    named = read_named_runs(paths)
    check_same_corpus(paths, data.corpus_source if data else None)
    orders = [ties or ties_of(path) for path in paths]
    for run, order in zip(named, orders, strict=True):
        tell_of_ties(run, judgments, metrics, order)
    named = [kept_apart(run, order) for run, order in zip(named, orders, strict=True)]
    if asked.task and data:
        named = _without_own(named, paths, asked.task, data, judgments, asked.reading)
    name = _task_name(paths, data, asked.qrels, judgments)
    comparisons = compare_runs(named, judgments, metrics=metrics, task=name, options=options)
    chosen = {"ties": {run.tag: order for run, order in zip(named, orders, strict=True)}}
    comparisons = [replace(one, settings={**one.settings, **chosen}) for one in comparisons]
    if data:
        comparisons = with_texts(comparisons, named, data.queries, data.corpus_source, asked.reading)
    return comparisons


def _all_folders(
    named: Sequence[str], folders: Sequence[tuple[Path, str] | None], of_runs: Mapping[str, object]
) -> list[tuple[Path, str]]:
    """Return the folders; refuse a run among them, and what concerns runs alone."""
    odd = next((run for run, found in zip(named, folders, strict=True) if not found), None)
    if odd is not None:
        raise ConfigError(f"{odd} is not a folder, and the others are; compare runs, or folders of results")
    refuse_options(of_runs, "belongs to runs, and these are folders")
    return [found for found in folders if found]


def _compare_folders(
    folders: Sequence[tuple[Path, str]], task: str | None, metrics: Sequence[str], options: ComparisonOptions
) -> list[Comparison]:
    from llama2vec.score.methods import compare_methods, read_method
    from llama2vec.score.metrics import metric_cutoffs
    from llama2vec.score.tasks import find_task

    metric_cutoffs(metrics)
    name = find_task(task).name if task else ""
    methods = [read_method(folder, system) for folder, system in folders]
    return compare_methods(methods, task=name, metrics=metrics, options=options)


def _without_own(
    runs: Sequence[Run], paths: Sequence[Path], task: str, data: BeirTask, judgments: Qrels, reading: ReadingSettings
) -> list[Run]:
    """Return the runs without the passages that evaluating them skips, because they are the queries."""
    from llama2vec.retrieve.search.fusion import first_of_each
    from llama2vec.score.corpora import left_out, warn_of_own_passages
    from llama2vec.score.runs import same_id_choice
    from llama2vec.score.tasks import find_task

    exclude = same_id_choice(paths, find_task(task).exclude_same_id)
    if own := left_out(exclude, data, judgments, runs, reading):
        logger.info(
            "%s: the passage of the same id is left out for %s", data.name, counted(len(own), "query", "queries")
        )
    kept = [first_of_each(run, None, own) for run in runs]
    for run in kept:
        warn_of_own_passages(find_task(task), run, judgments)
    return kept


def _task_name(runs: Sequence[Path], data: BeirTask | None, qrels: Path | None, judgments: Qrels) -> str:
    """Return the name of the judgments: that of the task in the runs' results, where these used the same ones."""
    from llama2vec.score.runs import task_of
    from llama2vec.score.tasks import judgments_fingerprint

    if data is not None and judgments == data.qrels:
        return task_of(runs, judgments_fingerprint(data)) or data.name
    return _judgments_name(qrels) if qrels else ""


def _judgments_name(qrels: Path) -> str:
    """Return a name for a judgment file: that of a BEIR folder and its split, or of the file."""
    stem = Path(qrels.name.removesuffix(".gz")).stem
    return f"{qrels.parent.parent.name}/{stem}" if qrels.parent.name == "qrels" and qrels.parent.parent.name else stem
