"""Settings as frozen models: read from TOML, overridden by ``--set key=value``, with a hint for misspelled keys."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from llama2vec.errors import ConfigError
from llama2vec.files import read_text
from llama2vec.records import Side
from llama2vec.settings import Settings as Settings
from llama2vec.settings import StableHashSettings as StableHashSettings
from llama2vec.settings import first_problem
from llama2vec.settings import section_of as section_of
from llama2vec.shipped import find_recipe, recipe_files
from llama2vec.toml_values import set_value

logger = logging.getLogger(__name__)

PromptName = Literal["self", "next"]

_OLD_KEYS = {"optimiser": "optimizer"}
"""Keys of recipes for earlier versions → their present names."""


class PromptSettings(StableHashSettings):
    """The wording that turns a text into an embedding prompt (Llama2Vec, arXiv 2312.15503).

    Attributes:
        slots: Number of new slot tokens per prompt; 0 = the tokenizer's EOS is the only slot.
        begin: ``auto`` = what the tokenizer itself puts before a text, ``bos`` = always its BOS (EOS if it has no
            BOS), ``none`` = nothing.
        slot: What the slot is without new slot tokens: ``eos`` = an EOS after the prompt, ``last`` = the prompt's own
            last token, or the text's where the prompt is empty.
        repeat: Text between two copies of T; ``pooling=mean`` then reads the second one, whose tokens have seen T whole
            (echo embeddings, arXiv 2402.15449). Only for models without training; such a model cannot be saved.
    """

    added_later = frozenset({"next_prefix", "slot", "repeat"})

    recipe: str = "paper"  # Named wording (paper, paper-v2, released, …); the other keys change it
    prefix: str = ""  # Text before T
    self_prompt: str = "\nThe original sentence: "  # Text after T that asks for T itself (EBAE)
    next_prompt: str = "\nThe next sentence: "  # Text after T that asks for the text that follows T (EBAR)
    slots: Annotated[int, Field(ge=0, le=64)] = 0
    begin: Literal["auto", "bos", "none"] = "auto"
    next_prefix: str | None = None  # Text before T where the NEXT prompt follows; without it, the same as ``prefix``
    slot: Literal["eos", "last"] = "eos"
    repeat: str | None = None

    @model_validator(mode="after")
    def _one_kind_of_slot(self) -> PromptSettings:
        if self.slots and self.slot != "eos":
            raise ValueError(f"slot is {self.slot} and slots is {self.slots}: new slot tokens end the prompt; drop one")
        return self


PROMPT_RECIPES: dict[str, PromptSettings] = {
    "paper": PromptSettings(),
    "paper-v1": PromptSettings(
        recipe="paper-v1", self_prompt=" The original sentence:", next_prompt=" The next sentence:"
    ),
    "paper-v2": PromptSettings(
        recipe="paper-v2", self_prompt=" The input sentence is:", next_prompt=" The next sentence is:"
    ),
    "released": PromptSettings(
        recipe="released", prefix='"', slots=8,
        self_prompt='", summarize the above passage within eight words: ',
        next_prompt='", predict the following passage within eight words: ',
    ),
    "repllama": PromptSettings(
        recipe="repllama", prefix="passage: ", next_prefix="query: ", self_prompt="", next_prompt=""
    ),
    "last-token": PromptSettings(recipe="last-token", self_prompt="", next_prompt="", slot="last"),
    "one-word": PromptSettings(
        recipe="one-word", prefix='This sentence : "', self_prompt='" means in one word:"',
        next_prompt='" means in one word:"', slot="last",
    ),
    "echo": PromptSettings(
        recipe="echo", prefix="Rewrite the sentence: ", repeat=", rewritten sentence: ", self_prompt="", next_prompt="",
        slot="last",
    ),
}  # fmt: skip
"""Wordings by name: ``paper-v1`` (arXiv 2312.15503v1), ``paper-v2`` (its second version and ACL 2024) and ``released``
(the authors' code and checkpoints) are as published; ``paper``, the default, is v1's on a new line. ``repllama`` is the
baseline of the same name (arXiv 2310.08319). The others are for models as they are: ``last-token``, ``one-word``
(PromptEOL, arXiv 2307.16645) and ``echo`` (arXiv 2402.15449, with ``pooling=mean`` for the second copy's mean)."""


class LoraSettings(Settings):
    """Low-rank adapters on the linear projections (peft).

    Attributes:
        depth: Share of the layers, counted from the top, that get adapters. The backward pass ends below them: 0.5
            saves a quarter of the step and half of the activations' memory.
    """

    rank: Annotated[int, Field(ge=0, le=16_384)] = 16  # Width of the adapters; 0 = train every weight instead
    alpha: Annotated[float, Field(gt=0)] = 32  # Scale of the update, which is alpha / rank
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # Dropout on the adapters' input
    targets: str | list[str] = "all-linear"  # ``all-linear`` or the names of the projections
    depth: Annotated[float, Field(gt=0, le=1)] = 1.0


class ModelSettings(StableHashSettings):
    """Which backbone to load, and how.

    Attributes:
        dtype: ``auto`` = bfloat16 where the hardware multiplies it natively, else float32.
        attention: Attention kernel; ``flash_attention_2`` and ``flex_attention`` work for encoding only.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        compile: Compile the layers (torch.compile). ``auto`` = for long encodings on a CPU that multiplies bfloat16
            natively and has a C++ compiler; true = for all encoding, and in training: faster steps on a GPU after a
            minute of compiling.
        layers: Number of layers to keep, from the bottom; 0 = all. Training teaches the shorter model to predict
            tokens again; every later step and encoding is faster by the share of the layers removed.
        quantization: ``nf4`` = train adapters over weights in 4 bits (QLoRA, arXiv 2305.14314). The saved encoder has
            the model's own weights, with the adapters merged.
    """

    added_later = frozenset({"compile", "layers", "quantization"})

    name: str = "smollm2-135m"  # Hub id, local folder, GGUF file, or an LLM from a package
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attention: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = "sdpa"
    device: str = "auto"  # ``auto`` = a GPU if the machine has one
    lora: LoraSettings = LoraSettings()  # Adapters; rank 0 = full fine-tuning
    gradient_checkpointing: bool = False
    compile: bool | Literal["auto"] = "auto"
    layers: Annotated[int, Field(ge=0)] = 0
    quantization: Literal["none", "nf4"] = "none"

    @model_validator(mode="after")
    def _adapters_over_four_bits(self) -> ModelSettings:
        if self.quantization != "none" and not self.lora.rank:
            raise ValueError("weights in 4 bits cannot be trained; with quantization, set lora.rank above 0")
        return self

    @property
    def all_layers(self) -> ModelSettings:
        """The settings with which a model keeps all its layers, as what a training made with them must."""
        return self.model_copy(update={"layers": 0})


class EncoderSettings(StableHashSettings):
    """How the finished model embeds texts; part of the saved contract.

    Attributes:
        pooling: ``slots`` = mean of the hidden states at the slots; ``mean`` = mean over the text's tokens without any
            prompt (a baseline for models that were not adapted).
        layers: Number of last layers whose states, each at unit length, are averaged. 1 = only the last layer, as
            published. That layer is trained to predict tokens; the ones below it represent the text better.
        count_prompt: The two limits include prefix and prompt, as in the authors' code. The saved encoder's limits
            are what remains for the text itself, beside its own prompts.
        servable: Makes a model whose vectors other programs compute without our code (vLLM, text-embeddings-inference,
            sentence-transformers): the saved tokenizer adds the prompt, and pooling and norm are declared. Needs the
            last layer alone, one slot, and the same prompt and limit for queries and passages; what of these is not set
            follows from it.
    """

    added_later = frozenset({"count_prompt", "servable"})

    query_prompt: PromptName = "self"  # Prompt that follows a query
    passage_prompt: PromptName = "self"  # Prompt that follows a passage
    query_max_tokens: Annotated[int, Field(ge=1)] = 128  # Length limit of queries in tokens, without the prompt
    passage_max_tokens: Annotated[int, Field(ge=1)] = 512  # Length limit of passages in tokens, without the prompt
    pooling: Literal["slots", "mean"] = "slots"
    layers: Annotated[int, Field(ge=1)] = 1
    count_prompt: bool = False
    servable: bool = False

    @model_validator(mode="after")
    def _one_reading_where_servable(self) -> EncoderSettings:
        if not self.servable:
            return self
        given = {name: getattr(self, name) for name in self.model_fields_set}
        follows: dict[str, Any] = {"layers": 1}
        for name, usual in (("prompt", "self"), ("max_tokens", 512)):
            passage, query = f"passage_{name}", f"query_{name}"
            follows |= dict.fromkeys((passage, query), given.get(passage, given.get(query, usual)))
        differs = [f"{name} = {given[name]}" for name in follows if given.get(name, follows[name]) != follows[name]]
        if differs:
            raise ValueError(f"servable allows one layer and one reading of all texts, and not {differs[0]}; drop one")
        vars(self).update(follows)
        return self

    def reading(self, side: Side) -> tuple[PromptName | None, int]:
        """Return the prompt that follows the texts of a side, None with ``pooling=mean``, and their most tokens."""
        prompt: PromptName = getattr(self, f"{side}_prompt")
        return prompt if self.pooling == "slots" else None, getattr(self, f"{side}_max_tokens")


ConfigT = TypeVar("ConfigT", bound=Settings)


def load_config(schema: type[ConfigT], path: str | Path | None, overrides: Iterable[str] = ()) -> ConfigT:
    """Read a TOML recipe, apply ``key=value`` overrides and validate the result.

    Args:
        schema: The settings model to fill.
        path: TOML file; None = the defaults.
        overrides: ``section.key=value`` strings; a value that is not valid TOML is read as text.
            ``prompts=released`` selects a whole prompt recipe.

    Returns:
        The frozen settings.

    Raises:
        ConfigError: The file cannot be read, a key is unknown (with the nearest known one), or a value is invalid.
    """
    where, overrides = str(path) if path else "--set", list(overrides)
    data = _read_toml(Path(path), where) if path else {}
    for override in overrides:
        _apply_override(data, override)
    _expand_prompt_recipe(data)
    try:
        found = schema.parsed(data)
    except ValidationError as error:
        raise ConfigError(first_problem(schema, error, where)) from None
    keys = (override.partition("=")[0].split(".") for override in overrides)
    if idle := found.idle(
        frozenset(".".join(_OLD_KEYS.get(part.strip(), part.strip()) for part in key) for key in keys)
    ):
        raise ConfigError(f"{where}: {idle}")
    return found


def _read_toml(path: Path, where: str) -> dict[str, Any]:
    path = find_recipe(path)
    try:
        return _with_present_keys(tomllib.loads(read_text(path)), where)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such recipe; give the path of a TOML file, or one of {', '.join(recipe_files())}"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a TOML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not valid UTF-8; save it as UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        fault = error if isinstance(error, tomllib.TOMLDecodeError) else "it has numbers too long or values too nested"
        raise ConfigError(f"{path}: cannot be read as TOML: {fault}") from None


def _with_present_keys(data: dict[str, Any], where: str) -> dict[str, Any]:
    """Rename keys of earlier versions, with a warning for each."""
    return {
        _present_key(key, where): _with_present_keys(value, where) if isinstance(value, dict) else value
        for key, value in data.items()
    }


def _present_key(key: str, where: str) -> str:
    present = _OLD_KEYS.get(key, key)
    if present != key:
        logger.warning("%s: '%s' is now called '%s'; please rename it", where, key, present)
    return present


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override}: write it as section.key=value")
    value = set_value(text)
    *sections, last = (_present_key(part.strip(), "--set") for part in key.split("."))
    for section in sections:
        inner = data.setdefault(section, {})
        if isinstance(inner, str) and section == "prompts":
            inner = data[section] = _prompt_recipe(inner)
        if inner is True:
            inner = data[section] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: '{section}' is a value, not a section")
        data = inner
    data[last] = value


def _expand_prompt_recipe(data: dict[str, Any]) -> None:
    """Replace ``prompts = "released"`` by its wording; a ``recipe`` key alone means the same."""
    for section in data.values():
        if isinstance(section, dict) and "prompts" in section:
            _expand_prompt_recipe(section)
    prompts = data.get("prompts")
    if isinstance(prompts, str):
        data["prompts"] = _prompt_recipe(prompts)
    elif isinstance(prompts, dict) and prompts.get("recipe") in PROMPT_RECIPES:
        data["prompts"] = _prompt_recipe(prompts["recipe"]) | prompts


def _prompt_recipe(name: str) -> dict[str, Any]:
    if name not in PROMPT_RECIPES:
        raise ConfigError(f"prompts: no recipe called '{name}'; choose from {', '.join(PROMPT_RECIPES)}")
    return PROMPT_RECIPES[name].model_dump()
