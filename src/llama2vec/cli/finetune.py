"""``llama2vec finetune``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from llama2vec.cli.options import report, report_stacks, with_options
from llama2vec.cli.seeds import Seeds, losses_of, read_seeds, run_seeds, seeded
from llama2vec.cli.settings_options import settings_option
from llama2vec.config import load_config
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.terminal import counted


def finetune_command(
    recipe: Annotated[Path | None, typer.Argument(help="TOML recipe, or the name of a shipped one.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the encoder.")] = Path("runs/finetuned"),
    data: Annotated[list[str] | None, typer.Option(help="Labeled examples; replaces data.sources; repeatable.")] = None,
    model: Annotated[str | None, typer.Option(help="LLM or adapted encoder; replaces model.name.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting as KEY=VALUE, such as optimizer.steps=64; repeatable."),
    ] = None,
    list_settings: Annotated[bool, settings_option(FinetuneConfig)] = False,
    seeds: Seeds = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a fine-tuning that has other settings.")
    ] = False,
) -> None:
    """Fine-tune an LLM or an adapted encoder on labeled queries and save it as an encoder."""
    changes = with_options(overrides, ("--data", "data.sources", data), ("--model", "model.name", model))
    if seeds is None:
        _finetune(load_config(FinetuneConfig, recipe, changes), output, overwrite=overwrite)
        return
    numbers = read_seeds(seeds, overrides or [])
    configs = {seed: load_config(FinetuneConfig, recipe, seeded(changes, seed, output)) for seed in numbers}
    run_seeds("finetune", numbers, output, lambda seed, folder: _finetune(configs[seed], folder, overwrite=overwrite))


def _finetune(config: FinetuneConfig, output: Path, *, overwrite: bool) -> dict[str, float]:
    """Fine-tune, say so, and return the last losses and validation figures."""
    from llama2vec.finetune.stage import STAGE, finetune_model
    from llama2vec.training.output import MANIFEST

    before = STAGE.kind.read(output)
    encoder = finetune_model(config, output, overwrite=overwrite)
    if before and before.finished and not overwrite:
        report(f"{output} is already done, with the same settings and data; nothing to do")
        return losses_of(output)
    facts = json.loads((output / MANIFEST).read_text(encoding="utf-8"))["results"]
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
