"""The embedding prompt as data: wording, slots and token ids, derived from the model's own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama2vec.config import PromptName, PromptSettings
from llama2vec.errors import TokenizerError

Tokenizer = Any
"""A fast tokenizer of transformers (untyped upstream)."""


@dataclass(frozen=True, slots=True)
class PromptIds:
    """Token ids of one prompt set; every text becomes ``prefix + text + suffix``."""

    prefix: tuple[int, ...]
    suffixes: dict[PromptName, tuple[int, ...]]  # Of each prompt; the last `slots` ids are the slots.
    slots: int  # Number of slots S of each prompt.

    def wrap(self, text_ids: Sequence[int], prompt: PromptName | None, max_text_tokens: int) -> list[int]:
        """Put the prompt around a text; the text is cut, the prompt never is.

        >>> PromptIds((1,), {"self": (8, 9)}, 1).wrap([4, 5, 6], "self", 2)
        [1, 4, 5, 8, 9]
        """
        suffix = self.suffixes[prompt] if prompt else ()
        return [*self.prefix, *text_ids[:max_text_tokens], *suffix]

    def room(self, context: int) -> int:
        """Return how many of a model's ``context`` tokens the longest prompt leaves for a text."""
        return context - len(self.prefix) - max(len(suffix) for suffix in self.suffixes.values())


def prompted_texts(
    tokenizer: Tokenizer, texts: Sequence[str], ids: PromptIds, prompt: PromptName | None, max_text_tokens: int
) -> list[list[int]]:
    """Return the token ids of N texts, each cut to ``max_text_tokens`` and followed by the prompt; no row is empty."""
    token_ids = tokenizer(
        list(texts), add_special_tokens=False, truncation=True, max_length=max_text_tokens, return_attention_mask=False
    )["input_ids"]
    if tokenizer.is_fast:
        # Otherwise the limit of this call would be saved with the tokenizer.
        tokenizer.backend_tokenizer.no_truncation()
    # An empty text without prefix and prompt has nothing to pool: the EOS token stands in for it.
    stand_in = [tokenizer.eos_token_id or 0]
    return [ids.wrap(row, prompt, max_text_tokens) or list(stand_in) for row in token_ids]


def count_longer(tokenizer: Tokenizer, texts: Sequence[str], most: int) -> int:
    """Return how many texts have more than ``most`` tokens, so that :func:`prompted_texts` cuts them."""
    # Not verbose: a text longer than the model reads is expected here.
    found = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return sum(len(row) > most for row in found)


def slot_names(settings: PromptSettings) -> dict[PromptName, list[str]]:
    """Name the new slot tokens as the authors' code does: ``<s1>`` … for SELF, the next numbers for NEXT.

    >>> slot_names(PromptSettings(slots=2))
    {'self': ['<s1>', '<s2>'], 'next': ['<s3>', '<s4>']}
    """
    count = settings.slots
    return {
        "self": [f"<s{number}>" for number in range(1, count + 1)],
        "next": [f"<s{number}>" for number in range(count + 1, 2 * count + 1)],
    }


def add_slot_tokens(tokenizer: Tokenizer, settings: PromptSettings) -> list[str]:
    """Add the prompt's slot tokens that the tokenizer lacks, and return them; the embedding must grow by as many."""
    vocabulary = tokenizer.get_vocab()
    missing = [name for group in slot_names(settings).values() for name in group if name not in vocabulary]
    if missing:
        tokenizer.add_special_tokens({"additional_special_tokens": missing}, replace_extra_special_tokens=False)
    return missing


def prompt_ids(tokenizer: Tokenizer, settings: PromptSettings) -> PromptIds:
    """Turn the wording into ids with the model's own tokenizer; nothing is hard-coded.

    Raises:
        TokenizerError: The recipe's slot is EOS and the tokenizer has none, or slot tokens are missing.
    """
    prefix = (*_begin_ids(tokenizer, settings), *_plain_ids(tokenizer, settings.prefix))
    names = slot_names(settings)
    suffixes: dict[PromptName, tuple[int, ...]] = {}
    wordings: dict[PromptName, str] = {"self": settings.self_prompt, "next": settings.next_prompt}
    for name, wording in wordings.items():
        # One string, as the authors tokenize it: sentencepiece may add a token between wording and slots.
        ids = _plain_ids(tokenizer, wording + "".join(names[name]))
        if settings.slots:
            if ids[-settings.slots :] != [tokenizer.convert_tokens_to_ids(slot) for slot in names[name]]:
                raise TokenizerError(
                    f"the tokenizer lacks the slot tokens {names[name][0]}…{names[name][-1]}; add them before use"
                )
        elif tokenizer.eos_token_id is None:
            raise TokenizerError(
                "the tokenizer has no EOS token, which is the slot of this prompt; "
                "set tokenizer.eos_token or choose prompts with new slot tokens (prompts=released)"
            )
        else:
            ids.append(tokenizer.eos_token_id)
        suffixes[name] = tuple(ids)
    return PromptIds(prefix, suffixes, settings.slots or 1)


def _plain_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def _begin_ids(tokenizer: Tokenizer, settings: PromptSettings) -> tuple[int, ...]:
    if settings.begin == "none":
        return ()
    if settings.begin == "bos":
        token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if token is None:
            raise TokenizerError("the tokenizer has neither BOS nor EOS; set prompts.begin to 'auto' or 'none'")
        return (token,)
    plain, full = _plain_ids(tokenizer, "a"), list(tokenizer("a")["input_ids"])
    starts = range(len(full) - len(plain) + 1)
    return next((tuple(full[:start]) for start in starts if full[start : start + len(plain)] == plain), ())
