"""The top of a causal LM made fit for vectors: its last layers taken out, its final norm scaled.

The last layers turn states into the next word; those below say more about a text (docs/method.md). What remains is an
ordinary model of its architecture, which every program reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import Module

from llama2vec.errors import ConfigError
from llama2vec.model.backbone import CHANGED_TOP, check_layers, decoder, take_out_top_layers
from llama2vec.records import Vectors

_SETTING = "encoder.drop_layers"
_LEAST_SPREAD = 1e-6  # Of texts that are all the same


def check_droppable(model: Any, count: int) -> None:
    """Raise a ConfigError if a model has too few layers, or none that can be dropped."""
    if count:
        check_layers(model, count, _SETTING)


def drop_top_layers(model: Any, count: int) -> None:
    """Take the ``count`` top layers out of a model, in place, and note in its config that the head no longer fits."""
    if count:
        take_out_top_layers(model, count, _SETTING)
        _note(model, dropped_layers=count)


def final_norm(model: Any) -> Module | None:
    """Return the norm after a causal LM's last layer if it only divides and scales (RMS norm); None otherwise."""
    width = model.get_input_embeddings().weight.shape[1]
    found = [
        child
        for name, child in decoder(model).named_children()
        if "norm" in name
        and {key: tuple(value.shape) for key, value in child.named_parameters()} == {"weight": (width,)}
    ]
    return found[0] if len(found) == 1 and not isinstance(found[0], torch.nn.LayerNorm) else None


def check_standardizable(model: Any) -> None:
    """Raise a ConfigError if the final norm of a model cannot scale each dimension."""
    if final_norm(model) is None:
        raise ConfigError(
            f"encoder.standardize: {type(model).__name__} has no final RMS norm to scale; set it to false"
        )


@torch.no_grad()
def standardize(model: Any, vectors: Callable[[], Vectors]) -> None:
    """Scale the final norm so that the dimensions of a model's vectors vary alike.

    Args:
        model: The model; its norm is changed in place.
        vectors: Gives unit vectors [N, D] of typical texts, of the last layer alone. Dimensions that vary less than the
            median one are scaled as that one, since they would bring in noise.
    """
    check_standardizable(model)
    weight: Any = getattr(final_norm(model), "weight")  # noqa: B009
    # Gemma's norm scales by 1 + weight.
    weight.zero_()
    zero = getattr(final_norm(model), "forward")(torch.ones_like(weight)[None])  # noqa: B009
    shift = float(zero.float().mean().round())
    weight.fill_(1 - shift)
    spread = torch.from_numpy(vectors()).std(dim=0, correction=0)
    scale = 1 / spread.clamp(min=max(float(spread.median()), _LEAST_SPREAD))
    weight.copy_(scale / scale.mean() - shift)
    _note(model, standardized=True)


def _note(model: Any, **facts: object) -> None:
    """Write into the model's config that its output head no longer fits."""
    setattr(model.config, CHANGED_TOP, getattr(model.config, CHANGED_TOP, {}) | facts)
