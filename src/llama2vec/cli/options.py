"""Options that several verbs share: how a model is loaded."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from llama2vec.config import EncoderSettings, ModelSettings, PromptSettings, Settings, check_language, load_config
from llama2vec.errors import ConfigError

if TYPE_CHECKING:
    from llama2vec.model.encoder import Encoder
    from llama2vec.model.spec import ModelSpec
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
    settings, (wording, encoder) = _model_settings(dtype, device), _reading(prompts, encoder_sets)
    from llama2vec.model.encoder import Encoder

    return Encoder.load(model, settings=settings, prompts=wording, encoder=encoder)


def load_store_encoder(
    store: VectorStore,
    model: str | None,
    dtype: str,
    device: str,
    prompts: str | None = None,
    encoder_sets: list[str] | None = None,
) -> Encoder:
    """Load the encoder that a store names, or another model, which reads texts as the store's did."""
    settings, (wording, encoder) = _model_settings(dtype, device), _reading(prompts, encoder_sets)
    from llama2vec.model.encoder import Encoder

    spec = store_spec(store, model)
    changes = {name: value for name, value in (("prompts", wording), ("encoder", encoder)) if value}
    return Encoder.from_spec(spec.model_copy(update=changes), settings)


def store_spec(store: VectorStore, model: str | None = None) -> ModelSpec:
    """Return which model a store was made with, or another model in its place."""
    from llama2vec.model.spec import ModelSpec

    return ModelSpec.of_store(store.source, store.path, model)


def _reading(prompts: str | None, sets: list[str] | None) -> tuple[PromptSettings | None, EncoderSettings | None]:
    wording = load_config(_PromptChoice, None, [f"prompts={prompts}"]).prompts if prompts else None
    return wording, load_config(EncoderSettings, None, sets) if sets else None


def _model_settings(dtype: str, device: str) -> ModelSettings:
    return load_config(ModelSettings, None, [f"dtype={dtype}", f"device={device}"])


class _PromptChoice(Settings):
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
