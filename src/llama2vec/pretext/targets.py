"""The targets of an embedding: the distinct tokens of a text, without stop words, with weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from llama2vec.data.text.words import lower_case, one_spelling, word_pattern
from llama2vec.errors import TokenizerError
from llama2vec.model.prompt import Tokenizer


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A text's tokens, and those to predict."""

    ids: tuple[int, ...]  # Token ids, cut to the length limit
    targets: tuple[int, ...]  # Distinct ids among them that carry content, in order of first appearance


class TargetTokenizer:
    """Tokenize texts and choose the tokens that an embedding must predict.

    Targets are the tokens that overlap a word other than a stop word; punctuation, space and special tokens are
    excluded. Character offsets keep the ids of the text, which matters for tokens that carry their leading space. With
    ``joined``, the words are joined by spaces and tokenized again, as in the authors' code; those beyond the cut of the
    text count, too, up to ``max_joined`` tokens (None: ``max_tokens``). ``skip`` holds the words to exclude, in lower
    case as ``language`` has it and in any Unicode form; None predicts every token that is not special.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_tokens: int,
        skip: frozenset[str] | None,
        *,
        joined: bool = False,
        max_joined: int | None = None,
        language: str = "en",
    ) -> None:
        if not (tokenizer.is_fast or joined):
            raise TokenizerError(
                "a slow tokenizer (one without tokenizer.json) does not say where a token's word is; "
                "set objective.targets=words"
            )
        self._tokenizer, self._max_tokens, self._skip, self._language = tokenizer, max_tokens, skip, language
        self._skip_in_one_spelling = frozenset(map(one_spelling, skip or ()))
        self._joined, self._max_joined = joined, max_joined or max_tokens
        self._special = frozenset(tokenizer.all_special_ids)

    def __call__(self, texts: Sequence[str]) -> list[TokenizedText]:
        """Tokenize texts; an empty text has no ids and no targets."""
        encoded = self._encoded(texts, self._max_tokens)
        if not self._joined:
            found = zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
            return [TokenizedText(tuple(ids), self._targets(text, ids, offsets)) for text, ids, offsets in found]
        joined = self._encoded([self._content(text) for text in texts], self._max_joined)["input_ids"]
        return [
            TokenizedText(tuple(ids), tuple(dict.fromkeys(one for one in of_words if one not in self._special)))
            for ids, of_words in zip(encoded["input_ids"], joined, strict=True)
        ]

    def _encoded(self, texts: Sequence[str], most: int) -> dict[str, list[Any]]:
        """Return ids, and where targets need them offsets, cut here: the tokenizer is shared and keeps no limit."""
        found = self._tokenizer(
            list(texts), add_special_tokens=False, return_offsets_mapping=not self._joined,
            return_attention_mask=False, verbose=False,
        )  # fmt: skip
        return {name: [row[:most] for row in rows] for name, rows in found.items()}

    def _content(self, text: str) -> str:
        if self._skip is None:
            return text
        return " ".join(word for word in word_pattern().findall(text) if self._counts(word))

    def _counts(self, word: str) -> bool:
        lower = lower_case(word, self._language)
        if lower in (self._skip or ()):
            return False
        return lower.isascii() or one_spelling(lower) not in self._skip_in_one_spelling

    def _targets(self, text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        plain = [(token, span) for token, span in zip(ids, offsets, strict=True) if token not in self._special]
        if self._skip is None:
            return tuple(dict.fromkeys(token for token, _ in plain))
        content = bytearray(len(text))
        for word in word_pattern().finditer(text):
            if self._counts(word.group()):
                content[word.start() : word.end()] = b"\x01" * (word.end() - word.start())
        return tuple(dict.fromkeys(token for token, (start, end) in plain if any(content[start:end])))


def inverse_document_frequency(target_sets: Sequence[Sequence[int]], vocabulary: int) -> list[float]:
    """Return [V] inverse document frequencies, ``log((N + 1) / (df + 1))``, from the distinct targets of N texts.

    >>> [round(weight, 3) for weight in inverse_document_frequency([[0, 1], [1]], 3)]
    [0.405, 0.0, 1.099]
    """
    counts = Counter(chain.from_iterable(target_sets))
    return [math.log((len(target_sets) + 1) / (counts.get(token, 0) + 1)) for token in range(vocabulary)]
