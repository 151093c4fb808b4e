"""Options that several verbs share: how a model is loaded, a corpus read, and a result printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from pydantic import Field, field_validator

from llama2vec.artifact import Kind, find
from llama2vec.cli.settings_options import Keys
from llama2vec.config import (
    PROMPT_RECIPES,
    EncoderSettings,
    ModelSettings,
    Settings,
    load_config,
)
from llama2vec.data.settings import PassageSettings, ReadingSettings
from llama2vec.errors import ConfigError, ContractError
from llama2vec.languages import check_language
from llama2vec.model.source import ModelSpec, read_choices, resolve_model
from llama2vec.terminal import display, is_first_process
from llama2vec.toml_values import set_value, toml_value

if TYPE_CHECKING:
    from llama2vec.data.documents.folder import ReadingReport
    from llama2vec.model.encoder import Encoder
    from llama2vec.retrieve.store.reader import VectorStore

DTYPE_HELP = "Number format of the model: auto, float32, bfloat16 or float16."
DEVICE_HELP = "Where the model runs: auto, cpu, cuda, cuda:1, …"
PROMPTS_HELP = f"Prompts for a model not saved by llama2vec: {', '.join(PROMPT_RECIPES)}."
_DTYPES: tuple[str, ...] = get_args(ModelSettings.model_fields["dtype"].annotation)


def _unknown_dtype(dtype: str) -> str:
    """Say what is wrong with a number format; "" where it is one."""
    return "" if dtype in _DTYPES else f"unknown number format; choose from {', '.join(_DTYPES)}"


def _known_dtype(dtype: str) -> str:
    if problem := _unknown_dtype(dtype):
        raise ConfigError(f"--dtype {dtype}: {problem}")
    return dtype


Dtype = Annotated[str, typer.Option(help=DTYPE_HELP, callback=_known_dtype)]
Device = Annotated[str, typer.Option(help=DEVICE_HELP)]
Prompts = Annotated[str | None, typer.Option(help=PROMPTS_HELP)]
DataRoot = Annotated[
    str, typer.Option(envvar="LLAMA2VEC_DATA", help="Folder that holds named tasks, such as beir/NAME.")
]


def set_option(example: str = "", keys: str = "") -> Any:
    """Return the option ``--set``, whose help shows an example of a setting, or all keys that the command takes."""
    shown = f": {keys}" if keys else f", such as {example}"
    return typer.Option("--set", help=f"Setting as KEY=VALUE{shown}; repeatable.")


OF_ENCODER = "model.compile; for a model not saved by llama2vec, also pooling, passage_max_tokens, …"
"""The keys of ``--set`` for an encoder's settings, as its help tells them."""
EncoderSets = Annotated[list[str] | None, set_option(keys=OF_ENCODER)]
WHERE_HELP = """Search only passages that match this filter, such as 'year >= 2020 and path ~ "guide/"'."""
Where = Annotated[str | None, typer.Option(help=WHERE_HELP)]
ReadingSets = Annotated[list[str] | None, set_option("reading.text_field=body")]
Strict = Annotated[bool, typer.Option("--strict", help="Fail if a file is skipped or only partly read.")]


class Loading(Settings):
    """How a saved model is loaded."""

    dtype: str = Field("auto", description=DTYPE_HELP)
    device: str = Field("auto", description=DEVICE_HELP)

    @field_validator("dtype")
    @classmethod
    def _is_known(cls, dtype: str) -> str:
        if problem := _unknown_dtype(dtype):
            raise ValueError(problem)
        return dtype


class EncoderLoading(Loading):
    """How any encoder is loaded."""

    prompts: str | None = Field(None, description=PROMPTS_HELP)


class CorpusSettings(Settings):
    """How a corpus is read."""

    reading: ReadingSettings = ReadingSettings()  # How documents and rows are read
    passages: PassageSettings = PassageSettings()  # How documents are split


def corpus_settings(sets: Iterable[str] | None) -> tuple[CorpusSettings, list[str]]:
    """Take ``reading.KEY`` and ``passages.KEY`` out of ``--set``; return them as settings, and all other sets."""
    given = list(sets or ())
    own = [one for one in given if one.lstrip().startswith(tuple(f"{name}." for name in CorpusSettings.model_fields))]
    return load_config(CorpusSettings, None, own), [one for one in given if one not in own]


READING_KEYS = Keys(CorpusSettings, "", ("reading",))


def reading_settings(sets: Iterable[str] | None) -> tuple[ReadingSettings, list[str]]:
    """Take ``reading.KEY`` out of ``--set``; return how a corpus is read as it stands, and all other sets.

    Raises:
        ConfigError: ``passages.KEY`` is set, and nothing is split here.
    """
    settings, others = corpus_settings(sets)
    if "passages" in settings.model_fields_set:
        raise ConfigError("--set passages.KEY: the corpus is read as it stands here, without splitting; drop it")
    return settings.reading, others


def only_reading(sets: Iterable[str] | None, verb: str) -> ReadingSettings:
    """Read the ``--set`` of a command that takes ``reading.KEY`` alone; a ConfigError for any other key."""
    reading, others = reading_settings(sets)
    if others:
        raise ConfigError(f"--set {others[0]}: {verb} takes reading.KEY alone; see --list-settings")
    return reading


_MODEL = "model."
_MODEL_KEYS = ("compile", "attention")
READ_MODEL_KEYS = Keys(ModelSettings, _MODEL, _MODEL_KEYS)
ENCODER_KEYS = (READ_MODEL_KEYS, EncoderSettings)
"""What ``--list-settings`` shows of a model that is only read, and of one without a contract."""


