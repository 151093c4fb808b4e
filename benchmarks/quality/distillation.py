r"""Show what a teacher adds where an encoder loses layers: the ready model teaches its own lower half.

    python -m benchmarks.quality.distillation --data ../shared/data --work runs/distillation \
        --output benchmarks/results/distillation.json

Rows: the teacher; its lowest layers as they are (``cut``); these after fine-tuning on labels; and after fine-tuning on
the same labels with the teacher's scores (KL). Both trainings read the same pairs and negatives, mined with BM25, in
the same steps. Scores are those of the samples of a budget of the study: nDCG@10, and STS-B dev.

Rows that the output holds are not made again, and unfinished trainings stay in ``--work``: rerun the same command to
resume.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from benchmarks.mistakes import results_so_far, told_in_one_line
from benchmarks.provenance import made_by
from benchmarks.quality.fewer_layers import scored, shortened
from benchmarks.study.pairs import training_pairs
from benchmarks.study.protocol import ALL_PAIRS, Protocol, load_protocol
from benchmarks.study.sets import sampled_set
from llama2vec.cli.ask import READY_MODEL
from llama2vec.config import load_config
from llama2vec.data.examples.labeled import write_examples
from llama2vec.files import write_json
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.finetune.stage import finetune_model
from llama2vec.integrations.pair_scorer import PairScorer
from llama2vec.mine.mining import MiningInputs, mine_to_file
from llama2vec.mine.settings import MineSettings
from llama2vec.model.encoder import Encoder

NEGATIVES = 3
STEPS = (
    "data.query_max_tokens=32",
    "data.passage_max_tokens=96",
    f"contrastive.negatives={NEGATIVES}",
    "contrastive.temperature=0.02",
    "optimizer.batch_size=32",
    "optimizer.steps=60",
    "optimizer.learning_rate=3e-4",
    "optimizer.save_every=10",
    "optimizer.validate_every=0",
    "validation.share=0",
    "encoder.query_prompt=self",
    "encoder.passage_prompt=self",
)
TEACHER = ("contrastive.distillation_weight=1", "contrastive.distillation_temperature=0.02")
TRAININGS = {"labels": (), "labels and teacher": TEACHER}
ROWS = ("teacher", "cut", *TRAININGS)


def main(arguments: list[str] | None = None) -> None:
    """Make the rows that the output lacks."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--work", type=Path, required=True, help="folder for pairs and trained models")
    options.add_argument("--output", type=Path, required=True)
    options.add_argument("--teacher", default=READY_MODEL, help="a saved encoder, which is also the student's start")
    options.add_argument("--layers", type=int, default=16, help="of the teacher, from the bottom, for the student")
    options.add_argument("--pairs", type=int, default=200, help="labeled pairs from each source of the budget")
    options.add_argument("--budget", default="choices", help="of the study: its sources and samples")
    options.add_argument("--set", action="append", default=[], help="change the recipe of both trainings")
    given = options.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with told_in_one_line():
        _measure(given)


def _measure(given: argparse.Namespace) -> None:
    protocol = load_protocol(given.budget)
    settings = {
        "teacher": given.teacher, "layers": given.layers, "pairs": given.pairs, "sets": protocol.sets.model_dump(),
        "recipe": [*STEPS, *given.set], "with the teacher": list(TEACHER),
    }  # fmt: skip
    results = results_so_far(given.output, settings, "rows")
    samples = [sampled_set(given.data / name, protocol.sets) for name in protocol.sets.average]
    for row in ROWS:
        if row not in results["rows"]:
            results["rows"][row] = scored(_encoder(row, protocol, given), samples, protocol.sets, given.data)
            write_json(given.output, results | made_by())
        found = results["rows"][row]
        print(
            f"{row}: nDCG@10 {found['average']:.3f}, STS-B dev {found['scores'][protocol.sets.sts[0]]['spearman']:.3f}"
        )


def _encoder(row: str, protocol: Protocol, given: argparse.Namespace) -> Encoder:
    if row == "teacher":
        return Encoder.load(given.teacher)
    if row == "cut":
        return shortened(given.teacher, given.layers)
    start = [f"model.name={given.teacher}", f"model.layers={given.layers}"]
    sources = f"data.sources={json.dumps([str(_scored_pairs(protocol, given))])}"
    config = load_config(FinetuneConfig, None, [*STEPS, *TRAININGS[row], *given.set, *start, sources])
    return finetune_model(config, given.work / row.replace(" ", "-"))


def _scored_pairs(protocol: Protocol, given: argparse.Namespace) -> Path:
    """Return the file of pairs with negatives and the teacher's scores of both."""
    drawn = protocol.finetuning.model_copy(update={"pairs_per_source": given.pairs, "negatives": NEGATIVES})
    pairs, scored = given.work / "pairs.jsonl", given.work / "scored.jsonl"
    write_examples(training_pairs("labels", ALL_PAIRS, 0, drawn, given.data, given.work), pairs, overwrite=True)
    settings = MineSettings(negatives=NEGATIVES, keep_existing=True, teacher=given.teacher, teacher_share_of_positive=0)
    mine_to_file(MiningInputs(str(pairs), teacher=PairScorer(given.teacher)), scored, settings)
    return scored


if __name__ == "__main__":
    main()
