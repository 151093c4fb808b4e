"""``llama2vec export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama2vec.errors import ConfigError

_QUANTIZATIONS = ("none", "int8")


def export_command(
    model: Annotated[Path, typer.Argument(help="Folder of a saved encoder, or the name of one that comes along.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the export.")],
    quantize: Annotated[str, typer.Option(help="none, or int8 = 8-bit weights.")] = "none",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an export.")] = False,
) -> None:
    """Save an encoder as an ONNX graph with a tokenizer that adds the prompts."""
    if quantize not in _QUANTIZATIONS:
        raise ConfigError(f"--quantize {quantize}: unknown; choose from {', '.join(_QUANTIZATIONS)}")
    from llama2vec.model.publish.exporting import export_onnx

    made = export_onnx(model, output, quantize="int8" if quantize == "int8" else "none", overwrite=overwrite)
    typer.echo(
        f"Saved {output} [{made.megabytes:.1f} MB]: the cosine to the encoder's own vectors is at least "
        f"{made.cosine:.5f}; check more texts with `llama2vec verify {output} --backend onnx`"
    )
