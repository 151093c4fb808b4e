r"""Quality against bytes a passage: what smaller vectors keep of a model's nDCG@10, on every retrieval set.

    python -m benchmarks.quality.compressed --data ../shared/data --model models/llama2vec-smollm2-135m \
        --stores runs/compressed --output benchmarks/results/compressed.json

``--stores`` holds a store for each set (``STORES/cranfield``); those that are missing are encoded into it, and an
interrupted run continues there. Ours: float32, float16, bytes and bits with and without ranking again by the store's
vectors, and fewer dimensions. Peers: the codes of FAISS alone (SQ8, SQ4, PQ, RaBitQ). ``bytes`` are those in memory;
ranking again reads the vectors from the disk. ``kept`` is nDCG@10 as a share of exact search in float32,
``recall`` the share of its ten nearest passages.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from benchmarks.provenance import made_by
from benchmarks.quality.compressed_table import MEASURE, table
from llama2vec.config import ModelSettings
from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.tasks.beir import BeirTask, read_beir
from llama2vec.files import write_json
from llama2vec.model.encoder import Encoder
from llama2vec.records import Run
from llama2vec.retrieve.index.exact import ExactIndex
from llama2vec.retrieve.index.faiss import FaissIndex
from llama2vec.retrieve.index.folder import build_index, open_index
from llama2vec.retrieve.settings import IndexKind, SearchRequest
from llama2vec.retrieve.store.number_format import warn_of_another_format
from llama2vec.retrieve.store.reader import VectorStore
from llama2vec.retrieve.store.writer import write_store
from llama2vec.score.metrics import evaluate_run

SETS = ("cranfield", "cacm", "scifact", "msmarco-5k", "xquad-en", "medquad", "squad-dev")
DEPTH = 10  # candidates a hit count from this depth
PQ_CENTROIDS = 256  # Fewest passages that a product quantizer can be trained on
Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Search = Callable[[Vectors], tuple[Vectors, Rows]]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--model", required=True)
    options.add_argument("--stores", type=Path, required=True)
    options.add_argument("--output", type=Path, required=True)
    options.add_argument("--sets", nargs="+", default=list(SETS))
    options.add_argument("--max-queries", type=int, default=1000, help="take every n-th query of larger sets")
    arguments = options.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    encoder = Encoder.load(arguments.model, settings=ModelSettings(dtype="auto"))
    results: dict[str, Any] = {"model": str(arguments.model), "contract_hash": encoder.contract_hash, "sets": {}}
    if arguments.output.is_file():
        found = json.loads(arguments.output.read_text())
        if found["contract_hash"] != encoder.contract_hash:
            sys.exit(f"{arguments.output} is of another model ({found['model']}); choose another --output")
        results["sets"] = found["sets"]
    for name in arguments.sets:
        if name not in results["sets"]:
            results["sets"][name] = measure(name, encoder, arguments)
            write_json(arguments.output, results | made_by())
    print(table(results["sets"]))


def measure(name: str, encoder: Encoder, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return bytes, nDCG@10 and recall of every variant on one set."""
    task = read_beir(arguments.data / name)
    step = -(-len(task.queries) // arguments.max_queries)
    queries = task.queries[::step]
    source: dict[str, object] = {"corpus": task.corpus_source, "model": encoder.spec.to_json(arguments.stores / name)}
    store = write_store(
        lambda: read_passages(task.corpus_source), encoder, arguments.stores / name, source=source, shard_size=2048
    )
    warn_of_another_format(store, encoder.dtype)
    asked = encoder.encode_queries(queries)
    task = BeirTask(task.name, queries, {query.id: task.qrels[query.id] for query in queries}, task.corpus_source)
    ids = list(store.ids)
    nearest = ExactIndex(store).search(asked, 10)[1]
    scores: dict[str, Any] = {}
    for variant, held, search in [*ours(store), *peers(store)]:
        values, rows = search(asked)
        scores[variant] = {
            "bytes": held,
            MEASURE: round(ndcg(task, ids, values, rows), 4),
            "recall": round(recall(rows[:, :10], nearest), 4),
        }
        logging.info("%s %s: %s", name, variant, scores[variant])
    return {"passages": len(store), "queries": len(queries), "width": store.dimension, "variants": scores}


def ours(store: VectorStore) -> list[tuple[str, float, Search]]:
    """Return name, bytes a passage in memory, and search of each way of ours."""
    width, table_of = store.dimension, store.vectors(np.arange(len(store)))
    half = table_of.astype(np.float16).astype(np.float32)
    found: list[tuple[str, float, Search]] = [
        ("float32", 4 * width, lambda asked: ExactIndex(store).search(asked, DEPTH)),
        ("float16", 2 * width, lambda asked: flat(half, asked)),
    ]
    codes: list[tuple[str, IndexKind, int | None]] = [("int8", "faiss-int8", None), ("binary", "faiss-binary", None)]
    codes += [(f"{width // part} dims", "faiss-flat", width // part) for part in (2, 4, 8)]
    codes.append((f"{width // 4} dims, int8", "faiss-int8", width // 4))
    codes.append((f"{width // 2} dims, binary", "faiss-binary", width // 2))
    for name, kind, dims in codes:
        index = built(store, kind, dims)
        for rescore in (0, 2, 4, 8, 16, 32):
            suffix = f", {rescore} candidates a hit" if rescore else ""
            found.append((f"{name}{suffix}", index.code_bytes, searching(index, rescore)))
    return found


def built(store: VectorStore, kind: IndexKind, dims: int | None) -> FaissIndex:
    with tempfile.TemporaryDirectory() as folder:
        build_index(store, Path(folder) / "index", kind=kind, search=SearchRequest(dims=dims))
        index = open_index(Path(folder) / "index")
    assert isinstance(index, FaissIndex)
    return index


def searching(index: FaissIndex, rescore: int) -> Search:
    settings = index.settings.model_copy(update={"rescore": rescore})

    def search(asked: Vectors) -> tuple[Vectors, Rows]:
        index.settings = settings
        return index.search(asked, DEPTH)

    return search


def peers(store: VectorStore) -> list[tuple[str, float, Search]]:
    """Return name, bytes a passage, and search of the codes of FAISS alone."""
    width, vectors = store.dimension, store.vectors(np.arange(len(store)))
    found: list[tuple[str, float, Search]] = []
    quantizers = [f"PQ{width // 8}np", f"PQ{width // 16}np"] if len(store) >= PQ_CENTROIDS else []
    for name in ("SQ8", "SQ4", "RaBitQ", *quantizers):
        index = faiss.index_factory(width, name, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
        found.append((f"FAISS {name}", index.code_size, lambda asked, index=index: index.search(asked, DEPTH)))  # type: ignore[misc]
    return found


def flat(vectors: Vectors, asked: Vectors) -> tuple[Vectors, Rows]:
    products = asked @ vectors.T
    rows = np.argsort(-products, axis=1, kind="stable")[:, :DEPTH]
    return np.take_along_axis(products, rows, axis=1), rows


def ndcg(task: BeirTask, ids: list[str], values: Vectors, rows: Rows) -> float:
    results = {
        query.id: {ids[row]: float(value) for row, value in zip(found, scores, strict=True) if row >= 0}
        for query, found, scores in zip(task.queries, rows.tolist(), values.tolist(), strict=True)
    }
    return float(evaluate_run(Run(results), task.qrels, metrics=[MEASURE]).metrics[MEASURE])


def recall(found: Rows, wanted: Rows) -> float:
    return float(np.mean([len(set(f) & set(w)) / len(w) for f, w in zip(found.tolist(), wanted.tolist(), strict=True)]))


if __name__ == "__main__":
    main()
