"""Options that several verbs share: how a model is loaded."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from llama2vec.config import ModelSettings, check_language, load_config
from llama2vec.errors import ConfigError
from llama2vec.model.source import ModelSpec, read_choices

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
    model: str | None,
    dtype: str,
    device: str,
    prompts: str | None = None,
    encoder_sets: list[str] | None = None,
    store: VectorStore | None = None,
) -> Encoder:
    """Load the encoder that the options describe; with a store, the one that it names unless ``model`` is given.

    Another model without a contract reads texts as the store's did.
    """
    settings = load_config(ModelSettings, None, [f"dtype={dtype}", f"device={device}"])
    choices = read_choices(prompts, encoder_sets)
    from llama2vec.model.encoder import Encoder

    if store is None:
        return Encoder.load(str(model), settings=settings, prompts=choices.prompts, encoder=choices.encoder)
    changes = choices.model_dump(include={"prompts", "encoder"}, exclude_none=True)
    spec = ModelSpec.of_store(store.source, store.path, model)
    return Encoder.from_spec(ModelSpec.model_validate(spec.model_dump() | changes), settings)


def check_language_option(language: str) -> None:
    """Raise a ConfigError that names the option if it is not a language code."""
    try:
        check_language(language)
    except ValueError as error:
        raise ConfigError(f"--language: {error}") from None
