r"""Screen adaptation variants: what moves zero-shot quality? Short runs, one change at a time, one results file.

    python -m benchmarks.quality.adaptation_variants --data ../shared/data \
        --output benchmarks/results/adapt-variants.json

Every variant: SmolLM2-135M, 32 steps of 16 texts of 8 to 64 words from data/wiki, seed 0, SELF on both sides. Scores:
Spearman on the first 600 pairs of STS-B dev, and nDCG@10 on a half of Cranfield (the 113 queries with odd numbers, the
passages that they have judgments for, cut at 64 tokens): a harder or easier task than the whole, but the same for all.
``nDCG@10 centred`` subtracts the passages' mean vector first. Variants that the file already holds are skipped; with
``--keep`` the models stay, and a killed run resumes.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mistakes import results_so_far, told_in_one_line
from benchmarks.provenance import data_hash, made_by
from llama2vec.adapt.settings import AdaptConfig
from llama2vec.adapt.stage import adapt_model
from llama2vec.config import load_config
from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.tasks.beir import read_beir
from llama2vec.data.tasks.sts import read_sentence_pairs
from llama2vec.files import write_json
from llama2vec.model.encoder import Encoder
from llama2vec.records import Passage, Qrels, Query, Run, SentencePair
from llama2vec.score.metrics import evaluate_run, score_similarities

COMMON = [
    "encoder.layers=1",
    "optimizer.steps=32",
    "optimizer.validate_every=0",
    "text.max_words=64",
    "objective.token_weights=uniform",
]
FAST = ["optimizer.learning_rate=1e-3"]
IN_DOMAIN = "indomain"
VARIANTS: dict[str, list[str]] = {
    "base": ["optimizer.learning_rate=3e-4"],
    "lr1e3": FAST,
    "lr2e3": ["optimizer.learning_rate=2e-3"],
    "idf": [*FAST, "objective.token_weights=idf"],
    "tophalf": [*FAST, "model.lora.depth=0.5"],
    "next02": [*FAST, "objective.next_weight=0.2"],
    "ebae": [*FAST, "objective.next_weight=0"],
    "slots8": [*FAST, "prompts.slots=8"],
    "bos": [*FAST, "prompts.begin=bos"],
    "long": [*FAST, "optimizer.steps=20", "text.min_words=48"],
    IN_DOMAIN: FAST,
    "nostop": [*FAST, "text.stop_words=none"],
    "rank64": [*FAST, "model.lora.rank=64", "model.lora.alpha=128"],
    "short": [*FAST, "text.min_words=5", "text.max_words=24", "optimizer.batch_size=32"],
}
STS_PAIRS, PASSAGE_TOKENS, QUERY_TOKENS, DEPTH = 600, 64, 128, 50


def main(arguments: list[str] | None = None) -> None:
    """Run the variants that the results file lacks."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--output", type=Path, required=True)
    options.add_argument("--base", default="smollm2-135m")
    options.add_argument("--only", nargs="+", default=list(VARIANTS))
    options.add_argument("--keep", type=Path, help="keep the adapted models in this folder")
    given = options.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with told_in_one_line():
        _measure(given)


def _measure(arguments: argparse.Namespace) -> None:
    parts = ("wiki/train.jsonl.gz", "stsb/en-dev.tsv", "cranfield")
    settings = {
        "base": arguments.base, "common": COMMON, "data": {name: data_hash(arguments.data / name) for name in parts},
    }  # fmt: skip
    results = results_so_far(arguments.output, settings, "variants")
    for name in arguments.only:
        if name in results["variants"]:
            continue
        results["variants"][name] = run_variant(name, arguments.base, arguments.data, arguments.keep)
        results |= made_by()
        write_json(arguments.output, results)
    print("| variant | change | STS-B dev, 600 | Cranfield half | centred |\n|---|---|---|---|---|")
    for name, found in results["variants"].items():
        change = " ".join(found["settings"])
        print(f"| {name} | {change} | {found['sts']:.3f} | {found['retrieval']:.3f} | {found['centred']:.3f} |")


