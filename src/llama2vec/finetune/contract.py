"""What fine-tuning keeps of the contract of the encoder that it starts from."""

from __future__ import annotations

import logging
from pathlib import Path

from llama2vec.config import EncoderSettings, PromptSettings, Settings
from llama2vec.errors import ContractError
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.model.contract import saved_settings
from llama2vec.model.local import fetched
from llama2vec.model.prompt import add_slot_tokens, prompt_ids
from llama2vec.model.source import resolve_model
from llama2vec.model.tokenizer import load_tokenizer
from llama2vec.records import Side

logger = logging.getLogger(__name__)

_LENGTHS: dict[Side, str] = {"query": "query_max_tokens", "passage": "passage_max_tokens"}
_KEPT_BY_CONTRACT = ("pooling", "layers", "servable", *_LENGTHS.values())


def check_contract(config: FinetuneConfig) -> tuple[PromptSettings, EncoderSettings] | None:
    """Return prompts and encoder settings of the contract that the model carries; None for a raw model.

    Raises:
        ContractError: The recipe contradicts the contract; names the field and both values.
    """
    source = fetched(resolve_model(config.model.name))
    if not source.carries_contract or (saved := saved_settings(Path(source.location))) is None:
        return None
    prompts, encoder = saved
    # The wording counts, not the recipe's name.
    explicit = config.prompts.model_fields_set - {"recipe"} if "prompts" in config.model_fields_set else set[str]()
    kept = config.encoder.model_fields_set.intersection(_KEPT_BY_CONTRACT)
    if config.encoder.count_prompt:
        _check_counted(config, prompts, encoder, kept.intersection(_LENGTHS.values()))
        kept -= {*_LENGTHS.values()}
    repeated: list[tuple[str, set[str], Settings]] = [("prompts", explicit, prompts), ("encoder", kept, encoder)]
    for section, field, settings in ((name, field, its) for name, fields, its in repeated for field in sorted(fields)):
        there, now = getattr(settings, field), getattr(getattr(config, section), field)
        if there != now:
            raise ContractError(
                f"{section}.{field}: {config.model.name} was made with {there!r}, the recipe says {now!r}; "
                f"remove {section}.{field} from the recipe, or start from a raw model"
            )
    return saved


def _check_counted(config: FinetuneConfig, prompts: PromptSettings, encoder: EncoderSettings, given: set[str]) -> None:
    """Compare limits that include prefix and prompt with the contract, which counts the text alone.

    Raises:
        ContractError: What such a limit leaves of a text is not what the encoder reads.
    """
    if not given:
        return
    tokenizer = load_tokenizer(config.model.name)
    add_slot_tokens(tokenizer, prompts)
    ids = prompt_ids(tokenizer, prompts)
    for side, field in _LENGTHS.items():
        limit, (prompt, there) = getattr(config.encoder, field), encoder.reading(side)
        if field in given and (now := max(1, ids.text_room(limit, prompt))) != there:
            raise ContractError(
                f"encoder.{field}: {config.model.name} reads {there} tokens of a text, and {limit} with the prompt "
                f"leave {now}; remove encoder.{field} from the recipe, and cut the texts of the training with "
                f"data.{field}"
            )


def resolve_contract(config: FinetuneConfig) -> tuple[PromptSettings, EncoderSettings]:
    """Return the prompts and encoder settings to train with: the model's own if it carries a contract.

    Raises:
        ContractError: The recipe contradicts the contract.
    """
    wanted = EncoderSettings.model_validate(config.encoder.model_dump())
    if (saved := check_contract(config)) is None:
        return config.prompts, wanted
    prompts, encoder = saved
    # Our default pairs two prompts, which would end what the contract promises to other programs.
    paired = {"query_prompt", "passage_prompt"}
    pairing = wanted.model_dump(include=paired & config.encoder.model_fields_set if encoder.servable else paired)
    for name, prompt in pairing.items():
        if (before := getattr(encoder, name)) != prompt:
            logger.info(
                "the %s changes from %s (in %s) to %s; encoder.%s=%s keeps it",
                name.replace("_", " "), before, config.model.name, prompt, name, before,
            )  # fmt: skip
    return prompts, encoder.model_copy(update=pairing)
