"""Exact gradients of a large batch in the memory of a small one (GradCache, arXiv 2101.06983).

A contrastive loss needs all vectors of a batch at once, but not all activations. So read the texts in micro-batches
without a graph, compute the loss and its gradient at the vectors, then read each micro-batch again with a graph and the
same random numbers, and propagate the vectors' gradient through it. Unlike in the paper, as many micro-batches as fit
the memory budget keep their first graph and skip the second pass: a batch that fits costs nothing extra.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from llama2vec.model.batching import PromptedBatch
from llama2vec.processes import largest_everywhere


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


@contextmanager
def _replayed(state: tuple[Tensor, Tensor | None], device: torch.device) -> Iterator[None]:
    """Repeat the random numbers of a state within the block; restore the generators afterwards."""
    cpu, cuda = state
    with torch.random.fork_rng(devices=[] if cuda is None else [device]):
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)
        yield


def idle_batches(batches: Sequence[PromptedBatch], device: torch.device) -> list[PromptedBatch]:
    """Return what a process with fewer micro-batches than others reads until they are done: one text, for nothing."""
    missing = largest_everywhere(len(batches), device) - len(batches)
    shortest = batches[-1]
    return [PromptedBatch([], shortest.input_ids[:1], shortest.lengths[:1])] * missing


def _backward(vectors: Tensor, gradients: Tensor) -> None:
    """Propagate the gradients of a micro-batch; a text read for nothing has none."""
    vectors.backward(gradients if len(gradients) else torch.zeros_like(vectors))  # type: ignore[no-untyped-call]


class GradientCache:
    """Vectors of one batch, and the backward pass from their gradients to the weights.

    ``embed`` turns a micro-batch into vectors [B, D] and draws random numbers from torch only. The activations of at
    most ``graph_tokens`` cells (rows x longest row) are held at once, or of a single larger micro-batch. ``in_step``:
    reading is joint work of all processes, which have as many micro-batches (:func:`idle_batches`); as many of them
    keep their graphs on each.
    """

    def __init__(
        self,
        embed: Callable[[PromptedBatch], Tensor],
        device: torch.device,
        graph_tokens: int,
        *,
        in_step: bool = False,
    ) -> None:
        self._embed, self._device, self._graph_tokens, self._in_step = embed, device, graph_tokens, in_step
        self._graphs: list[tuple[list[int], Tensor]] = []
        self._replays: list[tuple[PromptedBatch, tuple[Tensor, Tensor | None]]] = []

    def represent(self, batches: Sequence[PromptedBatch]) -> Tensor:
        """Read all micro-batches (the longest texts first); return [N, D] vectors, a leaf that collects its gradient.

        The last one is read first, and gradients are added in the opposite order. Both orders are the same for every
        ``graph_tokens``, and so are random numbers and sums.
        """
        first_without_graph = self._divide(batches)
        if self._in_step:
            first_without_graph = -largest_everywhere(-first_without_graph, self._device)
        pieces: list[tuple[list[int], Tensor]] = []
        with torch.no_grad():
            for batch in reversed(batches[first_without_graph:]):
                self._replays.append((batch, _random_state(self._device)))
                pieces.append((batch.rows, self._embed(batch)[: len(batch.rows)]))
        with torch.enable_grad():
            self._graphs = [(batch.rows, self._embed(batch)) for batch in reversed(batches[:first_without_graph])]
        pieces += [(rows, vectors.detach()[: len(rows)]) for rows, vectors in self._graphs]
        vectors = torch.cat([vectors for _, vectors in pieces])
        order = torch.tensor([row for rows, _ in pieces for row in rows], device=vectors.device)
        return vectors[order.argsort()].requires_grad_()

    def backpropagate(self, gradients: Tensor) -> None:
        """Propagate the vectors' gradients [N, D] into the weights' gradients; call once per batch."""
        while self._graphs:
            rows, vectors = self._graphs.pop()
            _backward(vectors, gradients[rows])
            del vectors
        while self._replays:
            batch, state = self._replays.pop()
            with torch.enable_grad(), _replayed(state, self._device):
                _backward(self._embed(batch), gradients[batch.rows])

    def _divide(self, batches: Sequence[PromptedBatch]) -> int:
        """Return how many micro-batches keep their graph: as many as fit, at least one."""
        left = self._graph_tokens
        for number, batch in enumerate(batches):
            left -= batch.input_ids.numel()
            if left < 0:
                return max(number, 1)
        return len(batches)
