"""Texts → right-padded batches of similar length within a token budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class PromptedBatch:
    """A padded batch of prompted texts."""

    rows: list[int]  # Where each of the B texts stands in the caller's order.
    input_ids: Tensor  # [B, L] prefix + text + suffix, padded on the right.
    lengths: Tensor  # [B] tokens of each row without padding.


def windows(items: Iterable[ItemT], size: int) -> Iterator[list[ItemT]]:
    """Cut a stream into lists of ``size`` items, the last one shorter.

    >>> list(windows("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    iterator = iter(items)
    while window := list(islice(iterator, size)):
        yield window


def padded_batches(
    sequences: Sequence[Sequence[int]],
    max_cells: int,
    pad_id: int,
    *,
    max_rows: int = 1024,
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
        stop = min(end, start + max(1, min(max_rows, max_cells // longest)))
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
