"""The embedding prompt as data: wording, slots and token ids, derived from the model's own tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama2vec.config import PromptName, PromptSettings
from llama2vec.errors import TokenizerError

Tokenizer = Any
"""A fast tokenizer of transformers (untyped upstream)."""

BEFORE, AFTER = "<before>", "<after>"
"""Names, in the template of a servable encoder's tokenizer, of the ids that it puts before and after every text."""


@dataclass(frozen=True, slots=True)
class PromptIds:
    """Token ids of one prompt set; every text becomes ``prefix + text + suffix``.

    With ``repeat``, it becomes ``prefix + text + repeat + text + suffix``.
    """

    prefix: tuple[int, ...]
    suffixes: dict[PromptName, tuple[int, ...]]  # Of each prompt; the last `slots` ids are the slots.
    slots: int  # Number of slots S of each prompt.
    next_prefix: tuple[int, ...] | None = None  # Before a text that NEXT follows; None = the same prefix
    repeat: tuple[int, ...] | None = None  # Between two copies of a text; None = one copy

    def wrap(self, text_ids: Sequence[int], prompt: PromptName | None, max_text_tokens: int) -> list[int]:
        """Put the prompt around a text; the text is cut, the prompt never is.

        >>> PromptIds((1,), {"self": (8, 9)}, 1).wrap([4, 5, 6], "self", 2)
        [1, 4, 5, 8, 9]
        """
        text = text_ids[:max_text_tokens]
        copies = text if self.repeat is None else [*text, *self.repeat, *text]
        return [*self.before(prompt), *copies, *self.after(prompt)]

    def before(self, prompt: PromptName | None) -> tuple[int, ...]:
        """Return the ids before a text that a prompt follows."""
        return self.next_prefix if prompt == "next" and self.next_prefix is not None else self.prefix

    def after(self, prompt: PromptName | None) -> tuple[int, ...]:
        """Return the ids of a prompt; none without one."""
        return self.suffixes[prompt] if prompt else ()

    def text_room(self, tokens: int, prompt: PromptName | None) -> int:
        """Return how many of ``tokens`` a prompt leaves for a text."""
        left = tokens - len(self.before(prompt)) - len(self.after(prompt))
        return left if self.repeat is None else (left - len(self.repeat)) // 2

    def room(self, context: int) -> int:
        """Return how many of a model's ``context`` tokens the longest prompt leaves for a text."""
        return min(self.text_room(context, prompt) for prompt in self.suffixes)


def prompted_texts(
    tokenizer: Tokenizer, texts: Sequence[str], ids: PromptIds, prompt: PromptName | None, max_text_tokens: int
) -> list[list[int]]:
    """Return the token ids of N texts, each cut to ``max_text_tokens`` and followed by the prompt; no row is empty."""
    # `wrap` cuts: a limit set in the tokenizer would also cut what other threads read at that moment. It saves no time
    # either, since the tokenizer reads a text whole before it cuts. Not verbose: longer texts are expected here.
    token_ids = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)[
        "input_ids"
    ]
    # An empty text without prefix and prompt has nothing to pool: the EOS token stands in for it.
    stand_in = [tokenizer.eos_token_id or 0]
    return [ids.wrap(row, prompt, max_text_tokens) or list(stand_in) for row in token_ids]


