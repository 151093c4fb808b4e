"""How a model reads the prompts of a batch: one joint sequence a text, or a sequence of its own for each prompt.

Both ways give the same logits at the slots. The joint sequence reads T once, but needs layers that take an attention
mask with a row for every position. Recurrent and convolutional layers take none, and some attention layers ignore one
or add biases by column. There, each text is read once for each prompt, as a stock model reads any text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llama2vec.adapt.joint import JointBatch, attention_inputs


@dataclass(frozen=True, slots=True)
class Read:
    """What a model gives for a batch."""

    logits: tuple[Tensor, ...]  # [B, S, V] at the slots of each task
    text: Tensor | None  # [B, columns, D] states of prefix and text before the head; None unless asked for
    text_logits: Tensor | None  # [B, columns, V] instead, where the model changes what its head gives


class JointReader:
    """Reads one sequence a text, T once, with the mask and positions of :mod:`llama2vec.adapt.joint`.

    The mask follows the model's ``config`` in ``dtype``. ``plain_head``: the logits are what the weight of the head
    gives, without bias, scale or cap.
    """

    def __init__(self, config: Any, dtype: torch.dtype, *, plain_head: bool = True) -> None:
        self.config, self.dtype, self.plain_head = config, dtype, plain_head

    def cells(self, text: int, suffixes: Sequence[int]) -> int:
        """Return how many cells one text takes."""
        return text + sum(suffixes)

    def read(self, model: Any, batch: JointBatch, *, with_text: bool = False) -> Read:
        """Read a batch; ``with_text`` asks for what the LM loss on T needs."""
        layout, states = batch.layout, with_text and self.plain_head
        before = list(range(layout.text_columns)) if with_text and not self.plain_head else []
        kept = torch.tensor([*before, *layout.slot_columns()], device=batch.input_ids.device)
        output = model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, logits_to_keep=kept, use_cache=False,
            output_hidden_states=states, **attention_inputs(batch, self.config, self.dtype),
        )  # fmt: skip
        return Read(
            tuple(output.logits[:, len(before) :].split(layout.slots, dim=1)),
            output.hidden_states[-1][:, : layout.text_columns] if states else None,
            output.logits[:, : len(before)] if before else None,
        )


class SeparateReader:
    """Reads a sequence of its own for each text and prompt, padded on the right: no mask, the model's own positions.

    What stands to the right of a slot never reaches it, in a recurrent layer as little as in causal attention.
    ``equal_lengths``: for a model in which padding does change numbers, rows of each length are read by themselves.
    """

    def __init__(self, pad_id: int, *, plain_head: bool = True, equal_lengths: bool = False) -> None:
        self.pad_id, self.plain_head, self.equal_lengths = pad_id, plain_head, equal_lengths

    def cells(self, text: int, suffixes: Sequence[int]) -> int:
        """Return how many cells one text takes."""
        return len(suffixes) * (text + max(suffixes))

    def read(self, model: Any, batch: JointBatch, *, with_text: bool = False) -> Read:
        """Read a batch; ``with_text`` asks for what the LM loss on T needs."""
        rows, count = separate_rows(batch, self.pad_id), len(batch.text_lengths)
        asked = batch.layout.text_columns if with_text else 0
        if self.equal_lengths:
            found = _by_length(rows, lambda part: self._read(model, part, asked))
        else:
            found = self._read(model, rows, asked)
        logits, text = found
        kept = None if text is None else text[:count, : batch.layout.text_columns]  # The first task's rows
        return Read(torch.split(logits, count), *((kept, None) if self.plain_head else (None, kept)))

    def _read(self, model: Any, rows: SeparateRows, text_columns: int) -> tuple[Tensor, Tensor | None]:
        """Return the logits [R, S, V] at the slots, and the states (or logits) of the columns of the text."""
        columns = rows.slots
        if text_columns and not self.plain_head:
            before = torch.arange(min(text_columns, rows.input_ids.shape[1]), device=columns.device)
            columns = torch.cat([before.expand(len(columns), -1), columns], dim=1)
        with _head_at(model, columns) as head:
            logits = model(input_ids=rows.input_ids, use_cache=False).logits
        if head.states is None:  # The head was not called as a module, on all columns.
            logits = _at(logits, columns)
        slots = rows.slots.shape[1]
        if not text_columns:
            return logits, None
        if not self.plain_head:
            return logits[:, -slots:], logits[:, :-slots]
        assert head.states is not None
        return logits, head.states


Reader = JointReader | SeparateReader
"""Reads joint batches with a (peft) model."""


@dataclass(frozen=True, slots=True)
class SeparateRows:
    """The texts of a batch, once with each prompt: R = tasks x B rows, those of the first task first."""

    input_ids: Tensor  # [R, L] prefix + text + prompt, padded on the right
    slots: Tensor  # [R, S] columns of the slots
    lengths: Tensor  # [R] tokens of each row without padding


def separate_rows(batch: JointBatch, pad_id: int) -> SeparateRows:
    """Take a joint batch apart into one row for each task and text."""
    layout, lengths = batch.layout, batch.text_lengths
    longest = max(end - start for start, end in layout.blocks.values())
    columns = torch.arange(int(lengths.max()) + longest, device=lengths.device)
    parts, slots, ends = [], [], []
    for start, end in layout.blocks.values():
        place = columns - lengths[:, None]  # [B, L] place in the prompt; negative inside the text
        source = torch.where(place < 0, columns, (start + place).clamp(max=layout.columns - 1))
        ids = batch.input_ids.gather(1, source)
        parts.append(ids.masked_fill(place >= end - start, pad_id))
        ends.append(lengths + (end - start))
        slots.append(ends[-1][:, None] - layout.slots + torch.arange(layout.slots, device=lengths.device))
    width = int(torch.cat(ends).max())
    return SeparateRows(torch.cat(parts)[:, :width], torch.cat(slots), torch.cat(ends))


def _by_length(
    rows: SeparateRows, read: Callable[[SeparateRows], tuple[Tensor, Tensor | None]]
) -> tuple[Tensor, Tensor | None]:
    """Read the rows of each length without padding; text columns of shorter rows are filled with zeros."""
    places, logits, texts = [], [], []
    for length in sorted(set(rows.lengths.tolist())):
        chosen = (rows.lengths == length).nonzero()[:, 0]
        part = SeparateRows(rows.input_ids[chosen, :length], rows.slots[chosen], rows.lengths[chosen])
        found, text = read(part)
        places.append(chosen)
        logits.append(found)
        if text is not None:
            missing = rows.input_ids.shape[1] - text.shape[1]
            texts.append(torch.nn.functional.pad(text, (0, 0, 0, missing)))
    order = torch.cat(places).argsort()
    return torch.cat(logits)[order], torch.cat(texts)[order] if texts else None


class _Head:
    """What the output head was given."""

    def __init__(self) -> None:
        self.states: Tensor | None = None  # [R, L, D]


@contextmanager
def _head_at(model: Any, columns: Tensor) -> Iterator[_Head]:
    """Let the output head compute at some columns [R, K] only; what the model does to its logits then stays the same.

    ``logits_to_keep`` takes the same columns of every row, and these differ from row to row.
    """
    seen, width = _Head(), 0
    head = getattr(model, "module", model).get_output_embeddings()

    def choose(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal width
        states = inputs[0] if inputs else None
        if not isinstance(states, Tensor) or states.dim() != 3 or states.shape[1] <= int(columns.max()):
            return None
        seen.states = states
        return (_at(states, columns), *inputs[1:])

    hook = head.register_forward_pre_hook(choose) if head is not None else None
    try:
        yield seen
    finally:
        if hook is not None:
            hook.remove()


def _at(values: Tensor, columns: Tensor) -> Tensor:
    """Return the values [R, K, …] of some columns [R, K] of [R, L, …]."""
    return values.gather(1, columns[:, :, None].expand(-1, -1, values.shape[-1]))
