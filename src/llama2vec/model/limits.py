"""What a model can follow of an encoder's settings: layers, lengths, and what other programs do by themselves."""

from __future__ import annotations

import logging
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from llama2vec.config import EncoderSettings
from llama2vec.errors import ContractError
from llama2vec.model.prompt import PromptIds, Tokenizer
from llama2vec.records import SIDES

if TYPE_CHECKING:
    from llama2vec.model.backbone import Backbone

logger = logging.getLogger(__name__)


def obstacles(ids: PromptIds, settings: EncoderSettings, *, prompts_sent: bool = False) -> list[str]:
    """Return what keeps a program that pools one token of the last layer, or all, from giving these vectors.

    With ``prompts_sent``, its client cuts the texts and sends the prompts.
    """
    prompts = {settings.reading(side)[0] for side in SIDES}
    alike = len({(ids.before(prompt), ids.after(prompt)) for prompt in prompts}) == 1
    found = {
        f"its vectors are the mean of {settings.layers} layers": settings.layers > 1,
        f"its vectors are the mean of {ids.slots} slots": settings.pooling == "slots" and ids.slots > 1,
        "its mean leaves out the tokens before a text": settings.pooling == "mean" and bool(ids.prefix),
        "it reads a text twice": ids.repeat is not None,
        "queries and passages have different prompts": not (alike or prompts_sent),
        "queries and passages are cut at different lengths": not (
            settings.query_max_tokens == settings.passage_max_tokens or prompts_sent
        ),
    }
    return [what for what, is_so in found.items() if is_so]


def check_servable(ids: PromptIds, settings: EncoderSettings, tokenizer: Tokenizer) -> None:
    """Raise a ContractError where ``servable`` is asked for, and other programs could not give the vectors."""
    if settings.servable and not tokenizer.is_fast:
        raise ContractError(
            "encoder.servable is true, but a slow tokenizer cannot hold the prompt; take a model with a tokenizer.json"
        )
    if settings.servable and (found := obstacles(ids, settings)):
        raise ContractError(
            f"encoder.servable is true, but {'; '.join(found)}: other programs cannot give such vectors; change one"
        )


def _of_text(backbone: Backbone, ids: PromptIds, settings: EncoderSettings) -> EncoderSettings:
    """Return the settings with limits that count the text alone."""
    if ids.next_prefix is not None and settings.pooling != "slots":
        raise ContractError("prompts.next_prefix needs pooling=slots: without a prompt, both sides have one prefix")
    if not settings.count_prompt:
        return settings
    limits: dict[str, Any] = {"count_prompt": False}
    for side in SIDES:
        prompt, most = settings.reading(side)
        limits[f"{side}_max_tokens"] = ids.text_room(most, prompt)
        if limits[f"{side}_max_tokens"] < 1:
            raise ContractError(
                f"{backbone.source.name}: encoder.{side}_max_tokens is {most}, which the prompt fills; raise it, or "
                "set encoder.count_prompt = false"
            )
    return settings.model_copy(update=limits)


def usable_layers(backbone: Backbone) -> int:
    """Return how many of a model's last layers give states of one shape, which can be averaged.

    OPT-350M projects what its last layer gives to the width of its embeddings; Gemma 3n's layers keep several streams.
    """
    import torch

    from llama2vec.model.backbone import decoder

    ids = torch.zeros(1, 2, dtype=torch.long, device=backbone.model.device)
    with torch.no_grad():
        output = decoder(backbone.model)(input_ids=ids, use_cache=False, output_hidden_states=True)
    shape, states = output.last_hidden_state.shape, (output.hidden_states or ())[1:]  # The first are the embeddings.
    alike = takewhile(lambda state: state.shape == shape, reversed(states))
    return max(1, sum(1 for _ in alike))


def most_tokens(config: Any, ids: PromptIds) -> int | None:
    """Return how many tokens of a text a model has positions for beside the prompts; None = any number."""
    context = getattr(config, "max_position_embeddings", None)
    return ids.room(context) if context else None


def within_model(backbone: Backbone, ids: PromptIds, settings: EncoderSettings) -> EncoderSettings:
    """Cut layers and length limits to what the model has, and say so; take the prompts off limits that include them."""
    settings = _of_text(backbone, ids, settings)
    check_servable(ids, settings, backbone.tokenizer)
    limits = {"layers": usable_layers(backbone) if settings.layers > 1 else 1}
    if (room := most_tokens(backbone.model.config, ids)) is not None:
        if room < 1:
            context = backbone.model.config.max_position_embeddings
            raise ContractError(
                f"{backbone.source.name}: its context of {context} tokens has no room for text next to the prompts; "
                "choose shorter prompts"
            )
        limits |= {"query_max_tokens": room, "passage_max_tokens": room}
    cut = {name: limit for name, limit in limits.items() if getattr(settings, name) > limit}
    for name, limit in cut.items():
        logger.warning(
            "encoder.%s is cut to %d from %d: the model supports no more", name, limit, getattr(settings, name)
        )
    return EncoderSettings.model_validate(settings.model_dump() | cut)
