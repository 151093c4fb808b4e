"""One sequence for both pretext tasks: ``T . SELF prompt . NEXT prompt``, T read once.

Layout of a batch, columns from left to right (letters: B batch, L columns, S slots, T targets)::

    [ prefix + text, right-padded to the longest ][ SELF prompt ][ NEXT prompt ]

The prompts occupy the same columns in every row, so the slots are fixed columns and a stock causal LM computes its head
at the slots only (``logits_to_keep``). Padding between a short text and its prompts has no effect: the prompts' rows
mask it, position ids continue right after the text, and the text's own rows are causal, so they see nothing to their
right. NEXT does not see SELF. Both embeddings therefore equal those of two separate prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from llama2vec.config import PromptName
from llama2vec.errors import ModelError
from llama2vec.model.prompt import PromptIds
from llama2vec.model.speed.lean_attention import mark_causal_columns
from llama2vec.pretext.loss import padded_targets
from llama2vec.pretext.targets import TokenizedText

TASKS: tuple[PromptName, ...] = ("self", "next")


@dataclass(frozen=True, slots=True)
class JointLayout:
    """The columns of a joint batch."""

    text_columns: int  # Columns of prefix and text, padding included
    blocks: dict[PromptName, tuple[int, int]]  # Columns (start, end) of each task's prompt
    slots: int  # Number of slots at the end of each block

    @property
    def columns(self) -> int:
        """L, the number of columns."""
        return max(end for _, end in self.blocks.values())

    def slot_columns(self) -> list[int]:
        """Return the columns of all slots, task by task."""
        return [column for _, end in self.blocks.values() for column in range(end - self.slots, end)]


@dataclass(frozen=True, slots=True)
class JointBatch:
    """The input of one training step."""

    input_ids: Tensor  # [B, L]
    position_ids: Tensor  # [B, L]
    text_lengths: Tensor  # [B] length of prefix and text, without padding
    text_starts: int  # Columns of the prefix; LM labels begin after them
    targets: dict[PromptName, Tensor]  # [B, T] distinct target ids per task, right-padded with 0
    target_weights: dict[PromptName, Tensor]  # [B, T] weights per task; 0 = padding
    layout: JointLayout  # The columns

    def to(self, device: torch.device | str, **_: object) -> JointBatch:
        """Return the batch on another device."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            text_lengths=self.text_lengths.to(device),
            targets={task: tensor.to(device) for task, tensor in self.targets.items()},
            target_weights={task: tensor.to(device) for task, tensor in self.target_weights.items()},
        )


def joint_batch(
    texts: Sequence[TokenizedText],
    next_texts: Sequence[TokenizedText],
    prompts: PromptIds,
    *,
    tasks: Sequence[PromptName] = TASKS,
    token_weights: Tensor | None = None,
    pad_id: int = 0,
) -> JointBatch:
    """Lay out B texts T and the prompts of the tasks as one padded batch.

    Of ``next_texts``, U of each row, only the targets are used; ``token_weights`` [V] weigh the targets (None: 1).
    """
    prefix = len(prompts.prefix)
    lengths = torch.tensor([prefix + len(text.ids) for text in texts])
    text_columns = end = int(lengths.max())
    blocks: dict[PromptName, tuple[int, int]] = {}
    for task in tasks:
        blocks[task] = (end, end + len(prompts.suffixes[task]))
        end = blocks[task][1]
    input_ids = torch.full((len(texts), end), pad_id)
    position_ids = torch.arange(end).repeat(len(texts), 1)
    for row, text in enumerate(texts):
        input_ids[row, : prefix + len(text.ids)] = torch.tensor([*prompts.prefix, *text.ids], dtype=torch.long)
    for task, (start, stop) in blocks.items():
        input_ids[:, start:stop] = torch.tensor(prompts.suffixes[task])
        position_ids[:, start:stop] = lengths[:, None] + torch.arange(stop - start)
    sources = {"self": texts, "next": next_texts}
    targets, weights = {}, {}
    for task in tasks:
        targets[task], weights[task] = padded_targets([text.targets for text in sources[task]], token_weights)
    layout = JointLayout(text_columns, blocks, prompts.slots)
    return JointBatch(input_ids, position_ids, lengths, prefix, targets, weights, layout)


def joint_mask(batch: JointBatch, dtype: torch.dtype, window: int | None = None) -> Tensor:
    """Build the additive attention mask [B, 1, L, L] of a joint batch: 0 where a row may attend to a column.

    Masked pairs get the most negative number of ``dtype``; ``window`` is a layer's sliding window in tokens, if any.
    """
    # Additive, not boolean: eager attention silently misreads a boolean mask.
    layout, device = batch.layout, batch.input_ids.device
    columns = torch.arange(batch.input_ids.shape[1], device=device)
    causal = columns[:, None] >= columns[None, :]
    in_text = columns < layout.text_columns
    real_text = columns[None, :] < batch.text_lengths[:, None]
    same_block = in_text[:, None] & in_text[None, :]
    for start, end in layout.blocks.values():
        inside = (columns >= start) & (columns < end)
        same_block |= inside[:, None] & inside[None, :]
    text_to_prompt = ~in_text[:, None] & in_text[None, :]
    seen = (causal & same_block)[None] | (text_to_prompt[None] & real_text[:, None, :])
    if window is not None:
        distance = batch.position_ids[:, :, None] - batch.position_ids[:, None, :]
        # The diagonal stays open: padding rows must attend to something.
        seen &= (distance < window) | torch.eye(len(columns), dtype=torch.bool, device=device)
    mask = torch.zeros(seen[:, None].shape, dtype=dtype, device=device)
    mask.masked_fill_(~seen[:, None], torch.finfo(dtype).min)
    return mask if window is not None else mark_causal_columns(mask, layout.text_columns)


def attention_inputs(batch: JointBatch, config: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Return the ``attention_mask`` that makes a stock model of this config read the joint layout.

    Models with sliding-window layers get one mask per kind of layer, as they expect.

    Raises:
        ModelError: Some layers do not attend, or attend in a way that we cannot mask.
    """
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) is False:
        window = None
    kinds = set(getattr(config, "layer_types", None) or ())
    strange = kinds - {"full_attention", "sliding_attention", "attention"}
    if strange:
        raise ModelError(f"layers of kind {', '.join(sorted(strange))} cannot read a joint sequence")
    if window is None or int(batch.position_ids.max()) < window:
        return {"attention_mask": joint_mask(batch, dtype)}
    if not kinds:
        return {"attention_mask": joint_mask(batch, dtype, window)}
    masks = {"full_attention": joint_mask(batch, dtype), "sliding_attention": joint_mask(batch, dtype, window)}
    return {"attention_mask": masks if len(kinds) > 1 else masks[kinds.pop()]}
