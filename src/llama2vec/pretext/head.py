"""What the output head does with hidden states, and how far two computations of its logits may lie apart."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from llama2vec.model.golden import UNIT_ROUNDOFF

UNIT_ROUNDOFFS = {getattr(torch, name): roundoff for name, roundoff in UNIT_ROUNDOFF.items()}
_FLOAT32_TOLERANCE = 1e-4


@torch.no_grad()
def has_plain_head(model: Any) -> bool:
    """Tell whether the logits are the product of the last hidden states and the head's weight, and nothing more."""
    head = model.get_output_embeddings()
    if head is None or getattr(model.config.get_text_config(), "final_logit_softcapping", None):
        return False
    ids = torch.arange(4, device=model.device).remainder(model.get_input_embeddings().weight.shape[0])[None]
    output = model(input_ids=ids, use_cache=False, output_hidden_states=True)
    states = output.hidden_states[-1]
    if states.shape[-1] != head.weight.shape[-1]:
        return False
    # Mamba's last states are float32 whatever the format of its weights.
    return logit_distance(states.to(head.weight.dtype) @ head.weight.T, output.logits) <= tolerance(model)


def logit_distance(found: Tensor, expected: Tensor) -> float:
    """Compare logits [B, S, V] after what all tokens share, which changes no probability, has been taken away."""
    one, other = (logits.float() - logits.float().mean(dim=-1, keepdim=True) for logits in (found, expected))
    return float(((one - other).norm(dim=-1) / other.norm(dim=-1).clamp(min=1e-12)).max())


def tolerance(model: Any) -> float:
    """Return the largest relative difference of logits between two right computations of a model.

    In float32 kernels differ in the order of their sums: 1e-4 leaves a hundredfold room. In a 16-bit format each layer
    rounds the residual stream twice. Independent roundings of relative size u, at most the format's unit roundoff, add
    up to u·√(2·layers); twice that is allowed.
    """
    if model.dtype not in UNIT_ROUNDOFFS:
        return _FLOAT32_TOLERANCE
    layers = int(getattr(model.config.get_text_config(), "num_hidden_layers", 0) or 32)
    return 2 * UNIT_ROUNDOFFS[model.dtype] * math.sqrt(2 * layers)