def model_settings(dtype: str, device: str, sets: Iterable[str] | None) -> tuple[ModelSettings, list[str]]:
    """Read how a model is loaded out of the options and of ``--set model.KEY=value``; return the other sets too."""
    given = list(sets or ())
    own = [one for one in given if one.lstrip().startswith(_MODEL)]
    keys = [one.lstrip().removeprefix(_MODEL) for one in own]
    for key in keys:
        if key.partition("=")[0].strip() not in _MODEL_KEYS:
            known = " and ".join(f"{_MODEL}{name}" for name in _MODEL_KEYS)
            raise ConfigError(f"--set {_MODEL}{key}: of a model that is only read, {known} can be set")
    settings = load_config(ModelSettings, None, [f"dtype={dtype}", f"device={device}", *keys])
    return settings, [one for one in given if one not in own]


def print_reading(found: ReadingReport) -> None:
    """Print what was read of documents and, by reason, what was not; nothing where a corpus has no documents."""
    if found.files or found.skipped:
        report(found.table())


def already_done(kind: Kind, output: Path, *, overwrite: bool) -> bool:
    """Tell whether an output is finished before its command runs; an OutputExistsError for anything of another kind."""
    found = find(output, kind)
    return found is not None and found.finished and not overwrite


def report(text: str) -> None:
    """Print a result, once where several processes run the command."""
    if is_first_process():
        display(text)


def report_stacks(encoder: Encoder) -> None:
    """Print which other programs an encoder opens in, and why not."""
    from llama2vec.model.publish.stacks import stack_lines

    model_type = encoder.backbone.model.config.get_text_config().model_type
    padding_matters = encoder.backbone.padding_changes_vectors
    report("\n".join(stack_lines(encoder.contract, model_type, padding_matters=padding_matters)))


def as_overrides(given: Mapping[str, str | int | list[str] | None]) -> list[str]:
    """Write options that set a recipe's keys as ``--set`` takes them; those that were not given are dropped.

    >>> as_overrides({"text.corpus": "cranes.jsonl", "model.name": None})
    ['text.corpus="cranes.jsonl"']
    """
    return [f"{key}={toml_value(value)}" for key, value in given.items() if value]


def with_options(sets: Iterable[str] | None, *options: tuple[str, str, str | int | list[str] | None]) -> list[str]:
    """Write options as ``--set`` takes them, and put what ``--set`` was given after them.

    Args:
        sets: What ``--set`` was given.
        options: The name of each option, the key that it sets, and its value; None or nothing = not given.

    Raises:
        ConfigError: An option and ``--set`` give one key different values.
    """
    own = list(sets or ())
    for name, key, value in options:
        given = _strings(value)
        for override in own if value else ():
            set_key, _, text = override.partition("=")
            if set_key.strip() == key and _strings(set_value(text)) != given:
                shown = " ".join(given)
                raise ConfigError(f"{name} {shown} and --set {override} give {key} different values; drop one of them")
    return [*as_overrides({key: value for _, key, value in options}), *own]


def _strings(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def load_encoder(
    model: str | None,
    dtype: str,
    device: str,
    prompts: str | None = None,
    encoder_sets: list[str] | None = None,
    store: VectorStore | None = None,
) -> Encoder:
    """Load the encoder that the options describe; with a store, the one that it names unless ``model`` is given.

    Another model without a contract reads texts as the store's did. ``encoder_sets`` may hold ``model.compile=…``.
    """
    settings, encoder_sets = model_settings(dtype, device, encoder_sets)
    spec = model_spec(model, prompts, encoder_sets, store)
    from llama2vec.model.local import fetched

    # A missing model is named before torch is imported, which takes seconds.
    source = fetched(spec.source() if model is None else resolve_model(model))
    from llama2vec.model.encoder import Encoder

    return Encoder.from_spec(spec, settings, source)


def check_prompts(prompts: str | None, *, has_model: bool) -> None:
    """Raise a ConfigError for prompts without a model that reads them."""
    if prompts and not has_model:
        raise ConfigError("--prompts belongs to a model; name it with --model")


def model_spec(
    model: str | None,
    prompts: str | None = None,
    encoder_sets: list[str] | None = None,
    store: VectorStore | None = None,
) -> ModelSpec:
    """Describe the encoder that :func:`load_encoder` would load, without loading it.

    Raises:
        ContractError: Prompts or settings are given for a model that carries its own contract.
    """
    _, encoder_sets = model_settings("auto", "auto", encoder_sets)
    choices = read_choices(prompts, encoder_sets)
    if store is not None:
        changes = choices.model_dump(include={"prompts", "encoder"}, exclude_none=True)
        spec = ModelSpec.of_store(store.source, store.path, model)
        return ModelSpec.model_validate(spec.model_dump() | changes)
    source = resolve_model(str(model))
    if source.carries_contract and (prompts or encoder_sets):
        raise ContractError(
            f"{model}: this model carries its own contract; leave out --prompts and --set of an encoder"
        )
    return ModelSpec.of_source(source, prompts=choices.prompts, encoder=choices.encoder)


def bm25_language(language: str | None, *, bm25: bool) -> str | None:
    """Return the language of BM25, English unless told, or None where BM25 is not asked for.

    Raises:
        ConfigError: It is not a language code, or it is given without BM25.
    """
    if not bm25:
        if language is not None:
            raise ConfigError("--language sets the language of BM25; add --bm25")
        return None
    return known_language("en" if language is None else language)


def known_language(language: str) -> str:
    """Return what ``--language`` was given; a ConfigError if it is not a language code."""
    try:
        return check_language(language)
    except ValueError as error:
        raise ConfigError(f"--language: {error}") from None
