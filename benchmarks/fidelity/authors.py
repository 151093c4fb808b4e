"""Does our training do what the authors' published code does? Both, step by step, on the same tiny Llama and rows.

    python -m benchmarks.fidelity.authors --checkout FlagEmbedding --python OLD/bin/python

The checkout is their repository (github.com/FlagOpen/FlagEmbedding), OLD an environment of its own: ``pip install torch
transformers==4.41.0 tokenizers==0.19.1 accelerate==0.30.1 peft==0.11.1 datasets==2.19.2 sentencepiece nltk "numpy<2"
"pandas<2.3" "pyarrow<17"``. Their scripts run there as they are; ours run here, in float32, from the recipe
``published-released`` and the stage-2 settings of ``run-published-msmarco``. The texts are their toy rows, cut into
shorter ones. ``--tokenizer`` names a folder with LLaMA-2's own tokenizer; without it, one of its kind is trained. The
exit code is 1 if tokens, losses or gradient norms differ.

The numbers that unit tests compare with come from here, too::

    python -m benchmarks.fidelity.authors --checkout … --python … --fixture tests/unit/authors_numbers.json \\
        --steps 6 --batch-size 2 --words 10 40 --negatives 3 --learning-rates 1e-3
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.fidelity.authors_comparison import (
    QUERIES,
    TINY,
    VOCABULARY,
    Comparison,
    Sides,
    compare_adaptation,
    compare_finetuning,
    pretrain_rows,
    read_rows,
)
from benchmarks.fidelity.authors_side import SLOTS
from benchmarks.paths import RESULTS
from benchmarks.provenance import made_by
from llama2vec.files import write_json


def table(found: Comparison) -> str:
    """Return both sides by step as a table."""
    tokens = f"{found.rows_with_the_same_tokens} of {found.rows} rows with the same tokens"
    lines = [f"{found.training}, learning rate {found.learning_rate:g}: {tokens}", ""]
    lines.append("| step | loss, theirs | loss, ours | gradient norm, theirs | gradient norm, ours |")
    lines.append("|---|---|---|---|---|")
    columns = [values[side] for values in (found.losses, found.gradient_norms) for side in ("theirs", "ours")]
    for step, values in enumerate(zip(*columns, strict=False), start=1):
        lines.append("| " + " | ".join([str(step), *(f"{value:.6f}" for value in values)]) + " |")
    lines += [
        "",
        f"largest difference of a loss {found.largest_loss_difference:.1e}, of a gradient norm "
        f"{found.largest_norm_difference:.1e}, of a trained weight {found.largest_weight_difference:.1e} "
        f"(training changed weights by up to {found.largest_weight_change:.1e})",
    ]
    return "\n".join(lines)


def fixture(sides: Sides, found: Sequence[Comparison]) -> dict[str, Any]:
    """Return their numbers of stage 1 and of the first step of stage 2, with all that our side needs to repeat them."""
    prompts, group = sides.seen["prompts"], sides.options.negatives + 1
    begin, end = len(prompts["prefix"]), len(prompts["self"]) + len(prompts["next"])
    pretrain, finetune = sides.seen["pretrain"], sides.seen["finetune"]
    rows = [
        {"text": row[begin:-end], "self": own, "next": after}
        for batch in pretrain["batches"]
        for row, own, after in zip(batch["rows"], batch["self"], batch["next"], strict=True)
    ]
    first = finetune["batches"][0]
    return {
        "source": f"FlagEmbedding {commit_of(sides.checkout)}, transformers {sides.versions['transformers']}",
        "config": {**TINY, "vocab_size": VOCABULARY + len(SLOTS)},
        "prompts": prompts,
        "adapt": {
            "learning_rate": found[0].learning_rate, "batch_size": sides.options.batch_size, "rows": rows,
            "losses": pretrain["losses"], "gradient_norms": pretrain["gradient_norms"],
        },
        "finetune": {
            "queries": first["query"], "passages": [first["passage"][at * group :][:group] for at in range(QUERIES)],
            "loss": finetune["losses"][0], "gradient_norm": finetune["gradient_norms"][0],
        },
    }  # fmt: skip


def commit_of(checkout: Path) -> str:
    done = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True)  # noqa: S607
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkout", required=True, help="a checkout of FlagEmbedding")
    parser.add_argument("--python", required=True, help="Python of the environment with transformers 4.41")
    parser.add_argument("--tokenizer", default="", help="folder with LLaMA-2's tokenizer (default: one is trained)")
    parser.add_argument("--steps", type=int, default=20, help="steps of stage 1")
    parser.add_argument("--batch-size", type=int, default=4, help="texts a step in stage 1")
    parser.add_argument("--words", type=int, nargs=2, default=[20, 90], help="shortest and longest text of stage 1")
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[1e-5, 1e-3], help="rates of stage 1")
    parser.add_argument("--negatives", type=int, default=15, help="hard negatives a query in stage 2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "authors.json")
    parser.add_argument("--fixture", type=Path, help="write the numbers for the unit tests instead of the results")
    return parser.parse_args()


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(Path(folder), options)
        texts = [row["input"] for row in read_rows(sides.toys / "pretrain" / "toy_pretrain_data.jsonl")]
        sides.make_model(texts)
        rows = pretrain_rows(texts, options.steps * options.batch_size, tuple(options.words), options.seed)
        found = [compare_adaptation(sides, rows, rate) for rate in options.learning_rates]
        found.append(compare_finetuning(sides, lora=True, processes=2))
        found += [compare_finetuning(sides, lora=lora) for lora in (True, False)]
    print("\n\n".join(map(table, found)))
    agree = all(one.agrees for one in found)
    if options.fixture:
        if agree:
            options.fixture.write_text(json.dumps(fixture(sides, found)) + "\n", encoding="utf-8")
    else:
        authors = {"commit": commit_of(sides.checkout), "versions": sides.versions, "stop_words": sides.stop_words}
        tokenizer = Path(options.tokenizer).name if options.tokenizer else "trained on the texts"
        comparisons = [{**asdict(one), "agrees": one.agrees} for one in found]
        made = {**made_by(), "authors": authors, "tokenizer": tokenizer, "comparisons": comparisons}
        write_json(options.output, made)
    sys.exit(0 if agree else 1)


if __name__ == "__main__":
    main()
