"""Choose how a model reads the prompts: compare joint and separate sequences before training, and say what differs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from llama2vec.adapt.joint import TASKS, JointBatch, joint_batch
from llama2vec.adapt.reading import JointReader, Reader, SeparateReader
from llama2vec.errors import ModelError, one_line
from llama2vec.model.backbone import Backbone
from llama2vec.model.loading import model_errors, quiet_transformers
from llama2vec.model.prompt import PromptIds
from llama2vec.pretext.head import UNIT_ROUNDOFFS, has_plain_head, logit_distance, tolerance
from llama2vec.pretext.targets import TokenizedText

logger = logging.getLogger(__name__)

Sequences = Literal["auto", "joint", "separate"]

_SHORT = 16
_TEXTS = ("The ferry leaves the old harbor at noon.", "It snowed.")
# Up to this many weights, 1 GiB in float32, the comparison is made in float32 whatever the model computes in.
_AFFORDABLE_WEIGHTS = 1 << 28


def choose_reader(
    backbone: Backbone, prompts: PromptIds, wanted: Sequences, *, most_tokens: int, with_text: bool = False
) -> Reader:
    """Return the reader for a model that is about to be trained.

    Args:
        backbone: The model, without adapters.
        prompts: The prompts that follow a text.
        wanted: ``auto`` = joint sequences where they give the logits of separate ones, else separate sequences, and
            one line that says why.
        most_tokens: Length limit of the texts of the training, which decides whether a sliding window matters.
        with_text: Whether the LM loss on T is part of the training.

    Raises:
        ModelError: Joint sequences are asked for, and this model does not read them right.
    """
    model, name = backbone.model, backbone.source.name
    pad_id = backbone.tokenizer.eos_token_id or 0
    with quiet_transformers(), model_errors(backbone.source):
        plain = not with_text or has_plain_head(model)
        if not plain:
            logger.info("%s: its output head does more than a product; the LM loss takes whole logits", name)
        separate = SeparateReader(pad_id, plain_head=plain, equal_lengths=backbone.padding_changes_vectors)
        if wanted == "separate":
            return separate
        joint = JointReader(model.config, model.dtype, plain_head=plain)
        fault = joint_fault(backbone, prompts, most_tokens)
    if not fault:
        return joint
    if wanted == "joint":
        raise ModelError(f"{name}: {fault}; set objective.sequences to 'auto' or 'separate'")
    logger.info("%s: %s; each prompt gets a sequence of its own, up to twice the work", name, fault)
    return separate


def joint_fault(backbone: Backbone, prompts: PromptIds, most_tokens: int) -> str:
    """Say why a model does not read joint sequences, or that they change its logits; "" = they do not."""
    with _in_float32(backbone.model):
        try:
            found = joint_difference(backbone, prompts, most_tokens=most_tokens)
        except ModelError as error:
            return str(error)
        # What an architecture does with a mask that it does not expect is its own affair.
        except Exception as error:
            return f"it cannot read a joint sequence ({one_line(error, 80)})"
        most = tolerance(backbone.model)
    # Not "found > most": a NaN is a fault.
    return "" if found <= most else f"a joint sequence changes its logits by {found:.1e} ({most:.0e} is rounding)"


@torch.no_grad()
def joint_difference(
    backbone: Backbone, prompts: PromptIds, reader: Reader | None = None, *, most_tokens: int
) -> float:
    """Read two short texts jointly, or with another reader, and separately; return how far the slots' logits differ.

    For each sliding window that the texts of the training may outgrow, a text of that length is read, too. Separate
    sequences are read without padding. The difference is the norm of the change over the norm of the logits, each logit
    less the mean over its vocabulary, and the largest of all slots.
    """
    model, batch = backbone.model, _probe(backbone, prompts, most_tokens)
    reader = reader or JointReader(model.config, model.dtype)
    found = reader.read(model, batch).logits
    expected = SeparateReader(0, equal_lengths=True).read(model, batch).logits
    return max(logit_distance(one, other) for one, other in zip(found, expected, strict=True))


def _probe(backbone: Backbone, prompts: PromptIds, most_tokens: int) -> JointBatch:
    rows = backbone.tokenizer(list(_TEXTS), add_special_tokens=False)["input_ids"]
    endless = rows[0] * (1 + most_tokens // max(1, len(rows[0])))
    around = len(prompts.prefix) + sum(map(len, prompts.suffixes.values()))
    lengths = [window for window in _windows(backbone.model.config) if window < most_tokens + around]
    rows = [*(row[:_SHORT] for row in rows), *(endless[:length] for length in lengths)]
    texts = [TokenizedText(tuple(row[:most_tokens]), ()) for row in rows]
    pad_id = backbone.tokenizer.eos_token_id or 0
    return joint_batch(texts, texts, prompts, tasks=TASKS, pad_id=pad_id).to(backbone.model.device)


def _windows(config: Any) -> list[int]:
    """Return the widths of windows and chunks that a config names, whatever it calls them."""
    found = config.get_text_config().to_dict().items()
    names = ("window", "local_attention", "attention_chunk")
    return sorted(
        {value for key, value in found if type(value) is int and value > 1 and any(name in key for name in names)}
    )


@contextmanager
def _in_float32(model: Any) -> Iterator[None]:
    """Let a small model in a 16-bit format compute in float32; afterwards it has its own weights again."""
    weights = list(model.parameters())
    in_four_bits = getattr(model, "is_quantized", False)
    if (
        in_four_bits
        or model.dtype not in UNIT_ROUNDOFFS
        or sum(weight.numel() for weight in weights) > _AFFORDABLE_WEIGHTS
    ):
        yield
        return
    buffers = [buffer for buffer in model.buffers() if buffer.dtype in UNIT_ROUNDOFFS]
    kept = [(tensor, tensor.data) for tensor in (*weights, *buffers)]
    try:
        for tensor, data in kept:
            tensor.data = data.float()
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data
