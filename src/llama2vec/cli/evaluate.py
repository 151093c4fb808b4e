"""``llama2vec evaluate``."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from llama2vec.cli.options import Device, Dtype, EncoderSets, Prompts, check_language_option, load_encoder
from llama2vec.errors import ConfigError, OutputExistsError
from llama2vec.records import Report

if TYPE_CHECKING:
    from llama2vec.score.evaluator import EvaluationOptions, System
    from llama2vec.score.scoring import SearchMode

BM25 = "bm25"


def evaluate_command(
    model: Annotated[str, typer.Argument(help="Saved encoder, any causal LM, or bm25.")],
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            help="beir/NAME, msmarco/passage/dev, msmarco/document/dev, trec-dl/2019[/document], sts/NAME, "
            "a BEIR folder (PATH or PATH:SPLIT), ir:ID, a TSV or CSV of sentence pairs, hf:NAME; may be repeated.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the scores of --task; the same command again goes on in it."),
    ] = None,
    data_root: Annotated[
        Path, typer.Option(envvar="LLAMA2VEC_DATA", help="Where named tasks are looked for, as beir/NAME and the like.")
    ] = Path("data"),
    windows: Annotated[
        str | None, typer.Option(help="Cut documents into windows: maxp scores the best one, firstp the first alone.")
    ] = None,
    window_tokens: Annotated[
        int | None, typer.Option(min=2, help="Tokens of a window; default: as many as the model reads of a passage.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Tokens from one window's beginning to the next; default: half a window.")
    ] = None,
    exclude_same_id: Annotated[
        bool | None,
        typer.Option(help="Leave out the passage that has its query's id; default: as the task says (ArguAna does)."),
    ] = None,
    encode_only: Annotated[
        bool,
        typer.Option("--encode-only", help="Only encode the tasks' corpora into --store; many processes may share."),
    ] = False,
    data: Annotated[Path | None, typer.Option(help="One BEIR folder instead of --task.")] = None,
    split: Annotated[str, typer.Option(help="Which qrels of --data.")] = "test",
    sts: Annotated[Path | None, typer.Option(help="Sentence pairs (TSV or CSV) instead of --data.")] = None,
    json: Annotated[
        Path | None,
        typer.Option(help="Write scores, intervals and settings of --data or --sts here; values per query beside it."),
    ] = None,
    measures: Annotated[
        list[str] | None, typer.Option("--measure", help="nDCG@10, MRR@10, R@100, AP, …; may be repeated.")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(help="Keep the encoded corpus here; with --task a folder of stores, and those in it are used."),
    ] = None,
    depth: Annotated[
        int | None, typer.Option(min=1, help="Passages per query that are scored; default: the task's, or 1000.")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="dense, or hybrid: the model's vectors and BM25 together, as `search` does.")
    ] = "dense",
    language: Annotated[str, typer.Option(help="Of BM25's words, with bm25 and hybrid: en, de, zh, …")] = "en",
    name: Annotated[str | None, typer.Option(help="Name of the system in the report.")] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    prompts: Prompts = None,
    sets: EncoderSets = None,
    overwrite: Annotated[bool, typer.Option(help="Replace --json, or score finished tasks again.")] = False,
) -> None:
    """Score a model on named tasks, on a BEIR folder or on sentence similarity."""
    if [bool(tasks), data is not None, sts is not None].count(True) != 1:
        raise ConfigError("give --task NAME, or either --data BEIR_FOLDER or --sts FILE")
    search_mode = _search_mode(mode, model, sts)
    check_language_option(language)
    name = name or (f"{model}+bm25" if search_mode == "hybrid" else model)
    if not tasks:
        set_ = [output, windows, window_tokens, stride, exclude_same_id]
        if encode_only or any(option is not None for option in set_):
            raise ConfigError("--output, windows, --exclude-same-id and --encode-only belong to --task; write --task")
        load = (dtype, device, prompts, sets)
        how = (depth or 1000, search_mode, language)
        _evaluate_one(model, data, split, sts, json, measures, store, how, name, load, overwrite)
        return
    if json is not None:
        raise ConfigError("--json belongs to --data and --sts; with --task give a folder with --output")
    if windows not in (None, "maxp", "firstp"):
        raise ConfigError(f"--windows {windows}: choose maxp or firstp")
    _check_names(tasks)
    encoder = None if model == BM25 else load_encoder(model, dtype, device, prompts, sets)
    from llama2vec.score.evaluator import EvaluationOptions, System

    options = EvaluationOptions(
        output or Path(), data_root, tuple(measures or ()), depth,
        cast('Literal["maxp", "firstp"] | None', windows), window_tokens, stride, exclude_same_id, store, overwrite,
    )  # fmt: skip
    _evaluate_tasks(System(name, encoder, search_mode, language), tasks, options, output, encode_only)


def _search_mode(mode: str, model: str, sts: Path | None) -> SearchMode:
    if mode not in ("dense", "hybrid"):
        raise ConfigError(f"--mode {mode}: choose dense or hybrid; BM25 alone is the model bm25")
    if mode == "hybrid" and model == BM25:
        raise ConfigError("--mode hybrid joins BM25 with a model's vectors; give a model in place of bm25")
    if mode == "hybrid" and sts is not None:
        raise ConfigError("--sts: sentence pairs are not searched; leave out --mode hybrid")
    return cast("SearchMode", mode)


def _check_names(tasks: Sequence[str]) -> None:
    """Refuse a name with a typo before a model is loaded."""
    from llama2vec.score.tasks import find_task

    for task in tasks:
        find_task(task)


def _evaluate_tasks(
    system: System, tasks: Sequence[str], options: EvaluationOptions, output: Path | None, encode_only: bool
) -> None:
    from rich.console import Console

    from llama2vec.score.evaluator import encode_tasks, evaluate_tasks
    from llama2vec.score.task_table import task_table

    if encode_only:
        for store in encode_tasks(system, tasks, options):
            typer.echo(f"Encoded {len(store):,} passages [D={store.dimension}] to {store.path}")
        return
    scratch: Any = nullcontext(output) if output else tempfile.TemporaryDirectory(prefix="llama2vec-")
    with scratch as folder:
        scores = evaluate_tasks(system, tasks, replace(options, output=Path(folder)))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 140).print(task_table(scores))
    if output:
        kept = sum(score.skipped for score in scores)
        typer.echo(f"Scored {len(scores) - kept} tasks, kept {kept}: {output}")


def _evaluate_one(
    model: str,
    data: Path | None,
    split: str,
    sts: Path | None,
    json: Path | None,
    measures: list[str] | None,
    store: Path | None,
    how: tuple[int, SearchMode, str],
    name: str,
    load: tuple[str, str, str | None, list[str] | None],
    overwrite: bool,
) -> None:
    """Score one folder or one file and show a table with all measures."""
    depth, mode, language = how
    if json and json.exists() and not overwrite:
        raise OutputExistsError(f"{json}: is there already; pass --overwrite to replace it")
    if sts is not None and model == BM25:
        raise ConfigError("bm25 does not score sentence pairs; give a model")
    if data is not None and model == BM25:
        from llama2vec.score.scoring import score_bm25

        reports = [score_bm25(data, split, measures=measures or (), depth=depth, language=language)]
    else:
        encoder = load_encoder(model, *load)
        from llama2vec.score.scoring import score_retrieval, score_similarity

        if sts is not None:
            reports = [score_similarity(encoder, sts, name=name)]
        elif data is not None:
            beside = json.with_suffix(".store") if json and not store else None
            found = score_retrieval(
                encoder, data, split, name=name, measures=measures or (), depth=depth,
                store=store or beside, mode=mode, language=language,
            )  # fmt: skip
            if beside:
                shutil.rmtree(beside)
            reports = [found]
    _show(reports, json, overwrite)


def _show(reports: Sequence[Report], json: Path | None, overwrite: bool) -> None:
    from rich.console import Console

    from llama2vec.score.tables import reports_to_json, rich_table, write_json, write_per_query

    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120).print(rich_table(reports))
    if json:
        json.parent.mkdir(parents=True, exist_ok=True)
        if reports[0].per_query:
            write_per_query(json.with_suffix(".per-query.tsv"), reports, overwrite=overwrite)
        write_json(json, reports_to_json(reports), overwrite=overwrite)
        typer.echo(f"Wrote {json}")
