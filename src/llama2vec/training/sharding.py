"""One model over several processes (FSDP2): each holds a share of weights, gradients and optimizer state.

Every layer is gathered when it is read and given back at once, so that a process needs the memory of its share and of
one whole layer. Results are those of the same training without sharding, up to the order of sums. Checkpoints hold the
shares (torch.distributed.checkpoint) and can be read by any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama2vec.errors import TrainingError
from llama2vec.model.backbone import READ_STATES, decoder
from llama2vec.processes import on_first_process
from llama2vec.training.checkpoints import check_names

SHARES = "shares"
_SCHEDULER = "scheduler.pt"
_WEIGHTS = "model."  # How the names of weights begin in shares


class ShardedModel(torch.nn.Module):
    """What the trainer calls instead of DistributedDataParallel: FSDP itself averages the gradients."""

    def __init__(self, module: Any, device: torch.device, *, mixed: bool) -> None:
        super().__init__()
        self.module, self._device, self._mixed = module, device, mixed

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Run the model, in bfloat16 over float32 weights where that is asked for."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._mixed):
            return self.module(*inputs, **named)


@contextmanager
def sharded(model: Any, *, mixed: bool, offload: bool) -> Iterator[ShardedModel]:
    """Divide a (peft) model of transformers among all processes; afterwards each has the whole model again.

    Args:
        model: On the device of this process, with the same weights on each; changed in place.
        mixed: Gather float32 weights as bfloat16; gradients are summed in float32 all the same.
        offload: Keep the shares, gradients and optimizer state in the CPU's memory.

    Raises:
        TrainingError: The weights are in 4 bits, or this PyTorch cannot divide weights of several number formats.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        OffloadPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 7):
        raise TrainingError(f"optimizer.sharding needs PyTorch 2.7 or later; upgrade it (this is {torch.__version__})")
    if getattr(model, "is_quantized", False):
        raise TrainingError(
            "processes cannot share weights in 4 bits; set model.quantization or optimizer.sharding to none"
        )
    device = next(model.parameters()).device
    before = _Before(model)
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if mixed else None,
        reduce_dtype=torch.float32 if mixed else None,
        cast_forward_inputs=False,
    )
    options: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (torch.distributed.get_world_size(),)),
        "mp_policy": policy,
        "offload_policy": CPUOffloadPolicy(pin_memory=device.type == "cuda") if offload else OffloadPolicy(),
    }
    body = decoder(model)
    for layer in layers_of(model):
        fully_shard(layer, reshard_after_forward=True, **options)
    fully_shard(model, **options)
    # The second stage reads the model without its head, and its first call must go through the outermost module.
    setattr(model, READ_STATES, lambda **named: body(**named))
    register_fsdp_forward_method(model, READ_STATES)
    try:
        yield ShardedModel(model, device, mixed=mixed)
    finally:
        before.restore(model, torch.device("cpu") if offload else device, device)


def layers_of(model: Any) -> list[torch.nn.Module]:
    """Return the layers of a model: the members of its longest list of modules of one kind."""
    lists = [list(module) for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module)]
    alike = [found for found in lists if len({type(one) for one in found}) == 1]
    return max(alike or lists, key=lambda found: sum(weight.numel() for one in found for weight in one.parameters()))


