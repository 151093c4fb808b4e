"""How much of a text fine-tuning reads, and how many texts of the data are longer."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from llama2vec.config import EncoderSettings
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.model.batching import chunks
from llama2vec.model.lengths import NOUNS
from llama2vec.model.local import fetched
from llama2vec.model.prompt import Tokenizer, count_longer
from llama2vec.model.source import ModelSpec, resolve_model
from llama2vec.model.tokens import text_limits
from llama2vec.processes import process_rank
from llama2vec.records import Side, TrainingExample
from llama2vec.terminal import counted

logger = logging.getLogger(__name__)

_AT_ONCE = 512


class TrainingLimit(NamedTuple):
    """Most tokens that training reads of the texts of a side, prompts apart."""

    tokens: int
    remedy: str  # What to do about longer texts


def training_limits(config: FinetuneConfig) -> tuple[Tokenizer, dict[Side, TrainingLimit]]:
    """Return the tokenizer of the model to train and the limit of each side, without loading its weights.

    Raises:
        ModelNotFoundError, TokenizerError: The model is not found, or its tokenizer does not fit the prompts.
    """
    source = resolve_model(config.model.name)
    encoder = EncoderSettings.model_validate(config.encoder.model_dump())
    tokenizer, limits = text_limits(ModelSpec.of_source(source, prompts=config.prompts, encoder=encoder))
    fixed, found = fetched(source).carries_contract, dict[Side, TrainingLimit]()
    for side, most in limits.items():
        own, wanted = getattr(config.data, f"{side}_max_tokens"), getattr(encoder, f"{side}_max_tokens")
        remedy = f"raise encoder.{side}_max_tokens"
        if own and own < most:
            most, remedy = own, f"raise data.{side}_max_tokens"
        elif fixed or (most < wanted and not encoder.count_prompt):
            remedy = f"shorten the {NOUNS[side][1]}, because the model reads no more of them"
        found[side] = TrainingLimit(most, remedy)
    return tokenizer, found


def counting_cuts(
    rows: Iterable[tuple[TrainingExample, int]], config: FinetuneConfig
) -> Iterator[tuple[TrainingExample, int]]:
    """Yield examples as they come; after the last one, warn of the texts that training does not read whole.

    Of several processes that read the same examples, the first one counts; negatives count if training draws any.
    """
    if process_rank():
        yield from rows
        return
    tokenizer, limits = training_limits(config)
    total, cut = dict.fromkeys(limits, 0), dict.fromkeys(limits, 0)
    for part in chunks(rows, _AT_ONCE):
        examples, texts = [example for example, _ in part], dict[Side, list[str]]()
        texts["query"] = [example.query for example in examples]
        texts["passage"] = [text for example in examples for text in example.positives]
        if config.contrastive.negatives:
            texts["passage"] += [text for example in examples for text in example.negatives]
        for side, own in texts.items():
            total[side] += len(own)
            cut[side] += count_longer(tokenizer, own, limits[side].tokens)
        yield from part
    if longer := [side for side in limits if cut[side]]:
        parts = [
            f"{cut[side]:,} of {counted(total[side], *NOUNS[side])} (limit {counted(limits[side].tokens, 'token')})"
            for side in longer
        ]
        remedies = " and ".join(limits[side].remedy for side in longer)
        logger.warning("training reads only the beginning of %s; %s", " and ".join(parts), remedies)
