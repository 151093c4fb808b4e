"""The sides of the training comparisons; each takes pairs (T, U) and makes one optimizer step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.published_baseline import PublishedStep
from llama2vec.adapt.joint import joint_batch
from llama2vec.adapt.settings import AdaptConfig

# What `llama2vec adapt` itself calls: the side measured is the one that users run.
from llama2vec.adapt.train import PretextObjective, _prepare
from llama2vec.config import PromptName, load_config
from llama2vec.model.backbone import decoder, load_backbone
from llama2vec.model.device import choose_device
from llama2vec.model.speed import fast_paths
from llama2vec.model.speed.lean_attention import use_lean_attention
from llama2vec.model.speed.lean_layers import fuse_lora, keep_less
from llama2vec.pretext.loss import bag_of_tokens_loss
from llama2vec.records import AdaptationExample

FAST_PATHS = {"fused-lora": fuse_lora, "lean-layers": keep_less, "lean-attention": use_lean_attention}
# Kept, since a context that nothing refers to any more is left.
SWITCHED_ON = contextlib.ExitStack()
Pairs = Sequence[tuple[str, str]]


@dataclass
class TrainingSide:
    """One way to train.

    Attributes:
        model: The model, in training mode.
        backward: Collates pairs, runs forward and backward; returns the number of text tokens, of tokens in all
            (prompts counted, padding not), and the losses.
        mixed: bfloat16 autocast over float32 weights.
        flops_per_token: Useful floating-point operations per token and step, without attention and head.
    """

    model: Any
    backward: Callable[[Pairs], tuple[int, int, dict[str, float]]]
    mixed: bool
    flops_per_token: int
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        self.model.train()
        self._trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        # What transformers.Trainer builds: fused AdamW, and no weight decay by default.
        self._optimizer = torch.optim.AdamW(self._trained, lr=1e-5, weight_decay=0.0, fused=True)

    def step(self, pairs: Pairs) -> tuple[int, int, dict[str, float]]:
        """Make one whole training step, tokenization included."""
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, torch.bfloat16) if self.mixed else contextlib.nullcontext():
            counts = self.backward(pairs)
        torch.nn.utils.clip_grad_norm_(self._trained, self.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return counts


def build_side(name: str, model: str, dtype: str, max_tokens: int, pairs: Pairs) -> TrainingSide:
    """Build a side: ``joint``, ``two-passes``, ``like-for-like``, ``published``, ``published-checkpointing``.

    ``joint`` and ``like-for-like`` can be had without one of training's faster paths, or without any:
    ``joint-without-lean-layers``, ``joint-without-fast-paths``.
    """
    if name.startswith("published"):
        return _published(model, dtype, max_tokens, checkpointing=name.endswith("checkpointing"))
    overrides = [f"model.name={model}", f"model.dtype={dtype}", f"text.max_tokens={max_tokens}"]
    name, _, left_out = name.partition("-without-")
    if name == "like-for-like":
        overrides += ["prompts=released", "model.lora.rank=0"]
        overrides += ["objective.language_model_weight=1.0", "objective.pretext_weight=0.1"]
        overrides += ["objective.self_weight=1.0", "objective.next_weight=1.0", "objective.token_weights=uniform"]
    config = load_config(AdaptConfig, None, overrides)
    _, trainable, objective, mixed = _prepare(config, [AdaptationExample(*pair) for pair in pairs])
    # Forward, and backward through frozen weights as deep as adapters reach: 2 operations a weight each; the weights'
    # own gradients add 2.
    flops = int(
        (6 if config.model.lora.rank == 0 else 2 + 2 * config.model.lora.depth) * non_embedding_parameters(trainable)
    )
    _switch_on(trainable, left_out)
    backward = _two_passes(trainable, objective) if name == "two-passes" else _joint(trainable, objective)
    return TrainingSide(trainable, backward, mixed, flops)


def _switch_on(model: Any, left_out: str) -> None:
    """Switch the faster paths on for the rest of this process, as ``training`` does."""
    if not left_out:
        SWITCHED_ON.enter_context(fast_paths(model))
    else:
        for switch in [switch for path, switch in FAST_PATHS.items() if left_out not in (path, "fast-paths")]:
            switch(model)


def non_embedding_parameters(model: Any) -> int:
    """Count the backbone's weights without embeddings, head and adapters."""
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if not any(part in name for part in ("embed_tokens", "lm_head", "lora_", "trainable_tokens"))
    )


