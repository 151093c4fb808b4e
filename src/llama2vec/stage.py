"""What the two training stages share around the loop: the output folder, a trainable backbone, the saved encoder."""

from __future__ import annotations

import ctypes
import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llama2vec.config import ModelSettings
from llama2vec.errors import OutputExistsError
from llama2vec.files import write_json
from llama2vec.manifest import build_manifest, digest, first_difference
from llama2vec.model.backbone import Backbone, add_lora, choose_device, choose_dtype, quiet_transformers
from llama2vec.model.encoder import Encoder
from llama2vec.model.publish.model_card import origin_of, write_model_card
from llama2vec.model.speed.lean_attention import use_lean_attention, use_stock_attention
from llama2vec.model.speed.lean_layers import keep_less, restore
from llama2vec.processes import check_same, connect, on_first_process, process_rank
from llama2vec.training import TrainingResult

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
# From malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True, slots=True)
class Stage:
    """A training stage as its output folder shows it.

    Attributes:
        name: The verb, ``adapt`` or ``finetune``; the plan is ``<name>.json``.
        noun: What the folder holds, with its article.
        data: What the stage learns from.
    """

    name: str
    noun: str
    data: str

    @property
    def plan_file(self) -> str:
        """Name of the file that says what decides the result."""
        return f"{self.name}.json"

    def plan(self, settings: Mapping[str, Any], data: object) -> dict[str, Any]:
        """Return what decides the result; a second run with another plan is another artifact.

        Args:
            settings: All settings, resolved.
            data: Fingerprint of the input.
        """
        decides = {"settings": dict(settings), self.data: data}
        return {**decides, "hash": digest(decides)}


def claim_output(output: Path, stage: Stage, plan: Mapping[str, Any], overwrite: bool, device: str) -> bool:
    """Take the output folder for this plan, once for all processes.

    Returns:
        True where exactly this is finished there.

    Raises:
        OutputExistsError: The folder holds something else; it is not touched.
        TrainingError: Another process was started with another plan.
    """
    connect(choose_device(device))
    check_same(str(plan["hash"]), f"settings or {stage.data}")
    return on_first_process(lambda: _claim(output, stage, plan, overwrite))


def _claim(output: Path, stage: Stage, plan: Mapping[str, Any], overwrite: bool) -> bool:
    # A kill before the plan was in place leaves at most its temporary file.
    if not output.exists() or (output.is_dir() and all(".tmp-" in path.name for path in output.iterdir())):
        return False
    plan_file = output / stage.plan_file
    if not plan_file.is_file():
        raise OutputExistsError(
            f"{output}: exists and is no {stage.noun.partition(' ')[2]}; choose another --output (it is not touched)"
        )
    try:
        found = json.loads(plan_file.read_text(encoding="utf-8"))
    except ValueError:
        found = {}
    if found.get("hash") == plan["hash"] and not overwrite:
        return (output / MANIFEST).is_file()
    if not overwrite:
        differs = first_difference(found.get("settings", {}), plan["settings"])
        changed = f"{differs[0]}: {differs[1]!r} there, {differs[2]!r} now" if differs else f"the {stage.data}"
        raise OutputExistsError(
            f"{output}: holds {stage.noun} with other settings ({changed}); choose another --output or pass --overwrite"
        )
    shutil.rmtree(output)
    return False


def write_plan(output: Path, stage: Stage, plan: Mapping[str, Any]) -> None:
    """Make the folder and say what it is for."""

    def write() -> None:
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / stage.plan_file, dict(plan))

    on_first_process(write)


def training_precision(settings: ModelSettings) -> tuple[ModelSettings, bool]:
    """Return how the weights are loaded for training, and whether bfloat16 autocast multiplies them.

    Small updates vanish in bfloat16 weights: full fine-tuning keeps float32 weights and multiplies in bfloat16.
    """
    dtype = choose_dtype(settings.dtype, choose_device(settings.device))
    mixed = settings.lora.rank == 0 and dtype == torch.bfloat16
    return settings.model_copy(update={"dtype": "float32"}) if mixed else settings, mixed


def make_trainable(backbone: Backbone, settings: ModelSettings, new_tokens: list[str], seed: int) -> Any:
    """Return the model to train: the backbone's own, or with LoRA on it.

    Args:
        backbone: The loaded model.
        settings: Says which; rank 0 = every weight.
        new_tokens: Slot tokens whose embedding rows are trained beside the adapters.
        seed: Of the adapters' first values.
    """
    trainable = add_lora(backbone, settings.lora, new_tokens, seed) if settings.lora.rank else backbone.model
    if not settings.lora.rank and trainable.device.type == "cpu":
        _keep_freed_memory()
    keep_less(trainable)
    use_lean_attention(trainable)
    return trainable


def _keep_freed_memory() -> None:
    """Let the C library keep large freed blocks for the next step, where it is glibc.

    Gradients as large as the weights come and go with each step. Given back to the system every time, they must be
    zeroed by it every time: a tenth to a fifth of a step of full fine-tuning (docs/results.md, "Speed and memory").
    """
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        library.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 4097)


def save_trained(
    encoder: Encoder,
    trainable: Any,
    output: Path,
    *,
    stage: Stage,
    plan: Mapping[str, Any],
    result: TrainingResult,
    facts: Mapping[str, object],
    started: float,
    save_adapter: bool,
) -> Encoder:
    """Merge the adapter, save the encoder, and write the manifest last.

    Args:
        encoder: Around the trained backbone.
        trainable: What was trained: the backbone's model, or the peft model around it.
        output: The stage's folder.
        stage: Which stage.
        plan: What decided the result.
        result: Of the training.
        facts: More facts for the manifest.
        started: When the work began (``time.monotonic``).
        save_adapter: Keep the LoRA adapter beside the merged weights.

    Returns:
        The encoder.
    """
    first = process_rank() == 0
    # The encoder that is returned computes what a loaded one does, bit for bit.
    restore(trainable)
    use_stock_attention(trainable)
    if hasattr(trainable, "merge_and_unload"):
        if save_adapter and first:
            with quiet_transformers():
                trainable.save_pretrained(output / "adapter")
        encoder.backbone.model = trainable.merge_and_unload()
    encoder.backbone.model.eval()

    def save() -> None:
        for left_by_a_kill in output.glob(".saving-*"):
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
        origin = origin_of(encoder.backbone.source.name)
        encoder.save(output, overwrite=True)
        found = {"steps": result.steps, "seconds": round(time.monotonic() - started, 1), **facts}
        manifest = build_manifest(
            stage.name, plan["settings"], {stage.data: plan[stage.data]}, {**found, "losses": result.losses}
        )
        write_model_card(output, origin=origin.followed_by(manifest))
        write_json(output / MANIFEST, manifest)

    on_first_process(save)
    return encoder
