"""``llama2vec compact``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama2vec.cli.options import already_done
from llama2vec.terminal import display


def compact_command(
    model: Annotated[Path, typer.Argument(help="Folder of a saved encoder that was trained with LoRA.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the compact encoder.")],
    base: Annotated[
        str,
        typer.Option(
            help="LLM that it was trained from: hub id, folder or GGUF file; default: the one in its manifest."
        ),
    ] = "",
    rank: Annotated[
        int, typer.Option(min=1, help="Rank of each layer's difference; a higher rank is more exact and larger.")
    ] = 16,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a compact encoder.")] = False,
) -> None:
    """Save an encoder as a small difference from its LLM."""
    from llama2vec.model.publish.compact import COMPACT, save_compact

    is_done = already_done(COMPACT, output, overwrite=overwrite)
    made = save_compact(model, output, base=base, rank=rank, overwrite=overwrite)
    what = f"{output} is already done" if is_done else f"Saved {output}"
    display(
        f"{what} [{made.megabytes:.1f} MB, rank {made.rank}], a difference from {made.base}: {made.kept:.2%} "
        f"of the squared norm is kept, and the cosine to the encoder's own vectors is at least {made.cosine:.5f}"
    )
    display(f"Only llama2vec opens compact encoders; {model} itself {made.stacks}")
