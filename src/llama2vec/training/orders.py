"""The order in which an epoch reads its rows."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import Sampler

from llama2vec.data.examples.spool import Spool, buffers


class EpochOrder(Sampler[int]):
    """An order of rows that is drawn from a seed and the epoch, so that a resumed run finds it again."""

    def __init__(self, seed: int) -> None:
        self._seed, self._epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch."""
        self._epoch = epoch

    def _draw(self) -> random.Random:
        return random.Random(f"{self._seed}:{self._epoch}")


class LengthGroupedOrder(EpochOrder):
    """Texts of similar length share a batch: shuffled, sorted by length in pools of 32 batches, batches shuffled."""

    _POOL_BATCHES = 32

    def __init__(self, lengths: Sequence[Any], batch_size: int, seed: int) -> None:
        super().__init__(seed)
        self._lengths, self._batch_size = lengths, batch_size

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        # A shorter last batch stays last, where drop_last leaves it out.
        batches, last = self._batches(list(range(len(self._lengths))), self._lengths, self._draw())
        for batch in [*batches, last]:
            yield from batch

    def _batches(
        self, rows: list[int], lengths: Sequence[int] | Mapping[int, int], draw: random.Random
    ) -> tuple[list[list[int]], list[int]]:
        """Return whole batches of the rows in random order, and the rows that fill none."""
        draw.shuffle(rows)
        pool = self._POOL_BATCHES * self._batch_size
        ordered: list[int] = []
        for start in range(0, len(rows), pool):
            ordered.extend(sorted(rows[start : start + pool], key=lambda row: lengths[row]))
        batches = [ordered[start : start + self._batch_size] for start in range(0, len(ordered), self._batch_size)]
        last = batches.pop() if batches and len(batches[-1]) < self._batch_size else []
        draw.shuffle(batches)
        return batches, last


class SpooledOrder(LengthGroupedOrder):
    """The same for rows on the disk, one shuffle buffer at a time, which is all that memory holds of the order."""

    def __init__(self, spool: Spool[Any], batch_size: int, seed: int) -> None:
        super().__init__(spool, batch_size, seed)
        self._spool = spool

    def __iter__(self) -> Iterator[int]:
        draw, last, sizes = self._draw(), list[int](), dict[int, int]()
        for chunks in buffers(len(self._spool), draw):
            sizes = {row: sizes[row] for row in last}
            for chunk in chunks:
                sizes.update(zip(chunk, self._spool.sizes(chunk.start, chunk.stop), strict=True))
            batches, last = self._batches([*last, *(row for chunk in chunks for row in chunk)], sizes, draw)
            for batch in batches:
                yield from batch
        yield from last
