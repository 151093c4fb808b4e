"""``llama2vec evaluate``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama2vec.cli.options import Device, Dtype, EncoderSets, Prompts, load_encoder
from llama2vec.errors import ConfigError, OutputExistsError
from llama2vec.manifest import machine, versions
from llama2vec.records import Report

if TYPE_CHECKING:
    from llama2vec.data.beir import BeirTask

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
    if sts is not None:
        if model == BM25:
            raise ConfigError("bm25 does not score sentence pairs; give a model")
        reports = [_sentence_similarity(load_encoder(model, dtype, device, prompts, sets), sts, name or model)]
    elif model == BM25:
        reports = [_bm25(data, split, measures, depth)]  # type: ignore[arg-type]
    else:
        encoder = load_encoder(model, dtype, device, prompts, sets)
        beside = json.with_suffix(".store") if json else None
        reports = [_retrieval(encoder, data, split, measures, depth, name or model, store, beside)]  # type: ignore[arg-type]
    _show(reports, json, overwrite)


def _retrieval(
    encoder: Any, folder: Path, split: str, measures: Sequence[str] | None, depth: int, name: str,
    store_folder: Path | None, beside: Path | None,
) -> Report:  # fmt: skip
    import tempfile

    from llama2vec.data.beir import read_beir
    from llama2vec.data.corpus import corpus_fingerprint, read_passages
    from llama2vec.evaluate.metrics import DEFAULT_MEASURES, evaluate_run
    from llama2vec.retrieve.index import ExactIndex
    from llama2vec.retrieve.search import search
    from llama2vec.retrieve.store import write_store

    task = read_beir(folder, split)
    total = _check_task(task)
    with tempfile.TemporaryDirectory(prefix="llama2vec-") as scratch:
        store = write_store(
            lambda: read_passages(task.corpus_source), encoder, store_folder or beside or Path(scratch) / "store",
            source={"corpus": task.corpus_source, "fingerprint": corpus_fingerprint(task.corpus_source)},
            shard_size=1024, total=total,
        )  # fmt: skip
        run = search(ExactIndex(store), encoder, task.queries, depth=depth, tag=name)
    report = evaluate_run(run, task.qrels, task=task.name, measures=measures or DEFAULT_MEASURES)
    if beside and not store_folder:
        shutil.rmtree(beside)
    return _with_settings(report, encoder)


def _check_task(task: BeirTask) -> int:
    """Read the whole corpus before any work: faulty lines and unknown judged passages show now, not after hours."""
    from llama2vec.data.beir import check_judged_passages
    from llama2vec.data.corpus import read_passages

    judged = {passage_id for gains in task.qrels.values() for passage_id in gains}
    known: set[str] = set()
    total = 0
    for passage in read_passages(task.corpus_source):
        total += 1
        if passage.id in judged:
            known.add(passage.id)
    check_judged_passages(task.qrels, known)
    return total


def _bm25(folder: Path, split: str, measures: Sequence[str] | None, depth: int) -> Report:
    from llama2vec.data.beir import read_beir
    from llama2vec.data.corpus import read_passages
    from llama2vec.evaluate.metrics import DEFAULT_MEASURES, evaluate_run
    from llama2vec.retrieve.lexical import Bm25Index

    task = read_beir(folder, split)
    _check_task(task)
    run = Bm25Index.build(read_passages(task.corpus_source)).search(task.queries, depth=depth)
    return evaluate_run(run, task.qrels, task=task.name, measures=measures or DEFAULT_MEASURES)


def _sentence_similarity(encoder: Any, file: Path, name: str) -> Report:
    from llama2vec.data.sts import read_sentence_pairs
    from llama2vec.evaluate.significance import bootstrap_spearman_interval
    from llama2vec.evaluate.sts import score_similarities

    pairs = read_sentence_pairs(file)
    sentences = list(dict.fromkeys(sentence for pair in pairs for sentence in (pair.first, pair.second)))
    row = {sentence: number for number, sentence in enumerate(sentences)}
    vectors = encoder.encode_queries(sentences)
    similarities = [float(vectors[row[pair.first]] @ vectors[row[pair.second]]) for pair in pairs]
    gold = [pair.score for pair in pairs]
    scores = score_similarities(similarities, gold)
    report = Report(
        task=f"sts/{file.stem}",
        system=name,
        metrics=scores,
        intervals={"spearman": bootstrap_spearman_interval(similarities, gold)},
        settings={"pairs": len(pairs)},
    )
    return _with_settings(report, encoder)


def _with_settings(report: Report, encoder: Any) -> Report:
    import dataclasses

    facts = {"contract_hash": encoder.contract_hash, "encoder": encoder.contract.encoder.model_dump()}
    where = {"versions": versions(), "machine": machine()}
    return dataclasses.replace(report, settings={**report.settings, **facts, **where})


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