class _Before:
    """What the modules of a model were before FSDP changed them: their classes, hooks and attributes."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._modules = [
            (
                module,
                type(module),
                {
                    key: dict(value)
                    for key, value in vars(module).items()
                    if "_hooks" in key and isinstance(value, dict)
                },
            )
            for module in model.modules()
        ]
        self._names = {id(module): set(vars(module)) for module in model.modules()}

    @torch.no_grad()
    def restore(self, model: Any, home: torch.device, device: torch.device) -> None:
        """Gather each weight on ``device``, keep it whole at ``home``, and take FSDP off the modules."""
        for module, _, _ in self._modules:
            getattr(module, "reshard", lambda: None)()
        whole: dict[int, torch.nn.Parameter] = {}
        for module, kind, hooks in self._modules:
            for name, weight in module._parameters.items():
                if weight is not None:
                    if id(weight) not in whole:
                        full = _gathered(weight, device).to(home)
                        whole[id(weight)] = torch.nn.Parameter(full, requires_grad=weight.requires_grad)
                    module._parameters[name] = whole[id(weight)]
            module.__class__ = kind
            for key, entries in hooks.items():
                found = vars(module)[key]
                found.clear()
                found.update(entries)
            for key in set(vars(module)) - self._names[id(module)]:
                delattr(module, key)
        model.to(home)


def _gathered(weight: Any, device: torch.device) -> Tensor:
    # NCCL gathers on the GPU only.
    whole = weight.detach().to(device).full_tensor() if hasattr(weight, "full_tensor") else weight.detach()
    copied: Tensor = whole.clone()
    return copied


class ShardedTraining:
    """Overrides of transformers.Trainer: no second wrapper, and checkpoints of shares."""

    wrapped: ShardedModel | None = None

    def _wrap_model(self: Any, model: Any, *arguments: Any, **named: Any) -> Any:
        if self.wrapped is None:
            return super()._wrap_model(model, *arguments, **named)  # type: ignore[misc]
        # accelerate would wrap the model in DistributedDataParallel, unless it is wrapped already.
        return self.wrapped

    def _clip_grad_norm(self: Any, model: Any) -> Any:
        if self.wrapped is None:
            return super()._clip_grad_norm(model)  # type: ignore[misc]
        norm = torch.nn.utils.clip_grad_norm_(self.wrapped.parameters(), self.args.max_grad_norm)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def save_model(self: Any, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Leave the weights to the shares, which are saved together with the optimizer."""
        if self.wrapped is None:
            super().save_model(output_dir, _internal_call)  # type: ignore[misc]

    def _save_optimizer_and_scheduler(self: Any, output_dir: str) -> None:
        if self.wrapped is None:
            super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
            return
        from torch.distributed.checkpoint.state_dict_saver import save

        save({**self._weights(), **self._moments()}, checkpoint_id=str(Path(output_dir, SHARES)))
        if self.is_world_process_zero():
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir, _SCHEDULER))

    def _load_from_checkpoint(self: Any, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.wrapped is None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        from torch.distributed.checkpoint.state_dict import set_model_state_dict

        wanted = self._weights()
        _check_shares(Path(resume_from_checkpoint), set(wanted["model"]))
        found = self._loaded(resume_from_checkpoint, wanted)
        set_model_state_dict(self.wrapped.module, found["model"], options=_options())

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str | None) -> None:
        if self.wrapped is None or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
            return
        from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

        found = self._loaded(checkpoint, self._moments())
        set_optimizer_state_dict(self.wrapped.module, self._plain_optimizer, found["optimizer"], options=_options())
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint, _SCHEDULER), weights_only=True))

    @property
    def _plain_optimizer(self: Any) -> Any:
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def _weights(self: Any) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import get_model_state_dict

        return {"model": get_model_state_dict(self.wrapped.module, options=_options())}

    def _moments(self: Any) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        found = get_optimizer_state_dict(self.wrapped.module, self._plain_optimizer, options=_options())
        return {"optimizer": found}

    def _loaded(self: Any, folder: str, wanted: dict[str, Any]) -> dict[str, Any]:
        from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
        from torch.distributed.checkpoint.state_dict_loader import load

        # A weight that got no gradient, such as the head in the second stage, has no moments.
        planner = DefaultLoadPlanner(allow_partial_load=True)
        load(wanted, checkpoint_id=str(Path(folder, SHARES)), planner=planner)
        return wanted


def _check_shares(checkpoint: Path, wanted: set[str]) -> None:
    """Raise a TrainingError where shares hold other weights than the model; the loader would leave those out."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    there = FileSystemReader(Path(checkpoint, SHARES)).read_metadata().state_dict_metadata
    found = {name.removeprefix(_WEIGHTS) for name in there if name.startswith(_WEIGHTS)}
    check_names(checkpoint, wanted - found, found - wanted)


def _options() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    # Frozen weights are those of the model that the training starts from.
    return StateDictOptions(ignore_frozen_params=True, strict=False)


def check_same_sharding(folder: Path | None, *, is_sharded: bool) -> None:
    """Raise a TrainingError if a checkpoint was written with another ``optimizer.sharding``."""
    if folder is not None and on_first_process(lambda: (folder / SHARES).is_dir()) != is_sharded:
        other = "none" if is_sharded else "fsdp"
        raise TrainingError(
            f"{folder}: was written with optimizer.sharding={other}; resume with that setting, or start over "
            "(--overwrite)"
        )
