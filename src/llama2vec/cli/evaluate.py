"""``llama2vec evaluate``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from llama2vec.cli.options import Device, Dtype, EncoderSets, Prompts, load_encoder
from llama2vec.errors import ConfigError, OutputExistsError
from llama2vec.records import Report

BM25 = "bm25"


def evaluate_command(
    model: Annotated[str, typer.Argument(help="Saved encoder, any causal LM, or bm25.")],
    data: Annotated[Path | None, typer.Option(help="BEIR folder: corpus, queries and qrels.")] = None,
    split: Annotated[str, typer.Option(help="Which qrels of the folder.")] = "test",
    sts: Annotated[Path | None, typer.Option(help="Sentence pairs (TSV or CSV) instead of --data.")] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write scores, intervals and settings here; values per query beside it.")
    ] = None,
    measures: Annotated[
        list[str] | None, typer.Option("--measure", help="nDCG@10, MRR@10, R@100, AP, …; may be repeated.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Keep the encoded corpus here; a killed evaluation resumes from it.")
    ] = None,
    depth: Annotated[int, typer.Option(min=1, help="Passages per query that are scored.")] = 1000,
    name: Annotated[str | None, typer.Option(help="Name of the system in the report.")] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    prompts: Prompts = None,
    sets: EncoderSets = None,
    overwrite: Annotated[bool, typer.Option(help="Replace --json.")] = False,
) -> None:
    """Score a model on a retrieval task or on sentence similarity."""
    if (data is None) == (sts is None):
        raise ConfigError("give either --data BEIR_FOLDER or --sts FILE")
    if json and json.exists() and not overwrite:
        raise OutputExistsError(f"{json}: is there already; pass --overwrite to replace it")
    if sts is not None and model == BM25:
        raise ConfigError("bm25 does not score sentence pairs; give a model")
    if data is not None and model == BM25:
        from llama2vec.pipeline.scoring import score_bm25

        reports = [score_bm25(data, split, measures=measures or (), depth=depth)]
    else:
        encoder = load_encoder(model, dtype, device, prompts, sets)
        from llama2vec.pipeline.scoring import score_retrieval, score_similarity

        if sts is not None:
            reports = [score_similarity(encoder, sts, name=name or model)]
        elif data is not None:
            beside = json.with_suffix(".store") if json and not store else None
            found = score_retrieval(
                encoder, data, split, name=name or model, measures=measures or (), depth=depth, store=store or beside
            )
            if beside:
                shutil.rmtree(beside)
            reports = [found]
    _show(reports, json, overwrite)


def _show(reports: Sequence[Report], json: Path | None, overwrite: bool) -> None:
    from rich.console import Console

    from llama2vec.evaluate.report import reports_to_json, rich_table, write_json, write_per_query

    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120).print(rich_table(reports))
    if json:
        json.parent.mkdir(parents=True, exist_ok=True)
        if reports[0].per_query:
            write_per_query(json.with_suffix(".per-query.tsv"), reports, overwrite=overwrite)
        write_json(json, reports_to_json(reports), overwrite=overwrite)
        typer.echo(f"Wrote {json}")
