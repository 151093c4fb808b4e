r"""Score looked-up queries beside the model's own: nDCG@10 by vectors and with BM25, and milliseconds a query.

    python -m benchmarks.quality.lookup_queries llama2vec-smollm2-135m --table runs/table \
        --task ../shared/data/cranfield --stores runs/stores --output benchmarks/results/lookup-queries.json

The passages are the model's in both. ``--stores`` keeps their vectors, and uses those that ``evaluate --set stores=``
left there. The table comes from ``llama2vec distill``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.provenance import made_by
from llama2vec.data.corpus.passages import corpus_fingerprint, count_passages
from llama2vec.data.tasks.beir import read_beir
from llama2vec.files import write_json
from llama2vec.model.encoder import Encoder
from llama2vec.records import Query
from llama2vec.retrieve.index.exact import ExactIndex
from llama2vec.retrieve.index.lexical import Bm25Index
from llama2vec.retrieve.search.query_table import QueryTable
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.retrieve.store.reader import store_passages
from llama2vec.score.metrics import evaluate_run
from llama2vec.score.systems import Searching, Stores, encode_corpus

METRIC = "nDCG@10"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model")
    options.add_argument("--table", type=Path, required=True)
    options.add_argument("--task", action="append", required=True, help="BEIR folder, PATH or PATH:SPLIT; repeatable")
    options.add_argument("--stores", type=Path, required=True)
    options.add_argument("--queries", type=int, default=1000, help="most queries of a task")
    options.add_argument("--output", type=Path, required=True)
    settings = options.parse_args()
    encoder, table = Encoder.load(settings.model), QueryTable.load(settings.table)
    rows = [score(encoder, table, task, settings.stores, settings.queries) for task in settings.task]
    facts = {name: table.facts[name] for name in ("texts", "cosine", "ridge")}
    write_json(settings.output, {"table": facts, "tasks": rows, **made_by()})


def score(encoder: Encoder, table: QueryTable, name: str, stores: Path, most: int) -> dict[str, Any]:
    """Return the scores and the time a query of both encoders on one task."""
    folder, _, split = name.partition(":")
    task = read_beir(folder, split or "test")
    queries = sorted(task.queries, key=lambda query: query.id)[:most]
    qrels = {query.id: task.qrels[query.id] for query in queries if query.id in task.qrels}
    fingerprint = corpus_fingerprint(task.corpus_source)
    store = Stores(stores).find(encoder.contract_hash, fingerprint, None, dtype=encoder.dtype)
    if store is None:
        place = stores / f"{Path(folder).name}-{encoder.contract_hash[:12]}-{encoder.dtype}"
        total = count_passages(task.corpus_source) or 0
        store = encode_corpus(encoder, task, Searching(), place, fingerprint=fingerprint, total=total)
    bm25 = Bm25Index.build(store_passages(store))
    row: dict[str, Any] = {"task": task.name, "queries": len(queries)}
    for title, reader in (("model", encoder), ("table", table)):
        retriever = Retriever(ExactIndex(store), reader, bm25=bm25)
        for mode in ("dense", "hybrid"):
            report = evaluate_run(retriever.search(queries, mode, depth=100), qrels, metrics=[METRIC])
            row[f"{title}_{mode}"] = round(report.metrics[METRIC], 4)
        row[f"{title}_ms_a_query"] = round(1000 * seconds_a_query(reader, queries[:50]), 3)
    print(row, flush=True)
    return row


def seconds_a_query(encoder: Encoder | QueryTable, queries: Sequence[Query]) -> float:
    """Return the mean time of one query at a time."""
    encoder.encode_queries([queries[0]])
    started = time.perf_counter()
    for query in queries:
        encoder.encode_queries([query])
    return (time.perf_counter() - started) / len(queries)


if __name__ == "__main__":
    main()