def run_variant(name: str, base: str, data: Path, keep: Path | None) -> dict[str, Any]:
    """Adapt with one variant's settings and score the result."""
    settings = VARIANTS[name]
    config = load_config(AdaptConfig, None, [*COMMON, f'model.name="{base}"', *settings])
    text = cranfield_text(data) if name == IN_DOMAIN else read_passages(data / "wiki" / "train.jsonl.gz")
    with tempfile.TemporaryDirectory() as folder:
        output = keep / name if keep else Path(folder) / "model"
        started = time.monotonic()
        encoder = adapt_model(config, output, passages=text)
        seconds = round(time.monotonic() - started)
        manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    losses = manifest["results"]["losses"]
    return {"settings": settings, "seconds": seconds, "losses": losses, **score(encoder, data)}


def cranfield_text(data: Path) -> Iterator[Passage]:
    """Yield Cranfield's abstracts as text to adapt on: unlabeled, but of the task's own domain."""
    for passage in read_passages(data / "cranfield"):
        yield Passage(f"x{passage.id}", f"{passage.title}. {passage.text}")


def score(encoder: Encoder, data: Path) -> dict[str, float]:
    """Score an encoder on the two screening tasks."""
    pairs = read_sentence_pairs(data / "stsb" / "en-dev.tsv")[:STS_PAIRS]
    texts = sorted({text for pair in pairs for text in (pair.first, pair.second)})
    row = {text: place for place, text in enumerate(texts)}
    vectors = encoder.encode_queries(texts)
    queries, qrels, passages = half_of_cranfield(data)
    ids = [passage.id for passage in passages]
    rows = encoder.encode_poolings([passage.full_text for passage in passages], "self", PASSAGE_TOKENS)["slots"]
    asked = encoder.encode_poolings([query.text for query in queries], "self", QUERY_TOKENS)["slots"]
    centre = rows.mean(axis=0)

    def ndcg(query_rows: np.ndarray, passage_rows: np.ndarray) -> float:
        return retrieval(query_rows, passage_rows, queries, ids, qrels)

    return {
        "sts": similarity(vectors, row, pairs),
        "retrieval": ndcg(asked, rows),
        "centred": ndcg(*(unit(matrix - centre) for matrix in (asked, rows))),
    }


def similarity(vectors: np.ndarray, row: dict[str, int], pairs: Sequence[SentencePair]) -> float:
    """Return Spearman's correlation of cosines with people's scores; ``row`` says where a sentence's vector stands."""
    alike = [float(vectors[row[pair.first]] @ vectors[row[pair.second]]) for pair in pairs]
    return score_similarities(alike, [pair.score for pair in pairs])["spearman"]


def retrieval(
    query_rows: np.ndarray, passage_rows: np.ndarray, queries: Sequence[Query], ids: Sequence[str], qrels: Qrels
) -> float:
    """Return nDCG@10 of ranking passages [N, D] for queries [Q, D] by their dot products."""
    results = {
        query.id: {ids[best]: float(line[best]) for best in np.argsort(-line)[:DEPTH]}
        for query, line in zip(queries, query_rows @ passage_rows.T, strict=True)
    }
    return evaluate_run(Run(results), qrels, metrics=["nDCG@10"]).metrics["nDCG@10"]


def half_of_cranfield(data: Path) -> tuple[list[Query], dict[str, dict[str, int]], list[Passage]]:
    """Return the queries with odd numbers, their judgments, and the passages that these name."""
    task = read_beir(data / "cranfield")
    queries = [query for query in task.queries if int(query.id) % 2]
    qrels = {query.id: dict(task.qrels[query.id]) for query in queries}
    judged = {passage for gains in qrels.values() for passage in gains}
    return queries, qrels, [passage for passage in read_passages(task.corpus_source) if passage.id in judged]


def unit(matrix: np.ndarray) -> np.ndarray:
    """Return the rows [N, D] at unit length."""
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
