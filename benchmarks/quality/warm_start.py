r"""Show what training on a bare corpus adds to a ready model: pairs made from the corpus, or written questions.

    python -m benchmarks.quality.warm_start --data ../shared/data --work runs/warm \
        --output benchmarks/results/warm-start-ready.json

Every set is a user with one corpus and no labels. An arm is what ``llama2vec run`` would do with that corpus; its model
is then searched with the set's held-out queries, alone and with BM25 (equal weights, min-max). Sets are the samples of
a budget of the study: easier than the whole sets, and the same for all rows. Arms that start from the raw LLM show
what a warm start is worth. Rows of all-MiniLM-L6-v2 come from a file of `hybrid.py` over the same samples.

Finished cells are kept in the output, and unfinished trainings in ``--work``: run the same command to resume.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.mistakes import results_so_far, told_in_one_line
from benchmarks.provenance import made_by
from benchmarks.quality.hybrid import sample_encoder, scored_row
from benchmarks.study.protocol import Sets, load_protocol
from benchmarks.study.sets import SampledSet, dense_run, sampled_set
from llama2vec.cli.ask import READY_MODEL
from llama2vec.config import load_config
from llama2vec.data.corpus.rows import write_passages
from llama2vec.files import write_json
from llama2vec.model.encoder import Encoder
from llama2vec.model.packaged import SMOLLM2_NAME
from llama2vec.pipeline.execution import execute
from llama2vec.pipeline.plan import plan_run
from llama2vec.pipeline.settings import RunConfig
from llama2vec.records import Run
from llama2vec.retrieve.index.lexical import Bm25Index
from llama2vec.retrieve.search.fusion import FUSED_DEPTH, Fusion
from llama2vec.score.metrics import evaluate_run

STEPS = (
    "finetune.contrastive.negatives=0",
    "finetune.data.query_max_tokens=32",
    "finetune.encoder.query_prompt=self",
    "finetune.optimizer.batch_size=16",
    "finetune.optimizer.steps=40",
    "finetune.optimizer.save_every=10",
    "finetune.optimizer.validate_every=20",
)
PAIRS = ("pairs.from_corpus.limit=2000", *STEPS)
QUESTIONS = ("pairs.generated.passages=400", f"pairs.generated.model={SMOLLM2_NAME}", *STEPS)
WARM = (f"model.name={READY_MODEL}", "finetune.data.passage_max_tokens=96")
COLD = (
    f"model.name={SMOLLM2_NAME}",
    "finetune.data.passage_max_tokens=64",
    "encoder.query_max_tokens=48",
    "encoder.passage_max_tokens=128",
    "adapt.text.min_words=8",
    "adapt.text.max_words=48",
    "adapt.text.max_tokens=64",
    "adapt.optimizer.steps=32",
)
ARMS: dict[str, tuple[str, ...]] = {
    "ready": (),
    "ready, pairs": (*WARM, *PAIRS),
    "ready, questions": (*WARM, *QUESTIONS),
    "raw, adapted, pairs": (*COLD, *PAIRS),
    "raw, adapted, questions": (*COLD, *QUESTIONS),
}
"""Each arm is a run of these settings; none = the ready model as it is."""
SEARCHES = ("vectors", "with BM25")


def main() -> None:
    """Measure the chosen cells that the output lacks."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--work", type=Path, required=True, help="folder for corpora and trained models")
    options.add_argument("--output", type=Path, required=True)
    options.add_argument("--sets", nargs="+", metavar="SET", help="of the budget; unless told, those of its average")
    options.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS], metavar="ARM", help="; ".join(ARMS))
    options.add_argument("--budget", default="cpu", help="of the study: its sets are searched, texts cut as there")
    options.add_argument("--set", action="append", default=[], help="change the recipe of every training arm")
    given = options.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with told_in_one_line():
        _measure(given)


def _measure(arguments: argparse.Namespace) -> None:
    sets = load_protocol(arguments.budget).sets
    settings = {"sets": sets.model_dump(), "depth": FUSED_DEPTH, "set": arguments.set}
    results = results_so_far(arguments.output, settings, "cells")
    for arm in arguments.arms:
        for name in arguments.sets or sets.average:
            cells = results["cells"].setdefault(name, {})
            if arm in cells:
                continue
            sample = sampled_set(arguments.data / name, sets)
            cells.setdefault("BM25", scored_row(_reports(sample, None)["with BM25"]))
            cells[arm] = cell(sample, sets, arm, arguments.work / name, arguments.set)
            write_json(arguments.output, results | {"arms": ARMS, **made_by()})
            logging.info("%s, %s: %s", name, arm, {row: round(cells[arm][row]["nDCG@10"], 3) for row in SEARCHES})


def cell(sample: SampledSet, sets: Sets, arm: str, work: Path, changes: list[str]) -> dict[str, Any]:
    """Train an arm's model on the sample's passages, and search them."""
    corpus = corpus_of(sample, work)
    model, begun = READY_MODEL, time.monotonic()
    if settings := ARMS[arm]:
        output = corpus.parent / arm.replace(", ", "-")
        execute(plan_run(load_config(RunConfig, None, [*settings, *changes, f"corpus={corpus}"]), output))
        model = str(output / "finetuned")
    seconds = time.monotonic() - begun
    reports = _reports(sample, sample_encoder(model, sets))
    return {**{search: scored_row(report) for search, report in reports.items()}, "training seconds": round(seconds, 1)}


def corpus_of(sample: SampledSet, work: Path) -> Path:
    """Return the file of a sample's passages, in a folder of its own, since each budget draws another sample."""
    corpus = work / sample.facts["fingerprint"][:12] / "corpus.jsonl"
    if not corpus.exists():
        write_passages(iter(sample.passages), corpus)
    return corpus


def _reports(sample: SampledSet, encoder: Encoder | None) -> dict[str, Any]:
    """Search by the vectors and together with BM25; without an encoder by BM25 alone, under the latter name."""
    task = sample.task
    words = Bm25Index.build(sample.passages).search(task.queries, depth=FUSED_DEPTH)
    runs: dict[str, Run] = {"with BM25": words}
    if encoder is not None:
        asked = encoder.encode_queries([query.text for query in task.queries])
        rows = encoder.encode_passages([passage.full_text for passage in sample.passages])
        dense = dense_run(asked, rows, sample, FUSED_DEPTH)
        runs = {"vectors": dense, "with BM25": Fusion("min-max").fuse({"dense": dense, "bm25": words}, FUSED_DEPTH)}
    return {search: evaluate_run(run, task.qrels, task=task.name) for search, run in runs.items()}


if __name__ == "__main__":
    main()
