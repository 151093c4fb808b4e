"""Exact gradients of a large batch in the memory of a small one (GradCache, arXiv 2101.06983).

A contrastive loss needs all vectors of a batch at once, but not all activations. So: read the texts in micro-batches
without a graph; take the loss and its gradient at the vectors; read each micro-batch again, now with a graph and with
the same random numbers, and push the vectors' gradient through it. Unlike the paper, as many micro-batches as the
memory budget holds keep the graph of their first reading and are not read again: a batch that fits costs nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from llama2vec.model.batching import PromptedBatch


@dataclass(frozen=True, slots=True)
class _RandomState:
    """Where the random number generators stood."""

    cpu: Tensor
    cuda: Tensor | None
    device: torch.device

    @classmethod
    def now(cls, device: torch.device) -> _RandomState:
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), cuda, device)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Draw the same numbers again; afterwards the generators stand where they stood before."""
        with torch.random.fork_rng(devices=[] if self.cuda is None else [self.device]):
            torch.set_rng_state(self.cpu)
            if self.cuda is not None:
                torch.cuda.set_rng_state(self.cuda, self.device)
            yield


class GradientCache:
    """Vectors of one batch, and the way back from their gradients to the weights.

    Args:
        embed: Turns a micro-batch into vectors [B, D]; draws random numbers from torch alone.
        device: Where it does so.
        graph_tokens: Most cells (rows x longest row) whose activations are held at once; a micro-batch alone may
            be larger.
    """

    def __init__(self, embed: Callable[[PromptedBatch], Tensor], device: torch.device, graph_tokens: int) -> None:
        self._embed, self._device, self._graph_tokens = embed, device, graph_tokens
        self._graphs: list[tuple[list[int], Tensor]] = []
        self._replays: list[tuple[PromptedBatch, _RandomState]] = []
        self.cells_read = 0

    def represent(self, batches: Sequence[PromptedBatch]) -> Tensor:
        """Read all micro-batches, the last one first.

        What has no graph is read before what has one, and gradients are added up the other way round: both orders are
        the same for every ``graph_tokens``, so random numbers and sums are too.

        Args:
            batches: Micro-batches, the longest texts first.

        Returns:
            [N, D] vectors of the batch's N rows, a leaf that collects its gradient.
        """
        first_without_graph = self._divide(batches)
        pieces: list[tuple[list[int], Tensor]] = []
        with torch.no_grad():
            for batch in reversed(batches[first_without_graph:]):
                self._replays.append((batch, _RandomState.now(self._device)))
                pieces.append((batch.rows, self._read(batch)))
        with torch.enable_grad():
            self._graphs = [(batch.rows, self._read(batch)) for batch in reversed(batches[:first_without_graph])]
        pieces += [(rows, vectors.detach()) for rows, vectors in self._graphs]
        first = pieces[0][1]
        joined = first.new_empty((sum(len(rows) for rows, _ in pieces), first.shape[1]))
        for rows, vectors in pieces:
            joined[rows] = vectors
        return joined.requires_grad_()

    def backpropagate(self, gradients: Tensor) -> None:
        """Add to the weights' gradients what the vectors' gradients [N, D] mean for them; once a batch."""
        while self._graphs:
            rows, vectors = self._graphs.pop()
            vectors.backward(gradients[rows])  # type: ignore[no-untyped-call]
            del vectors
        while self._replays:
            batch, state = self._replays.pop()
            with torch.enable_grad(), state.replayed():
                self._read(batch).backward(gradients[batch.rows])  # type: ignore[no-untyped-call]

    def _divide(self, batches: Sequence[PromptedBatch]) -> int:
        """Return how many micro-batches keep their graph: as many as fit, at least one."""
        left = self._graph_tokens
        for number, batch in enumerate(batches):
            left -= batch.input_ids.numel()
            if left < 0:
                return max(number, 1)
        return len(batches)

    def _read(self, batch: PromptedBatch) -> Tensor:
        self.cells_read += batch.input_ids.numel()
        return self._embed(batch)
