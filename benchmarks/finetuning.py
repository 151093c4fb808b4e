r"""Fine-tune from the raw and from the adapted LLM, with labels and with pairs of the corpus itself; score every arm.

    python benchmarks/finetuning.py --data ../shared/data --adapted runs/adapted --work runs/finetuning \
        --output benchmarks/results/finetune-smollm2-cpu.json

Arms: ``raw-mean``, ``adapted`` (no second stage), ``raw+labels``, ``adapted+labels`` (the same labelled pairs, mined
BM25 negatives, seed and steps), ``raw+corpus``, ``adapted+corpus`` (pairs made of the searched corpora themselves, no
label), and ``bm25`` and ``minilm`` beside them. Every set is a fixed sample: ``--max-queries`` queries, at most
``--judged`` of the relevant passages of each, and ``--extra-passages`` others of the corpus. That is easier than the
whole set, and the same for all arms. What is in the file is not run again; models stay in ``--work`` and a killed
training goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from quality import dense_run, minilm

from llama2vec.config import CorpusPairSettings, EncoderSettings, FinetuneConfig, MineSettings, load_config
from llama2vec.data.beir import BeirTask, read_beir
from llama2vec.data.corpus import read_passages
from llama2vec.data.corpus_pairs import pairs_from_corpus
from llama2vec.data.examples import read_examples
from llama2vec.evaluate.metrics import evaluate_run
from llama2vec.files import write_json
from llama2vec.finetune.train import finetune
from llama2vec.manifest import code_version, machine, versions
from llama2vec.model.encoder import Encoder
from llama2vec.records import Passage, TrainingExample
from llama2vec.retrieve.candidates import Bm25Searcher, passages_of_examples
from llama2vec.retrieve.lexical import Bm25Index
from llama2vec.retrieve.mine import mine

TASKS = ("cranfield", "scifact", "squad-dev", "medquad", "msmarco-5k")
LABELLED = (
    *(f"pairs/{name}" for name in ("squad-sentences.jsonl.gz", "squad-passages.jsonl.gz", "nq-qed.jsonl")),
    *(f"pairs/{name}" for name in ("pubmedqa.jsonl.gz", "scitldr.jsonl.gz")),
    *("scifact", "medquad"),
)
ARMS = ("bm25", "minilm", "raw-mean", "adapted", "adapted+labels", "raw+labels", "adapted+corpus", "raw+corpus")
DEPTH = 100

Embed = Callable[[list[str], bool], np.ndarray]
"""(texts, are they queries) → [N, D] unit vectors."""


def main() -> None:
    """Train and score what is missing of the chosen arms and sets."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--adapted", required=True, help="encoder folder that 'adapted' arms start from")
    options.add_argument("--base", default="smollm2-135m")
    options.add_argument("--work", type=Path, required=True, help="folder for the models")
    options.add_argument("--output", type=Path, required=True)
    options.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    options.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    options.add_argument("--examples", type=int, default=250, help="training examples of each source")
    options.add_argument("--steps", type=int, default=32)
    options.add_argument("--batch-size", type=int, default=24)
    options.add_argument("--learning-rate", type=float, default=5e-4)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--query-prompt", default="self", choices=["self", "next"], help="in training and search")
    options.add_argument("--layers", type=int, default=8, help="a fine-tuned vector is the mean of the last so many")
    options.add_argument("--max-tokens", type=int, default=48, help="training passages are cut here")
    options.add_argument("--scored-tokens", type=int, default=128, help="searched passages are cut here")
    options.add_argument("--max-queries", type=int, default=100)
    options.add_argument("--judged", type=int, default=4, help="relevant passages kept for each query")
    options.add_argument("--extra-passages", type=int, default=300)
    arguments = options.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"arms": {}}
    if arguments.output.exists():
        results = json.loads(arguments.output.read_text(encoding="utf-8"))
    for arm in arguments.arms:
        key = _key(arm, arguments)
        found = results["arms"].setdefault(key, {"tasks": {}})
        if all(task in found["tasks"] for task in arguments.tasks):
            continue
        embed, facts = _embedder(arm, arguments)
        found |= facts
        for task in arguments.tasks:
            if task in found["tasks"]:
                continue
            started = time.monotonic()
            scores = score(arguments.data / task, embed, arguments)
            found["tasks"][task] = {**scores, "seconds": round(time.monotonic() - started)}
            logging.info("%s %s: %s", key, task, found["tasks"][task])
            results |= {"machine": machine(), "versions": versions(), "code": code_version()}
            results |= {"command": " ".join(sys.argv)}
            write_json(arguments.output, results)
    _print(results)


