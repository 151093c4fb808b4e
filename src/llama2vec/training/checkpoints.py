"""Checkpoints of a model that one process holds as a whole; none is read unless it has every weight of the model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from llama2vec.errors import TrainingError

_NAMES_SHOWN = 3


class WholeCheckpoints:
    """Overrides of transformers.Trainer, which skips the weights of a checkpoint whose names it does not know.

    ``save_pretrained`` writes most mixtures of experts and several other architectures under the names and in the
    shapes that their publishers chose. The trainer looks for the model's own names in them.
    """

    def _save(self: Any, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not isinstance(self.model, PreTrainedModel):
            super()._save(output_dir, state_dict)  # type: ignore[misc]
        elif self.args.should_save:
            folder = output_dir or self.args.output_dir
            self.model.save_pretrained(folder, state_dict=state_dict, save_original_format=False)

    def _load_from_checkpoint(self: Any, resume_from_checkpoint: str, model: Any = None) -> None:
        model = model or self.model
        if hasattr(model, "load_adapter") and hasattr(model, "peft_config"):
            found = model.load_adapter(resume_from_checkpoint, model.active_adapters[0], is_trainable=True)
            check_names(Path(resume_from_checkpoint), found.missing_keys, found.unexpected_keys)
        elif isinstance(model, PreTrainedModel):
            _load_whole(model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]


def _load_whole(model: PreTrainedModel, checkpoint: Path) -> None:
    """Give a model the weights of a checkpoint, file by file."""
    own: dict[str, torch.Tensor] = model.state_dict()
    read: set[str] = set()
    for file in sorted(checkpoint.glob("model*.safetensors")):
        weights = load_file(file)
        read |= weights.keys()
        fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
        check_names(checkpoint, [], weights.keys() - fitting.keys())
        model.load_state_dict(fitting, strict=False)
    # A tied weight is written once, under one of its names.
    loaded = {_place(own[name]) for name in read}
    check_names(checkpoint, [name for name, weight in own.items() if _place(weight) not in loaded], [])


def _place(weight: torch.Tensor) -> tuple[int, torch.Size]:
    return weight.data_ptr(), weight.shape


def check_names(checkpoint: Path, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Raise a TrainingError where a checkpoint lacks weights that the model has, or has others."""
    kinds = {"not in it": sorted(missing), "not in the model": sorted(unexpected)}
    faults = [
        f"{', '.join(names[:_NAMES_SHOWN])}{' …' if len(names) > _NAMES_SHOWN else ''} {what}"
        for what, names in kinds.items()
        if names
    ]
    if faults:
        raise TrainingError(
            f"{checkpoint}: its weights are not those of the model ({'; '.join(faults)}), as an earlier version of "
            "llama2vec wrote them for some architectures; start over (--overwrite)"
        )
