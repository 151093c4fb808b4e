"""Options that several verbs share: how a model is loaded."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from llama2vec.config import EncoderSettings, ModelSettings, PromptSettings, check_language, load_config
from llama2vec.errors import ConfigError

if TYPE_CHECKING:
    from llama2vec.model.encoder import Encoder
    from llama2vec.retrieve.store import VectorStore

Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
Prompts = Annotated[
    str | None, typer.Option(help="Prompt recipe of a model that was not saved by llama2vec: paper or released.")
]
EncoderSets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Encoder setting of such a model, as key=value: pooling=mean, passage_max_tokens=256, …"
    ),
]


def is_first_process() -> bool:
    """Tell whether this process prints the results where several run the command (torchrun)."""
    return os.environ.get("RANK", "0") == "0"


def report(text: str) -> None:
    """Print a result, once where several processes run the command."""
    if is_first_process():
        typer.echo(text)


def load_encoder(
    model: str, dtype: str, device: str, prompts: str | None = None, encoder_sets: list[str] | None = None
) -> Encoder:
    """Load the encoder that the options describe."""
    settings = load_config(ModelSettings, None, [f"dtype={dtype}", f"device={device}"])
    wording = None
    if prompts:
        wording = load_config(_PromptChoice, None, [f"prompts={prompts}"]).prompts
    encoder = load_config(EncoderSettings, None, encoder_sets) if encoder_sets else None
    from llama2vec.model.encoder import Encoder

    return Encoder.load(model, settings=settings, prompts=wording, encoder=encoder)


def load_store_encoder(store: VectorStore, model: str | None, dtype: str, device: str) -> Encoder:
    """Load the encoder that a store was made with, as it was described then; or another one by name."""
    source = store.source
    if model:
        return load_encoder(model, dtype, device)
    sets = source.get("sets")
    return load_encoder(
        str(source["model"]), dtype, device,
        str(source["prompts"]) if source.get("prompts") else None,
        [str(value) for value in sets] if isinstance(sets, list) else None,
    )  # fmt: skip


class _PromptChoice(ModelSettings):
    prompts: PromptSettings = PromptSettings()


def check_language_option(language: str) -> None:
    """Refuse what is no language code before any work.

    Raises:
        ConfigError: Names the option.
    """
    try:
        check_language(language)
    except ValueError as error:
        raise ConfigError(f"--language: {error}") from None
