"""``llama2vec init``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from llama2vec.files import FileKind, check_new, write_output
from llama2vec.terminal import display

logger = logging.getLogger(__name__)

_RECIPE = FileKind("a recipe of llama2vec init", rb"# llama2vec (adapt|finetune|run) THIS_FILE")


def init_command(
    source: Annotated[Path, typer.Option("--from", help="Folder that adapt, finetune or run wrote.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="TOML file to write; omit to print the recipe.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a recipe that init wrote.")] = False,
) -> None:
    """Write a recipe with the exact settings of an earlier training or run."""
    check_new(output, overwrite=overwrite, kind=_RECIPE)
    from llama2vec.pipeline.recipe import recipe_of

    recipe = recipe_of(source)
    text = recipe.toml(str(source))
    if output is None:
        typer.echo(text, nl=False)
        return
    for note in recipe.notes:
        logger.warning("%s: %s", output, note)
    write_output(output, text, _RECIPE, overwrite=overwrite)
    display(f"Wrote {output}; use it with `llama2vec {recipe.verb} {output} --output NEW_FOLDER`")