def _joint(trainable: Any, objective: PretextObjective) -> Callable[[Pairs], tuple[int, int, dict[str, float]]]:
    def backward(pairs: Pairs) -> tuple[int, int, dict[str, float]]:
        batch = objective.collate([AdaptationExample(*pair) for pair in pairs])
        loss, parts = objective.loss(trainable, batch)
        loss.backward()
        first = batch["joint"][0]
        behind = sum(end - start for start, end in first.layout.blocks.values())
        read = sum(int(piece.text_lengths.sum()) for piece in batch["joint"])
        return read - first.text_starts * len(pairs), read + behind * len(pairs), parts

    return backward


def _two_passes(trainable: Any, objective: PretextObjective) -> Callable[[Pairs], tuple[int, int, dict[str, float]]]:
    """``T.SELF`` and ``T.NEXT`` one after the other: right-padded, causal kernel without a mask, head on the slots."""
    device = next(trainable.parameters()).device
    body, head = decoder(trainable), trainable.get_base_model().get_output_embeddings()

    def slot_logits(rows: list[list[int]]) -> Tensor:
        input_ids = torch.full((len(rows), max(map(len, rows))), objective.pad_id)
        for index, row in enumerate(rows):
            input_ids[index, : len(row)] = torch.tensor(row)
        hidden = body(input_ids=input_ids.to(device), use_cache=False).last_hidden_state  # [B, L, D]
        slots = objective.prompts.slots
        ends = torch.tensor([len(row) for row in rows], device=device)
        columns = ends[:, None] - slots + torch.arange(slots, device=device)  # [B, S]
        return head(hidden.gather(1, columns[:, :, None].expand(-1, -1, hidden.shape[2])))

    def backward(pairs: Pairs) -> tuple[int, int, dict[str, float]]:
        texts = objective.tokenize([text for text, _ in pairs])
        next_texts = objective.tokenize([text for _, text in pairs])
        tokens, parts = 0, {}
        total = sum(objective.weights.values())
        task: PromptName
        for task, weight in objective.weights.items():
            rows = [objective.prompts.wrap(text.ids, task, len(text.ids)) for text in texts]
            targets = joint_batch(
                texts, next_texts, objective.prompts, tasks=(task,), token_weights=objective.token_weights
            )
            loss = bag_of_tokens_loss(
                slot_logits(rows), targets.targets[task].to(device), targets.target_weights[task].to(device)
            )
            (loss * (weight / total)).backward()
            parts[f"loss_{task}"] = loss.item()
            tokens += sum(map(len, rows))
        return sum(len(text.ids) for text in texts), tokens, parts

    return backward


def _published(model: str, dtype: str, max_tokens: int, *, checkpointing: bool) -> TrainingSide:
    settings = AdaptConfig().model.model_copy(update={"name": model, "dtype": "float32"})
    backbone = load_backbone(settings, choose_device())
    step = PublishedStep(backbone, max_tokens)
    if checkpointing:
        backbone.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def backward(pairs: Pairs) -> tuple[int, int, dict[str, float]]:
        batch = step.collate(pairs)
        loss, parts = step.loss(batch)
        loss.backward()
        return batch.text_tokens, int(batch.attention_mask.sum()), parts

    flops = 6 * non_embedding_parameters(backbone.model)
    return TrainingSide(backbone.model, backward, dtype == "bfloat16", flops)
