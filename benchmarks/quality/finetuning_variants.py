r"""Screen fine-tuning variants: what moves retrieval after the same labeled pairs? One change at a time, one file.

    llama2vec adapt smollm2-cpu --corpus ../shared/data/wiki/train.jsonl.gz --output runs/adapted
    python -m benchmarks.quality.finetuning_variants --data ../shared/data --model runs/adapted --work runs/variants \
        --output benchmarks/results/finetuning-variants.json

Every variant starts from the adapted model and reads the same 768 pairs once, whatever its batch size; BM25 mined their
negatives. Scores are nDCG@10 on development sets alone, which hold no text of a test split: pairs of each source that
were held out of the training, with their positives and 250 positives of other pairs to search, and STS-B dev.

Variants that the output holds are not made again, and unfinished trainings stay in ``--work``: rerun the same command
to resume.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.mistakes import results_so_far, told_in_one_line
from benchmarks.provenance import made_by
from benchmarks.quality.fewer_layers import scored
from benchmarks.study.protocol import Sets
from benchmarks.study.sets import SampledSet
from llama2vec.config import load_config
from llama2vec.data.examples.labeled import read_examples, write_examples
from llama2vec.data.tasks.beir import BeirTask
from llama2vec.data.text.words import text_key
from llama2vec.files import write_json
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.finetune.stage import finetune_model
from llama2vec.finetune.validation import hold_out
from llama2vec.mine.candidates import Bm25Searcher, passages_of_examples
from llama2vec.mine.mining import mine
from llama2vec.mine.settings import MineSettings
from llama2vec.model.encoder import Encoder
from llama2vec.model.packaged import SMOLLM2_NAME
from llama2vec.records import Passage, Query, TrainingExample

PAIRS = 768
COMMON = (
    "data.query_max_tokens=48",
    "data.passage_max_tokens=64",
    "optimizer.batch_size=24",
    "optimizer.steps=32",
    "optimizer.learning_rate=5e-4",
    "optimizer.save_every=16",
    "optimizer.validate_every=0",
    "validation.share=0",
    "validation.keep_best=false",
    "encoder.query_prompt=self",
    "encoder.passage_prompt=self",
)
FULL = "model.lora.rank=0"
VARIANTS: dict[str, tuple[str, ...]] = {
    "base": (),
    "rate 2e-4": ("optimizer.learning_rate=2e-4",),
    "rate 1e-3": ("optimizer.learning_rate=1e-3",),
    "temperature 0.01": ("contrastive.temperature=0.01",),
    "temperature 0.05": ("contrastive.temperature=0.05",),
    "batch 12, 64 steps": ("optimizer.batch_size=12", "optimizer.steps=64"),
    "batch 96, 8 steps": ("optimizer.batch_size=96", "optimizer.steps=8", "optimizer.learning_rate=1e-3"),
    "no hard negatives": ("contrastive.negatives=0",),
    "4 hard negatives": ("contrastive.negatives=4",),
    "NEXT for queries": ("encoder.query_prompt=next",),
    "passages of 128 tokens": ("data.passage_max_tokens=128",),
    "one source a batch": ("data.homogeneous_batches=true",),
    "false negatives left out": ("contrastive.false_negatives=self", "contrastive.false_negative_margin=-0.1"),
    "LoRA rank 64": ("model.lora.rank=64", "model.lora.alpha=128"),
    "all weights, rate 5e-5": (FULL, "optimizer.learning_rate=5e-5"),
    "mean of the last 3 checkpoints": ("optimizer.save_every=4", "optimizer.average_last=3"),
    "EBAE kept on, weight 0.1": ("pretext.weight=0.1",),
    "EBAE kept on, weight 0.3": ("pretext.weight=0.3",),
    "EBAE kept on, one source a batch": ("pretext.weight=0.1", "data.homogeneous_batches=true"),
    "raw LLM": (f"model.name={SMOLLM2_NAME}", "encoder.layers=8"),
}
SOURCES = (
    "pairs/squad-sentences.jsonl.gz",
    "pairs/squad-passages.jsonl.gz",
    "pairs/nq-qed.jsonl",
    "pairs/pubmedqa.jsonl.gz",
    "pairs/scitldr.jsonl.gz",
    "scifact",
    "medquad",
)
"""All but the first have pairs held out: a sentence of the first one stands in a passage of the second."""
HELD_OUT, OTHERS, DEPTH = 80, 250, 50
NEGATIVES, LAST_RANK = 4, 50


def main(arguments: list[str] | None = None) -> None:
    """Train and score the chosen variants that the output lacks."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--model", required=True, help="a saved encoder to start from")
    options.add_argument("--work", type=Path, required=True, help="folder for trained models")
    options.add_argument("--output", type=Path, required=True)
    options.add_argument("--only", nargs="+", choices=VARIANTS, default=[*VARIANTS], metavar="VARIANT")
    options.add_argument("--seed", type=int, default=0, help="of the drawn pairs and their order")
    options.add_argument("--sources", nargs="+", default=list(SOURCES), help="labeled examples below the data folder")
    options.add_argument("--sts", default="stsb/en-dev.tsv")
    options.add_argument("--pairs", type=int, default=PAIRS)
    options.add_argument("--set", action="append", default=[], help="change the recipe of every variant")
    given = options.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with told_in_one_line():
        _measure(given)


