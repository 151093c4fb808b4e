"""``llama2vec finetune``."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from llama2vec.cli.dry_run import DryRun, show_training
from llama2vec.cli.options import already_done, report, report_stacks, set_option, with_options
from llama2vec.cli.seeds import Seeds, losses_of, train_with_seeds
from llama2vec.cli.settings_options import lists_settings
from llama2vec.config import load_config
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.manifest import MANIFEST_FILE
from llama2vec.terminal import counted


@lists_settings(FinetuneConfig)
def finetune_command(
    recipe: Annotated[Path | None, typer.Argument(help="TOML recipe, or the name of a shipped one.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the encoder.")] = Path("runs/finetuned"),
    data: Annotated[list[str] | None, typer.Option(help="Labeled examples; replaces data.sources; repeatable.")] = None,
    model: Annotated[str | None, typer.Option(help="LLM or adapted encoder; replaces model.name.")] = None,
    sets: Annotated[list[str] | None, set_option("optimizer.steps=64")] = None,
    seeds: Seeds = None,
    dry_run: DryRun = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a fine-tuning that has other settings.")
    ] = False,
) -> None:
    """Fine-tune an LLM or an adapted encoder on labeled queries and save it as an encoder."""
    changes = with_options(sets, ("--data", "data.sources", data), ("--model", "model.name", model))
    read = partial(load_config, FinetuneConfig, recipe)
    if dry_run:
        show_training(read, changes, output, seeds, overwrite=overwrite)
    else:
        train_with_seeds("finetune", read, changes, output, seeds, _finetune, overwrite=overwrite)


def _finetune(config: FinetuneConfig, output: Path, *, overwrite: bool) -> dict[str, float]:
    """Fine-tune, say so, and return the last losses and validation figures."""
    from llama2vec.finetune.stage import STAGE, finetune_model

    is_done = already_done(STAGE.kind, output, overwrite=overwrite)
    encoder = finetune_model(config, output, overwrite=overwrite)
    if is_done:
        report(f"{output} is already done, with the same settings and data; nothing to do")
        return losses_of(output)
    facts = json.loads((output / MANIFEST_FILE).read_text(encoding="utf-8"))["results"]
    scores = "".join(
        f", {name.removeprefix('validation_')} {value:.3f}" for name, value in facts["losses"].items() if "@" in name
    )
    queries, steps = counted(facts["training_queries"], "query", "queries"), counted(facts["steps"], "step")
    report(
        f"Fine-tuned {config.model.name} [D={encoder.dimension}] on {queries} in {steps}, "
        f"{facts['seconds']:,.0f} s{scores}; saved to {output}"
    )
    report_stacks(encoder)
    return losses_of(output)
