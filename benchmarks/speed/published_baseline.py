"""The arithmetic of the authors' published training step, reimplemented as a baseline.

What it does follows FlagEmbedding, ``research/LLARA/pretrain`` (``modeling.py``, ``data.py``, ``run.py``), whose code
is not copied: released prompts with 8 new slot tokens each; left padding to a multiple of 8; a full ``[B, 1, L, L]``
additive mask; the head on *every* position, in float32; LM loss on T plus a tenth of the mean bag-of-words loss, row
by row; full fine-tuning of float32 weights with AdamW (bfloat16 autocast where the hardware has it).

The baseline runs faster than the original, so that the ratio does not flatter us: a fast tokenizer instead of the slow
one, PyTorch's fused AdamW instead of the plain one, no Trainer around the step, and gradient checkpointing only on
request (their README switches it on, which saves memory and costs time).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llama2vec.config import PROMPT_RECIPES
from llama2vec.data.text.words import stop_words
from llama2vec.model.adapters import add_slot_tokens_and_rows
from llama2vec.model.backbone import Backbone
from llama2vec.model.prompt import prompt_ids

_IGNORED = -100
_PAD_TO_MULTIPLE_OF = 8
_PRETEXT_WEIGHT = 0.1
_NON_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class PublishedBatch:
    """Left-padded ids, attention mask, LM labels [B, L], and the ids of both target texts [B, T]."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    summarize_ids: Tensor
    predict_ids: Tensor
    text_tokens: int


class PublishedStep:
    """Loss of one training step as published.

    Args:
        backbone: Float32 model and tokenizer; slot tokens are added here.
        max_tokens: Longest text, prompts on top (theirs counts the prompts too).
    """

    def __init__(self, backbone: Backbone, max_tokens: int) -> None:
        recipe = PROMPT_RECIPES["released"]
        add_slot_tokens_and_rows(backbone, recipe)
        self.model, self.tokenizer, self.max_tokens = backbone.model, backbone.tokenizer, max_tokens
        ids = prompt_ids(self.tokenizer, recipe)
        self.prefix, self.slots = list(ids.prefix), ids.slots
        self.summarize, self.predict = list(ids.suffixes["self"]), list(ids.suffixes["next"])
        self.pad_id = self.tokenizer.eos_token_id or 0
        self.special = torch.tensor(sorted({*self.tokenizer.all_special_ids, self.pad_id}))
        self.stop_words = stop_words("en")

    def collate(self, examples: Sequence[tuple[str, str]]) -> PublishedBatch:
        """Tokenize and pad a batch of (T, U)."""
        rows, labels = [], []
        for text, _ in examples:
            ids = self._ids(text)
            rows.append([*self.prefix, *ids, *self.summarize, *self.predict])
            behind = len(self.summarize) + len(self.predict)
            labels.append([*[_IGNORED] * len(self.prefix), *ids, *[_IGNORED] * behind])
        width = -(-max(map(len, rows)) // _PAD_TO_MULTIPLE_OF) * _PAD_TO_MULTIPLE_OF
        targets = [self._left_pad([self._ids(self._content(pair[side])) for pair in examples]) for side in (0, 1)]
        return PublishedBatch(
            self._left_pad(rows, width),
            self._left_pad([[1] * len(row) for row in rows], width, 0),
            self._left_pad(labels, width, _IGNORED),
            *targets,
            text_tokens=sum(label != _IGNORED for row in labels for label in row),
        )

    def loss(self, batch: PublishedBatch) -> tuple[Tensor, dict[str, float]]:
        """Run the model on every position and add up the three losses."""
        device = self.model.device
        input_ids = batch.input_ids.to(device)
        hidden = self.model.base_model(
            input_ids=input_ids,
            attention_mask=self._mask(batch.attention_mask.to(device)),
            position_ids=self._positions(input_ids.shape[1]).to(device),
            use_cache=False,
        ).last_hidden_state
        logits = self.model.lm_head(hidden).float()  # [B, L, V]
        shifted = logits[:, :-1].contiguous()
        lm_loss = torch.nn.functional.cross_entropy(
            shifted.view(-1, shifted.shape[-1]), batch.labels[:, 1:].contiguous().view(-1).to(device)
        )
        behind = len(self.predict)
        self_loss = self._bag_of_words(logits[:, -behind - self.slots : -behind], batch.summarize_ids.to(device))
        next_loss = self._bag_of_words(logits[:, -self.slots :], batch.predict_ids.to(device))
        total = lm_loss + _PRETEXT_WEIGHT * (self_loss + next_loss) / 2
        return total, {"loss_lm": lm_loss.item(), "loss_self": self_loss.item(), "loss_next": next_loss.item()}

    def _bag_of_words(self, slot_logits: Tensor, target_ids: Tensor) -> Tensor:
        log_probabilities = torch.log_softmax(slot_logits.max(dim=1).values, dim=1)
        total, count = slot_logits.new_zeros(()), 0
        for row, ids in zip(log_probabilities, target_ids, strict=True):
            distinct = torch.unique(ids[~torch.isin(ids, self.special.to(ids.device))])
            if len(distinct):
                total = total - row[distinct].mean()
                count += 1
        return total / max(count, 1)

    def _mask(self, attention_mask: Tensor) -> Tensor:
        """[B, 1, L, L] additive: causal, padding masked, NEXT cannot see SELF."""
        length, device = attention_mask.shape[1], attention_mask.device
        # The lowest number of the format that attention runs in: float32's becomes -inf in bfloat16, and NaN follows.
        dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else self.model.dtype
        lowest = torch.finfo(dtype).min
        causal = torch.full((length, length), lowest, dtype=dtype, device=device).triu(diagonal=1)
        mask = causal[None, None].expand(len(attention_mask), 1, -1, -1).clone()
        mask = mask.masked_fill(attention_mask[:, None, None, :] == 0, lowest)
        behind = len(self.predict)
        mask[:, :, -behind:, -behind - len(self.summarize) : -behind] = lowest
        return mask

    def _positions(self, length: int) -> Tensor:
        """[1, L]: NEXT continues right after T, padding counted, as published."""
        positions = torch.arange(length)
        start = length - len(self.predict) - len(self.summarize)
        positions[-len(self.predict) :] = torch.arange(start, start + len(self.predict))
        return positions[None]

    def _ids(self, text: str) -> list[int]:
        encoded = self.tokenizer(text, add_special_tokens=False, truncation=True, max_length=self.max_tokens)
        return list(encoded["input_ids"])

    def _content(self, text: str) -> str:
        words = _NON_WORD.sub(" ", text).split()
        return " ".join(word for word in words if word.lower() not in self.stop_words)

    def _left_pad(self, rows: Sequence[Sequence[int]], width: int = 0, fill: int | None = None) -> Tensor:
        width = max(width, *map(len, rows))
        pad = self.pad_id if fill is None else fill
        return torch.tensor([[*[pad] * (width - len(row)), *row] for row in rows])
