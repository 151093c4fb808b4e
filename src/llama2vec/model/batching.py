"""Texts → right-padded batches of similar length within a token budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from llama2vec.errors import ConfigError, DataError
from llama2vec.records import Passage, Query, is_iterable, is_whole_number

ItemT = TypeVar("ItemT")

_CELLS = {"cpu": 1024, "cuda": 65536}
_COMPILED_CELLS, _SHORT = 4096, 256  # On a CPU, for texts of so many tokens on average
_MOST_ROWS = 1024


@dataclass(frozen=True, slots=True)
class PromptedBatch:
    """A padded batch of prompted texts."""

    rows: list[int]  # Where each of the B texts stands in the caller's order.
    input_ids: Tensor  # [B, L] prefix + text + suffix, padded on the right.
    lengths: Tensor  # [B] tokens of each row without padding.


def cells_per_batch(device: str, *, compiled: bool = False, layers: int = 1, tokens: float = 0) -> int:
    """Return the most tokens of a batch, padding included, that suits a device and a way of reading.

    On a CPU the data of a stock layer should stay in the caches. A compiled layer makes fewer passes over it, and its
    matrix products gain from more rows, unless texts of many ``tokens`` make attention the larger part
    (docs/lab-notes.md, "Compiled layers in encoding"). Where the states of several layers are averaged, transformers
    keeps those of all layers, so batches are a quarter as large, but not below the stock size of a CPU.
    """
    least = _CELLS["cpu"]
    most = max(_CELLS.get(device, least), _COMPILED_CELLS if compiled and tokens <= _SHORT else 0)
    return most if layers == 1 else max(most // 4, least)


def checked_tokens(name: str, most: object, least: int = 1) -> int:
    """Return a number of tokens that a program gives; a ConfigError for anything but a whole number."""
    if not is_whole_number(most):
        raise ConfigError(f"{name} is {most!r}; give a whole number")
    if most < least:
        raise ConfigError(f"{name} is {most}; give at least {least}")
    return int(most)


def texts_of(items: Any) -> list[str]:
    """Return the plain texts of passages, queries or strings; anything else is a DataError."""
    kind = type(items).__name__
    if isinstance(items, Mapping) or hasattr(items, "columns"):
        # Iterating over them would give the names of keys or columns.
        raise DataError(f"a {kind} cannot be embedded; give its texts, such as list(frame['text'])")
    if isinstance(items, str | bytes) or not is_iterable(items):
        raise DataError(f"the texts are of type {kind}; give a list of strings, passages or queries")
    texts = []
    for place, item in enumerate(items, start=1):
        text = item.full_text if isinstance(item, Passage) else item.text if isinstance(item, Query) else item
        if not isinstance(text, str):
            raise DataError(f"text {place} is of type {type(text).__name__}; give strings, passages or queries")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"text {place} holds half of a surrogate pair at character {error.start + 1}; repair or remove it"
            ) from None
        texts.append(text)
    return texts


def chunks(items: Iterable[ItemT], size: int) -> Iterator[list[ItemT]]:
    """Cut a stream into lists of ``size`` items, the last one shorter.

    >>> list(chunks("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def padded_batches(
    sequences: Sequence[Sequence[int]],
    max_cells: int,
    pad_id: int,
    *,
    boundary: int = 0,
    equal_lengths: bool = False,
) -> Iterator[PromptedBatch]:
    """Sort token ids by length, longest first, and cut where rows x longest row would exceed ``max_cells``.

    The longest batch comes first, so that too large a budget fails at once and not after an hour. A longer single row
    is a batch of its own. Rows of more than ``boundary`` tokens, unless it is 0, never share a batch with shorter ones;
    with ``equal_lengths`` no row is padded.
    """
    order = sorted(range(len(sequences)), key=lambda row: -len(sequences[row]))
    beyond = sum(len(sequence) > boundary for sequence in sequences) if boundary else 0
    start = 0
    while start < len(order):
        longest = max(1, len(sequences[order[start]]))
        end = beyond if start < beyond else len(order)
        stop = min(end, start + max(1, min(_MOST_ROWS, max_cells // longest)))
        if equal_lengths:
            stop = next(
                (at for at in range(start, stop) if len(sequences[order[at]]) != len(sequences[order[start]])), stop
            )
        rows = order[start:stop]
        input_ids = torch.full((len(rows), longest), pad_id)
        for index, row in enumerate(rows):
            input_ids[index, : len(sequences[row])] = torch.tensor(sequences[row], dtype=torch.long)
        yield PromptedBatch(rows, input_ids, torch.tensor([len(sequences[row]) for row in rows]))
        start = stop
