"""``llama2vec adapt``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.cli.options import print_reading, report, report_stacks, with_options
from llama2vec.cli.seeds import Seeds, losses_of, read_seeds, run_seeds, seeded
from llama2vec.cli.settings_options import settings_option
from llama2vec.config import load_config
from llama2vec.data.folder import ReadingReport
from llama2vec.terminal import counted


def adapt_command(
    recipe: Annotated[Path | None, typer.Argument(help="TOML recipe, or the name of a shipped one.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the encoder.")] = Path("runs/adapted"),
    corpus: Annotated[str | None, typer.Option(help="Plain text or documents; replaces text.corpus.")] = None,
    model: Annotated[str | None, typer.Option(help="LLM to adapt; replaces model.name.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting as KEY=VALUE, such as optimizer.steps=64; repeatable."),
    ] = None,
    list_settings: Annotated[bool, settings_option(AdaptConfig)] = False,
    seeds: Seeds = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an adaptation that has other settings.")
    ] = False,
) -> None:
    """Adapt a causal LLM on plain text and save it as an encoder."""
    changes = with_options(overrides, ("--corpus", "text.corpus", corpus), ("--model", "model.name", model))
    if seeds is None:
        _adapt(load_config(AdaptConfig, recipe, changes), output, overwrite=overwrite)
        return
    numbers = read_seeds(seeds, overrides or [])
    configs = {seed: load_config(AdaptConfig, recipe, seeded(changes, seed, output)) for seed in numbers}
    run_seeds("adapt", numbers, output, lambda seed, folder: _adapt(configs[seed], folder, overwrite=overwrite))


def _adapt(config: AdaptConfig, output: Path, *, overwrite: bool) -> dict[str, float]:
    """Adapt, say so, and return the last losses and validation figures."""
    from llama2vec.adapt.stage import STAGE, adapt_model
    from llama2vec.training.output import MANIFEST

    before = STAGE.kind.read(output)
    found = ReadingReport()
    encoder = adapt_model(config, output, overwrite=overwrite, report=found)
    if before and before.finished and not overwrite:
        report(f"{output} is already done, with the same settings and data; nothing to do")
        return losses_of(output)
    facts = json.loads((output / MANIFEST).read_text(encoding="utf-8"))["results"]
    report(
        f"Adapted {config.model.name} [D={encoder.dimension}] in {counted(facts['steps'], 'step')}, "
        f"{facts['seconds']:,.0f} s; saved to {output}"
    )
    report_stacks(encoder)
    print_reading(found)
    return losses_of(output)
