"""``llama2vec mine``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama2vec.cli.options import Device, Dtype, Prompts, load_encoder, load_store_encoder
from llama2vec.config import load_config
from llama2vec.errors import ConfigError
from llama2vec.mine.settings import MineConfig, MineSettings

if TYPE_CHECKING:
    from llama2vec.mine.mining import MiningInputs


def mine_command(
    examples: Annotated[str, typer.Argument(help="Training examples: JSONL, BEIR folder, TSV, hf:….")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSONL file; OUTPUT.report.json goes beside it.")],
    corpus: Annotated[
        str | None,
        typer.Option(
            help="Passages to mine from; left out = the store's, else the BEIR folder's, else the examples' own."
        ),
    ] = None,
    bm25: Annotated[bool | None, typer.Option("--bm25/--no-bm25", help="Overrides mine.bm25.")] = None,
    model: Annotated[str | None, typer.Option(help="Encoder to mine with; left out = the store's.")] = None,
    store: Annotated[
        Path | None, typer.Option(help="Store or index of the corpus; left out = encoded beside the output.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the examples.")] = "train",
    recipe: Annotated[Path | None, typer.Option(help="TOML recipe with a [mine] section.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="mine.key=value; may be repeated.")] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    prompts: Prompts = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an output with other settings.")] = False,
) -> None:
    """Mine hard negatives with BM25, a model, or both; report what was removed."""
    changes = list(overrides or []) + ([] if bm25 is None else [f"mine.bm25={str(bm25).lower()}"])
    settings = load_config(MineConfig, recipe, changes).mine
    _check(settings, model, store)
    from llama2vec.mine.mining import MiningInputs, mine_to_file, report_path

    inputs = MiningInputs(examples, split=split, corpus=corpus or "")
    if model or store:
        inputs = _with_encoder(inputs, model, store, (dtype, device, prompts))
    report = mine_to_file(inputs, output, settings, overwrite=overwrite)
    if report is None:
        typer.echo(f"{output} is finished already, from the same inputs and settings; nothing to do")
        return
    typer.echo(report.summary())
    typer.echo(
        f"Mined {report.mined:,} negatives for {report.written:,} of {report.queries:,} queries to {output} "
        f"in {report.facts['seconds']:,.0f} s; report: {report_path(output)}"
    )


def _check(settings: MineSettings, model: str | None, store: Path | None) -> None:
    if not settings.bm25 and not model and not store:
        raise ConfigError("there is nothing to mine with; take BM25 (--bm25), a model (--model), or both")


def _with_encoder(
    inputs: MiningInputs, model: str | None, store: Path | None, loading: tuple[str, str, str | None]
) -> MiningInputs:
    """Load the encoder, which is the store's own where none is named, as `search` does."""
    from dataclasses import replace

    from llama2vec.retrieve.index import open_index

    index = open_index(store) if store else None
    dtype, device, prompts = loading
    if index:
        encoder = load_store_encoder(index.store, model, dtype, device, prompts)
    else:
        encoder = load_encoder(str(model), dtype, device, prompts)
    return replace(inputs, model=model or encoder.backbone.source.name, encoder=encoder, index=index)
