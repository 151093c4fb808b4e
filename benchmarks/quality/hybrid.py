r"""Score dense, BM25 and hybrid search on samples of every retrieval set, and how they differ per query.

    python -m benchmarks.quality.hybrid --data ../shared/data --model runs/adapted --work runs/hybrid \
        --output benchmarks/results/hybrid-smollm2-cpu.json

Rows: ``dense`` (the vectors), ``bm25``, and two fusions of them: ``rrf`` (reciprocal ranks) and ``min-max`` (scores on
one scale, equal weights: no weight is tuned). The samples are those of a budget of the study: easier than the whole
sets, and the same for all rows. ``--peer`` adds all-MiniLM-L6-v2, alone and with BM25, so that fusions are compared
with fusions. ``--sts`` adds STS-B. A task that the file holds is not run again. Vectors stay in ``--work``.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.provenance import made_by
from benchmarks.quality.systems import Embed, minilm
from benchmarks.study.protocol import Sets, load_protocol
from benchmarks.study.sets import SampledSet, dense_run, embedding, sampled_set, score_pairs
from llama2vec.files import write_json
from llama2vec.model.encoder import Encoder
from llama2vec.records import Report, Run
from llama2vec.retrieve.index.folder import build_index
from llama2vec.retrieve.index.lexical import Bm25Index
from llama2vec.retrieve.search.fusion import (
    FUSED_DEPTH,
    Fusion,
    FusionMethod,
    Mode,
    min_max_fusion,
    reciprocal_rank_fusion,
)
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.retrieve.store.number_format import warn_of_another_format
from llama2vec.retrieve.store.writer import write_store
from llama2vec.score.metrics import evaluate_run
from llama2vec.score.significance import bootstrap_interval

SINGLE: tuple[Mode, ...] = ("dense", "bm25")
METHODS: tuple[FusionMethod, ...] = ("rrf", "min-max")
MIXED = tuple(f"{method}(dense+bm25)" for method in METHODS)
ROWS = (*SINGLE, *MIXED)
PAIRS = (
    *(("dense", row) for row in ROWS[1:]),
    *(("bm25", row) for row in ROWS[2:]),
)
"""(first, second): differences are second - first."""
PEER = "all-MiniLM-L6-v2"


def main() -> None:
    """Score what is missing of the chosen tasks."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--model", required=True, help="encoder with slots, such as one that adapt wrote")
    options.add_argument("--work", type=Path, required=True, help="folder for stores and indexes, one a model")
    options.add_argument("--output", type=Path, required=True)
    options.add_argument("--tasks", nargs="+", metavar="SET", help="some of the budget's sets; all unless told")
    options.add_argument("--budget", default="cpu", help="of the study: its sets are searched, texts cut as there")
    options.add_argument("--peer", action="store_true", help=f"also {PEER}, alone and with BM25")
    options.add_argument("--sts", action="store_true", help="also the correlation on the budget's sentence pairs")
    arguments = options.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    sets = load_protocol(arguments.budget).sets
    unknown = sorted(set(arguments.tasks or ()) - set(sets.retrieval))
    if unknown:
        sys.exit(f"--tasks {unknown[0]}: no set of budget {arguments.budget}; choose from {', '.join(sets.retrieval)}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"tasks": {}}
    if arguments.output.exists():
        results = json.loads(arguments.output.read_text(encoding="utf-8"))
    settings = {"model": arguments.model, "sets": sets.model_dump(), "depth": FUSED_DEPTH}
    # Older files also say how the sparse vectors of removed rows were made.
    if {name: results.setdefault("settings", settings)[name] for name in settings} != settings:
        sys.exit(f"{arguments.output} was made with {results['settings']}; choose another file")
    encoder: Encoder | None = None
    peer: Embed | None = None
    for task in arguments.tasks or sets.retrieval:
        known = results["tasks"].get(task, {}).get("rows", {})
        lacks_peer = arguments.peer and PEER not in known
        if known and not lacks_peer:
            continue
        sample = sampled_set(arguments.data / task, sets)
        if not known:
            encoder = encoder or sample_encoder(arguments.model, sets)
            results["tasks"][task] = score(sample, encoder, arguments.work / task)
            results |= {"contract_hash": encoder.contract_hash, **made_by()}
        rows = results["tasks"][task]["rows"]
        if lacks_peer:
            peer = peer or minilm(sets.max_tokens)
            rows |= peer_rows(sample, peer, rows["bm25"])
            results["peer"] = made_by()
        write_json(arguments.output, results)
        logging.info("%s: %s", task, {row: found["nDCG@10"] for row, found in rows.items()})
    for name in sets.sts if arguments.sts else ():
        if name not in results.setdefault("sts", {}):
            encoder = encoder or sample_encoder(arguments.model, sets)
            results["sts"][name] = score_pairs(arguments.data / name, embedding(encoder))
            write_json(arguments.output, results | made_by())
            logging.info("%s: %.3f", name, results["sts"][name]["spearman"])
    _print(results, sets)


def sample_encoder(model: str, sets: Sets) -> Encoder:
    """Load the model; texts are cut where the study cuts them."""
    encoder = Encoder.load(model)
    limits = {"query_max_tokens": sets.max_tokens, "passage_max_tokens": sets.max_tokens}
    encoder.contract = replace(encoder.contract, encoder=encoder.contract.encoder.model_copy(update=limits))
    return encoder


def score(sample: SampledSet, encoder: Encoder, work: Path) -> dict[str, Any]:
    """Search a sample by every row; return nDCG@10 with intervals, per query, and paired differences."""
    task, passages = sample.task, sample.passages
    seconds: dict[str, float] = {}
    single = single_runs(encoder, sample, work, seconds)
    runs: dict[str, Run] = {**single}
    for row, method in zip(MIXED, METHODS, strict=True):
        runs[row] = Fusion(method).fuse(single, FUSED_DEPTH)
    reports = {row: evaluate_run(runs[row], task.qrels, task=task.name) for row in ROWS}
    rows = {row: scored_row(report) for row, report in reports.items()}
    per_query = {row: report.per_query["nDCG@10"] for row, report in reports.items()}
    differences = {f"{second} - {first}": difference(per_query[first], per_query[second]) for first, second in PAIRS}
    facts = {"queries": len(task.queries), "passages": len(passages), "seconds": seconds}
    return {**facts, "rows": rows, "differences": differences}


def single_runs(encoder: Encoder, sample: SampledSet, work: Path, seconds: dict[str, float]) -> dict[Mode, Run]:
    """Encode and index the passages as `encode` and `index --bm25` do; return a run of each mode.

    What an earlier call left in the folder is used; the store refuses another model or other passages.
    """
    started = time.monotonic()
    source: dict[str, object] = {"sample": sample.facts["fingerprint"]}
    store = write_store(lambda: iter(sample.passages), encoder, work / "store", source=source)
    warn_of_another_format(store, encoder.dtype)
    seconds["encode"] = round(time.monotonic() - started, 1)
    started = time.monotonic()
    build_index(store, work / "index", bm25="en")
    seconds["index bm25"] = round(time.monotonic() - started, 1)
    retriever = Retriever.open(work / "index", encoder)
    runs: dict[Mode, Run] = {}
    for mode in SINGLE:
        started = time.monotonic()
        runs[mode] = retriever.search(sample.task.queries, mode, FUSED_DEPTH)
        seconds[f"search {mode}"] = round(time.monotonic() - started, 2)
    return runs


def peer_rows(sample: SampledSet, embed: Embed, bm25: dict[str, Any]) -> dict[str, Any]:
    """Return the rows of the peer, alone and with BM25, joined as deep and by the same two rules as ours.

    Args:
        sample: What is searched.
        embed: The peer.
        bm25: The row of BM25 that is there; the fusion must use the same one.
    """
    task = sample.task
    asked = embed([query.text for query in task.queries], True)["minilm"]
    passages = embed([passage.full_text for passage in sample.passages], False)["minilm"]
    dense = dense_run(asked, passages, sample, FUSED_DEPTH)
    words = Bm25Index.build(sample.passages).search(task.queries, depth=FUSED_DEPTH)
    if scored_row(evaluate_run(words, task.qrels, task=task.name))["per_query"] != bm25["per_query"]:
        sys.exit(f"{task.name}: BM25 ranks other than in the file; choose another --output")
    runs = {
        PEER: dense,
        f"rrf({PEER}+bm25)": reciprocal_rank_fusion([dense, words]),
        f"min-max({PEER}+bm25)": min_max_fusion([dense, words], lexical=[False, True]),
    }
    return {name: scored_row(evaluate_run(run, task.qrels, task=task.name)) for name, run in runs.items()}


def scored_row(report: Report) -> dict[str, Any]:
    return {
        "nDCG@10": report.metrics["nDCG@10"],
        "interval": list(report.intervals["nDCG@10"]),
        "R@100": report.metrics["R@100"],
        "per_query": {query: round(value, 4) for query, value in report.per_query["nDCG@10"].items()},
    }


def difference(first: Any, second: Any) -> dict[str, Any]:
    """Return the mean difference per query with its bootstrap interval, and how many queries won and lost."""
    differences = np.array([second[query] - first[query] for query in first])
    low, high = bootstrap_interval(differences)
    won, lost = int((differences > 0).sum()), int((differences < 0).sum())
    return {"mean": float(differences.mean()), "interval": [low, high], "won": won, "lost": lost}


def _print(results: dict[str, Any], sets: Sets) -> None:
    tasks = [task for task in sets.retrieval if task in results["tasks"]]
    print("| nDCG@10 | " + " | ".join(tasks) + " | average |\n|---|" + "---|" * (len(tasks) + 1))
    for row in next(iter(results["tasks"].values()))["rows"]:
        values = {task: results["tasks"][task]["rows"][row]["nDCG@10"] for task in tasks}
        averaged = [values[task] for task in sets.average if task in values]
        average = f"{np.mean(averaged):.3f}" if len(averaged) == len(sets.average) else "missing"
        print(f"| {row} | " + " | ".join(f"{value:.3f}" for value in values.values()) + f" | {average} |")
    print("\n| difference | " + " | ".join(tasks) + " |\n|---|" + "---|" * len(tasks))
    for first, second in PAIRS:
        found = [results["tasks"][task]["differences"].get(f"{second} - {first}") for task in tasks]
        if None in found:
            continue
        cells = [f"{item['mean']:+.3f} [{item['interval'][0]:+.3f}, {item['interval'][1]:+.3f}]" for item in found]
        print(f"| {second} - {first} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