def count_longer(tokenizer: Tokenizer, texts: Sequence[str], most: int) -> int:
    """Return how many texts have more than ``most`` tokens, so that :func:`prompted_texts` cuts them."""
    if not (long := [text for text in texts if may_be_longer(text, most)]):
        return 0
    # Not verbose: a text longer than the model reads is expected here.
    found = tokenizer(long, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return sum(len(row) > most for row in found)


def may_be_longer(text: str, most: int) -> bool:
    """Tell, without reading it, whether a text can have more than ``most`` tokens.

    An ASCII character is at most one token, and a tokenizer may add a space before the text; other characters may be
    several tokens.
    """
    return len(text) >= most or not text.isascii()


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

    A space where wording and text meet counts once: it is left to tokenizers that put one before every text, as
    LLaMA-2's does.

    Raises:
        TokenizerError: The recipe's slot is EOS and the tokenizer has none, or slot tokens are missing.
    """
    spaced, other = _adds_space(tokenizer), settings.next_prefix

    def plain(text: str, *, before: bool = False, after: bool = False) -> list[int]:
        text = text.removesuffix(" ") if spaced and before else text
        return _plain_ids(tokenizer, text.removeprefix(" ") if spaced and after else text)

    words, other_words = (plain(text or "", before=True) for text in (settings.prefix, other))
    begin = _begin_ids(tokenizer, settings, (words, other_words))
    prefix = (*begin, *words)
    next_prefix = None if other is None else (*begin, *other_words)
    repeat = None if settings.repeat is None else tuple(plain(settings.repeat, before=True, after=True))
    names = slot_names(settings)
    suffixes: dict[PromptName, tuple[int, ...]] = {}
    wordings: dict[PromptName, str] = {"self": settings.self_prompt, "next": settings.next_prompt}
    for name, wording in wordings.items():
        # One string, as the authors tokenize it: sentencepiece may add a token between wording and slots.
        ids = plain(wording + "".join(names[name]), after=True)
        if settings.slots:
            if ids[-settings.slots :] != [tokenizer.convert_tokens_to_ids(slot) for slot in names[name]]:
                raise TokenizerError(
                    f"the tokenizer lacks the slot tokens {names[name][0]}…{names[name][-1]}; add them before use"
                )
        elif settings.slot == "last":
            pass
        elif tokenizer.eos_token_id is None:
            raise TokenizerError(
                "the tokenizer has no EOS token, which is the slot of this prompt; "
                "set tokenizer.eos_token or choose prompts with new slot tokens (prompts=released)"
            )
        else:
            ids.append(tokenizer.eos_token_id)
        suffixes[name] = tuple(ids)
    return PromptIds(prefix, suffixes, settings.slots or 1, next_prefix, repeat)


def _adds_space(tokenizer: Tokenizer) -> bool:
    """Tell whether a tokenizer puts a space of its own before a text."""
    tokens = tokenizer.convert_ids_to_tokens(_plain_ids(tokenizer, "a"))
    return bool(tokens) and str(tokens[0]).startswith(("▁", "Ġ"))


def _plain_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def _begin_ids(tokenizer: Tokenizer, settings: PromptSettings, prefixes: Sequence[list[int]]) -> tuple[int, ...]:
    """Return what stands before a text and its prefix; ``prefixes`` are the ids of each prefix."""
    if settings.begin == "none":
        return ()
    if settings.begin == "bos":
        token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if token is None:
            raise TokenizerError("the tokenizer has neither BOS nor EOS; set prompts.begin to 'auto' or 'none'")
        return (token,)
    if (written := _of_servable(tokenizer)) is not None:
        ends = [len(words) for words in prefixes if words and written[-len(words) :] == words]
        return tuple(written[: len(written) - max(ends, default=0)])
    plain, full = _plain_ids(tokenizer, "a"), list(tokenizer("a")["input_ids"])
    starts = range(len(full) - len(plain) + 1)
    before = next((tuple(full[:start]) for start in starts if full[start : start + len(plain)] == plain), ())
    # Some tokenizers add BOS twice, by their template and by a setting; no model was trained on that.
    twice = len(before) > 1 and set(before) == {tokenizer.bos_token_id}
    return before[:1] if twice else before


def _of_servable(tokenizer: Tokenizer) -> list[int] | None:
    """Return the ids, prefix included, that the tokenizer of a servable encoder puts before a text; None = another's.

    Probing cannot tell the prefix from a text, as the prefix may hold the text that probes.
    """
    processor = tokenizer.backend_tokenizer.post_processor if tokenizer.is_fast else None
    parts = () if processor is None else processors_of(json.loads(processor.__getstate__()))
    templates = [part.get("special_tokens", {}) for part in parts if part["type"] == "TemplateProcessing"]
    return next((list(special[BEFORE]["ids"]) for special in templates if BEFORE in special), None)


def processors_of(part: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Yield the processors that a ``tokenizer.json`` applies to the ids of a text, in order."""
    if part is not None and part["type"] == "Sequence":
        for one in part["processors"]:
            yield from processors_of(one)
    elif part is not None:
        yield part
