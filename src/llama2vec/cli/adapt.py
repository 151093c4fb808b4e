"""``llama2vec adapt``."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.cli.dry_run import DryRun, show_training
from llama2vec.cli.options import already_done, print_reading, report, report_stacks, set_option, with_options
from llama2vec.cli.seeds import Seeds, losses_of, train_with_seeds
from llama2vec.cli.settings_options import lists_settings
from llama2vec.config import load_config
from llama2vec.data.documents.folder import ReadingReport
from llama2vec.manifest import MANIFEST_FILE
from llama2vec.terminal import counted


@lists_settings(AdaptConfig)
def adapt_command(
    recipe: Annotated[Path | None, typer.Argument(help="TOML recipe, or the name of a shipped one.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the encoder.")] = Path("runs/adapted"),
    corpus: Annotated[str | None, typer.Option(help="Plain text or documents; replaces text.corpus.")] = None,
    model: Annotated[str | None, typer.Option(help="LLM to adapt; replaces model.name.")] = None,
    sets: Annotated[list[str] | None, set_option("optimizer.steps=64")] = None,
    seeds: Seeds = None,
    dry_run: DryRun = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an adaptation that has other settings.")
    ] = False,
) -> None:
    """Adapt a causal LLM on plain text and save it as an encoder."""
    changes = with_options(sets, ("--corpus", "text.corpus", corpus), ("--model", "model.name", model))
    read = partial(load_config, AdaptConfig, recipe)
    if dry_run:
        show_training(read, changes, output, seeds, overwrite=overwrite)
    else:
        train_with_seeds("adapt", read, changes, output, seeds, _adapt, overwrite=overwrite)


def _adapt(config: AdaptConfig, output: Path, *, overwrite: bool) -> dict[str, float]:
    """Adapt, say so, and return the last losses and validation figures."""
    from llama2vec.adapt.stage import STAGE, adapt_model

    is_done = already_done(STAGE.kind, output, overwrite=overwrite)
    found = ReadingReport()
    encoder = adapt_model(config, output, overwrite=overwrite, report=found)
    if is_done:
        report(f"{output} is already done, with the same settings and data; nothing to do")
        return losses_of(output)
    facts = json.loads((output / MANIFEST_FILE).read_text(encoding="utf-8"))["results"]
    report(
        f"Adapted {config.model.name} [D={encoder.dimension}] in {counted(facts['steps'], 'step')}, "
        f"{facts['seconds']:,.0f} s; saved to {output}"
    )
    report_stacks(encoder)
    print_reading(found)
    return losses_of(output)