def _key(arm: str, arguments: argparse.Namespace) -> str:
    """Name an arm's row: what differs from the defaults is said."""
    if "+" not in arm:
        return arm
    changes = {
        f"seed {arguments.seed}": arguments.seed != 0,
        f"{arguments.query_prompt.upper()} on queries": arguments.query_prompt != "self",
        f"{arguments.layers} layers": arguments.layers != 8,
        f"learning rate {arguments.learning_rate:g}": arguments.learning_rate != 5e-4,
    }
    return ", ".join([arm, *(words for words, differs in changes.items() if differs)])


def _embedder(arm: str, arguments: argparse.Namespace) -> tuple[Embed | None, dict[str, Any]]:
    """Return how an arm embeds, and facts about it; BM25 does not embed."""
    if arm == "bm25":
        return None, {}
    if arm == "minilm":
        library = minilm(arguments.scored_tokens)
        return (lambda texts, queries: library(texts, queries)["minilm"]), {}
    if arm == "raw-mean":
        mean = EncoderSettings(pooling="mean", passage_max_tokens=arguments.scored_tokens)
        return _by(Encoder.load(arguments.base, encoder=mean), arguments), {}
    if arm == "adapted":
        return _by(Encoder.load(arguments.adapted), arguments), _manifest(Path(arguments.adapted))
    start, _, data = arm.partition("+")
    model = arguments.base if start == "raw" else arguments.adapted
    examples = labelled_examples(arguments) if data == "labels" else corpus_examples(arguments)
    sets = [
        f'model.name="{model}"',
        f"optimiser.steps={arguments.steps}",
        f"optimiser.batch_size={arguments.batch_size}",
        f"optimiser.learning_rate={arguments.learning_rate}",
        f"optimiser.seed={arguments.seed}",
        "optimiser.validate_every=0",
        "optimiser.save_every=8",
        f"data.passage_max_tokens={arguments.max_tokens}",
        f"data.query_max_tokens={arguments.max_tokens}",
        f"contrastive.negatives={1 if data == 'labels' else 0}",
        "validation.share=0",
        f"encoder.query_prompt={arguments.query_prompt}",
        f"encoder.layers={arguments.layers}",
    ]
    folder = arguments.work / _key(arm, arguments).replace(", ", "-").replace(" ", "-")
    encoder = finetune(load_config(FinetuneConfig, None, sets), folder, examples=examples)
    return _by(encoder, arguments), _manifest(folder)


def _by(encoder: Encoder, arguments: argparse.Namespace) -> Embed:
    settings = encoder.contract.encoder
    prompts = {True: settings.query_prompt, False: settings.passage_prompt}
    pooling = settings.pooling

    def embed(texts: list[str], queries: bool) -> np.ndarray:
        return encoder.encode_poolings(texts, prompts[queries], arguments.scored_tokens)[pooling]

    return embed


def _manifest(folder: Path) -> dict[str, Any]:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return {"settings": manifest["settings"], "results": manifest["results"]}


