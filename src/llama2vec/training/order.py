"""The order in which training reads its examples, drawn from a seed and the epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler


class EpochOrder(Sampler[int]):
    """An order of rows that is drawn from a seed and the epoch, so that a resumed run finds it again."""

    def __init__(self, seed: int) -> None:
        self._seed, self._epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch."""
        self._epoch = epoch

    def _draw(self) -> random.Random:
        """Return a generator for this epoch."""
        return random.Random(f"{self._seed}:{self._epoch}")


class LengthGroupedOrder(EpochOrder):
    """Texts of similar length share a batch: shuffled, sorted by length in pools of 32 batches, batches shuffled."""

    _POOL_BATCHES = 32

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        super().__init__(seed)
        self._lengths, self._batch_size = lengths, batch_size

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        draw = self._draw()
        rows = list(range(len(self._lengths)))
        draw.shuffle(rows)
        pool = self._POOL_BATCHES * self._batch_size
        ordered: list[int] = []
        for start in range(0, len(rows), pool):
            ordered.extend(sorted(rows[start : start + pool], key=lambda row: self._lengths[row]))
        batches = [ordered[start : start + self._batch_size] for start in range(0, len(ordered), self._batch_size)]
        # A shorter last batch stays last, where drop_last leaves it out.
        last = [batches.pop()] if len(batches[-1]) < self._batch_size else []
        draw.shuffle(batches)
        for batch in batches + last:
            yield from batch