def _measure(given: argparse.Namespace) -> None:
    held_out, training = split_sources(given.data, given.sources, given.pairs, given.seed)
    samples = [development_set(name, *both) for name, both in held_out.items()]
    sets = Sets(retrieval=[one.task.name for one in samples], average=[one.task.name for one in samples],
                sts=[given.sts], depth=DEPTH)  # fmt: skip
    settings = {
        "contract_hash": Encoder.load(given.model).contract_hash, "common": [*COMMON, *given.set], "seed": given.seed,
        "pairs": given.pairs, "samples": {one.task.name: one.facts["fingerprint"] for one in samples},
    }  # fmt: skip
    results = results_so_far(given.output, settings, "variants")
    files: list[str] = []
    for name in ("start", *given.only):
        if name in results["variants"]:
            continue
        changes, started = VARIANTS.get(name, ()), time.monotonic()
        if name == "start":
            encoder = Encoder.load(given.model)
        else:
            files = files or written(training, given.work / f"pairs-seed{given.seed}")
            own = [f"data.sources={json.dumps(files)}", f"optimizer.seed={given.seed}", f"model.name={given.model}"]
            folder = given.work / f"{name.replace(' ', '-').replace(',', '')}-seed{given.seed}"
            encoder = finetune_model(load_config(FinetuneConfig, None, [*COMMON, *own, *given.set, *changes]), folder)
        seconds = round(time.monotonic() - started)
        found = scored(encoder, samples, sets, given.data)
        results["variants"][name] = {"settings": list(changes), "seconds": seconds, **found}
        write_json(given.output, results | made_by())
        spearman = found["scores"][given.sts]["spearman"]
        print(f"{name}: nDCG@10 {found['average']:.3f}, STS-B dev {spearman:.3f}", flush=True)


Split = tuple[list[TrainingExample], list[TrainingExample]]


def split_sources(
    data: Path, sources: Sequence[str], pairs: int, seed: int
) -> tuple[dict[str, Split], dict[str, list[TrainingExample]]]:
    """Return (held-out, other) pairs of each searched source, and training pairs, as many from each source.

    What is held out is the same for every seed. A training pair has neither query nor positive of a held-out one.
    """
    searched: dict[str, Split] = {}
    rest: dict[str, list[TrainingExample]] = {}
    for source in sources:
        name, rows = Path(source).name.partition(".")[0], list(read_examples(data / source))
        rest[name] = rows
        if source != SOURCES[0]:
            training, chosen = hold_out(rows, min(0.5, HELD_OUT / len(rows)), HELD_OUT, 0)
            rest[name] = [rows[row] for row in training]
            searched[name] = [rows[row] for row in chosen], rest[name]
    held = [row for chosen, _ in searched.values() for row in chosen]
    asked, answers = {text_key(row.query) for row in held}, {text_key(text) for row in held for text in row.positives}
    drawn = {}
    for place, (name, rows) in enumerate(rest.items()):
        free = [
            row for row in rows if text_key(row.query) not in asked and answers.isdisjoint(map(text_key, row.positives))
        ]
        share = pairs // len(rest) + (place < pairs % len(rest))
        taken = random.Random(f"{name}:{seed}").sample(free, min(share, len(free)))
        drawn[name] = [TrainingExample(row.query, row.positives) for row in taken]
    return searched, drawn


def development_set(name: str, held_out: Sequence[TrainingExample], others: Sequence[TrainingExample]) -> SampledSet:
    """Return held-out queries, and their positives and some of other pairs to search."""
    rows: dict[str, str] = {}
    qrels = {}
    for place, example in enumerate(held_out):
        qrels[str(place)] = {rows.setdefault(text, f"p{len(rows)}"): 1 for text in example.positives}
    for place in random.Random(0).sample(range(len(others)), min(OTHERS, len(others))):
        rows.setdefault(others[place].positives[0], f"p{len(rows)}")
    queries = [Query(str(place), example.query) for place, example in enumerate(held_out)]
    passages = [Passage(key, text) for text, key in rows.items()]
    return SampledSet(BeirTask(name, queries, qrels, ""), passages)


def written(training: Mapping[str, Sequence[TrainingExample]], folder: Path) -> list[str]:
    """Write a file of pairs for each source, with hard negatives from all pairs' passages; return the files."""
    passages = passages_of_examples(row for rows in training.values() for row in rows)
    searcher, settings = Bm25Searcher(passages), MineSettings(negatives=NEGATIVES, last_rank=LAST_RANK)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in training.items():
        write_examples(mine(rows, passages, [searcher], settings).examples, folder / f"{name}.jsonl", overwrite=True)
    return [str(folder / f"{name}.jsonl") for name in training]


if __name__ == "__main__":
    main()