def labelled_examples(arguments: argparse.Namespace) -> list[TrainingExample]:
    """Draw as many examples of each labelled source, and give each one hard negative that BM25 finds."""
    chosen: list[TrainingExample] = []
    for source in LABELLED:
        rows = list(read_examples(str(arguments.data / source)))
        draw = random.Random(f"{source}:{arguments.seed}")
        chosen += draw.sample(rows, min(arguments.examples, len(rows)))
    plain = [
        TrainingExample(
            row.query, row.positives, query_id=f"{number}:{row.query_id}" if row.query_id else "",
        )
        for number, row in enumerate(chosen)
    ]  # fmt: skip
    passages = passages_of_examples(plain)
    return mine(plain, passages, [Bm25Searcher(passages)], MineSettings(negatives=1, last_rank=50)).examples


def corpus_examples(arguments: argparse.Namespace) -> list[TrainingExample]:
    """Make pairs of the corpora that will be searched: no query, no label; as many of each corpus."""
    wanted = arguments.examples * len(LABELLED) // len(TASKS)
    chosen: list[TrainingExample] = []
    for task in TASKS:
        passages = _shuffled(read_passages(arguments.data / task), f"{task}:{arguments.seed}")
        marked = (Passage(f"{task}/{passage.id}", passage.text, passage.title) for passage in passages)
        pairs = list(islice(pairs_from_corpus(marked, CorpusPairSettings(), arguments.seed), 4 * wanted))
        chosen += random.Random(f"{task}:{arguments.seed}").sample(pairs, min(wanted, len(pairs)))
    return chosen


def _shuffled(passages: Iterable[Passage], seed: str) -> list[Passage]:
    rows = list(passages)
    random.Random(seed).shuffle(rows)
    return rows


def sampled(folder: Path, arguments: argparse.Namespace) -> tuple[BeirTask, list[Passage]]:
    """Return a fixed sample of a set: some queries, a few passages judged for each, and other passages.

    Passages that are left out leave the judgements too.
    """
    task = read_beir(folder)
    draw = random.Random(0)
    queries = draw.sample(task.queries, min(arguments.max_queries, len(task.queries)))
    wanted: set[str] = set()
    for query in queries:
        relevant = sorted(passage for passage, gain in task.qrels[query.id].items() if gain > 0)
        wanted |= set(draw.sample(relevant, min(arguments.judged, len(relevant))))
    passages = list(read_passages(task.corpus_source))
    others = [passage for passage in passages if passage.id not in wanted]
    chosen = {passage.id for passage in draw.sample(others, min(arguments.extra_passages, len(others)))} | wanted
    qrels = {
        query.id: {passage: gain for passage, gain in task.qrels[query.id].items() if passage in chosen}
        for query in queries
    }
    return BeirTask(task.name, queries, qrels, task.corpus_source), [row for row in passages if row.id in chosen]


def score(folder: Path, embed: Embed | None, arguments: argparse.Namespace) -> dict[str, Any]:
    """Search the sampled set and return nDCG@10 with its interval and every query's value."""
    task, passages = sampled(folder, arguments)
    if embed is None:
        run = Bm25Index.build(passages).search(task.queries, depth=DEPTH)
    else:
        rows = embed([passage.full_text for passage in passages], False)
        asked = embed([query.text for query in task.queries], True)
        run = dense_run(asked, rows, task, np.array([passage.id for passage in passages], dtype=object), DEPTH)
    report = evaluate_run(run, task.qrels, task=folder.name)
    return {
        "nDCG@10": report.metrics["nDCG@10"],
        "interval": list(report.intervals["nDCG@10"]),
        "queries": len(task.queries),
        "passages": len(passages),
        "per_query": {query: round(value, 4) for query, value in report.per_query["nDCG@10"].items()},
    }


def _print(results: dict[str, Any]) -> None:
    print("| arm | " + " | ".join(TASKS) + " | average |\n|---|" + "---|" * (len(TASKS) + 1))
    for arm, found in results["arms"].items():
        values = [found["tasks"].get(task, {}).get("nDCG@10") for task in TASKS]
        cells = ["missing" if value is None else f"{value:.3f}" for value in values]
        average = "–" if None in values else f"{sum(values) / len(values):.3f}"
        print(f"| {arm} | " + " | ".join(cells) + f" | {average} |")


if __name__ == "__main__":
    main()
