r"""Compare what ``run --dry-run`` says of each stage's time with what the stage takes.

    python -m benchmarks.speed.estimates --corpus ../shared/data/cranfield --work runs/estimates \
        --output benchmarks/results/estimates-cpu.json

The run adapts, makes pairs, fine-tunes and encodes, as ``run-cpu-minutes`` does with fewer steps. Its estimate is made
first, in this process, and the stages follow; nothing else may run meanwhile. A stage's time includes loading the
model and saving it.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

from benchmarks.paths import REPOSITORY
from benchmarks.provenance import made_by
from llama2vec.config import load_config
from llama2vec.files import write_json
from llama2vec.pipeline.estimates import estimate_run
from llama2vec.pipeline.execution import execute
from llama2vec.pipeline.plan import plan_run
from llama2vec.pipeline.settings import RunConfig

RECIPE = REPOSITORY / "recipes" / "run-cpu-minutes.toml"
TIMED = ("adapt", "finetune", "encode")


def main() -> None:
    """Estimate, run, and write both."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--corpus", required=True)
    options.add_argument("--work", type=Path, required=True, help="folder for the run; must not exist")
    options.add_argument("--output", type=Path, required=True)
    options.add_argument("--set", action="append", default=[], help="change the recipe")
    arguments = options.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if arguments.work.exists():
        sys.exit(f"{arguments.work} exists; stages that are done take no time")
    changes = ["adapt.optimizer.steps=16", "finetune.optimizer.steps=16", *arguments.set, f"corpus={arguments.corpus}"]
    plan = plan_run(load_config(RunConfig, RECIPE, changes), arguments.work)
    estimate = estimate_run(plan, plan.stages)
    execute(plan)
    record = json.loads((arguments.work / "run.json").read_text(encoding="utf-8"))
    rows: dict[str, Any] = {}
    for stage in TIMED:
        estimated, taken = estimate.stages[stage].seconds, float(record["stages"][stage]["seconds"])
        rows[stage] = {"estimated": round(estimated, 1), "taken": round(taken, 1), "ratio": round(taken / estimated, 2)}
        print(stage, rows[stage])
    facts = {"recipe": RECIPE.stem, "set": changes[:-1], "assumptions": estimate.assumptions[1:2]}
    write_json(arguments.output, {**made_by(), **facts, "stages": rows})


if __name__ == "__main__":
    main()
