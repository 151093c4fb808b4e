"""A backbone made trainable, and the encoder that is saved of it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llama2vec.config import ModelSettings
from llama2vec.data.examples.spool import SPOOL_FILE
from llama2vec.files import apply_umask, remove, write_json
from llama2vec.manifest import MANIFEST_FILE, build_manifest, sealed
from llama2vec.model.loading import quiet_transformers
from llama2vec.model.publish.origin import origin_of
from llama2vec.model.publish.publishing import write_model_card
from llama2vec.model.source import resolve_model
from llama2vec.processes import on_first_process, process_rank
from llama2vec.training.output import StageWork
from llama2vec.training.state import check_finite

if TYPE_CHECKING:
    from llama2vec.model.backbone import Backbone
    from llama2vec.model.encoder import Encoder

logger = logging.getLogger(__name__)


def training_precision(settings: ModelSettings) -> tuple[ModelSettings, bool]:
    """Return how the weights are loaded for training, and whether bfloat16 autocast multiplies them.

    Small updates vanish in 16-bit weights: full fine-tuning keeps float32 weights and multiplies in bfloat16. Where
    float16 is asked for, it multiplies in float32 too, since small gradients vanish in float16.
    """
    import torch

    from llama2vec.model.device import choose_device, choose_dtype

    dtype = choose_dtype(settings.dtype, choose_device(settings.device))
    if settings.lora.rank or dtype == torch.float32:
        return settings, False
    if dtype == torch.float16:
        logger.info("model.dtype is float16: full training computes in float32, in which small gradients stay")
    return settings.model_copy(update={"dtype": "float32"}), dtype == torch.bfloat16


def check_trainable(settings: ModelSettings) -> None:
    """Look at a model's config, before a corpus is read, for what training cannot do with it.

    Raises:
        NotCausalError: No causal language model.
        ConfigError: It cannot recompute activations, and ``model.gradient_checkpointing`` is set.
        ModelError: It cannot be computed in ``model.dtype``.
    """
    import torch

    from llama2vec.model.backbone import check_format, check_recomputing
    from llama2vec.model.device import choose_device, choose_dtype
    from llama2vec.model.tokenizer import load_model_config

    config = load_model_config(settings.name)
    if settings.gradient_checkpointing:
        check_recomputing(config)
    asked = choose_dtype(settings.dtype, choose_device(settings.device))
    check_format(settings.name, config, asked if settings.lora.rank else torch.float32)


def make_trainable(backbone: Backbone, settings: ModelSettings, new_tokens: list[str], seed: int) -> Any:
    """Return the model to train: the backbone's own (rank 0), or LoRA on it, with the rows of new slot tokens."""
    from llama2vec.model.adapters import add_lora

    return add_lora(backbone, settings.lora, new_tokens, seed) if settings.lora.rank else backbone.model


def _whole_model(backbone: Backbone) -> Any:
    """Load the weights that a 4-bit model was made from, of the layers that it still has."""
    from llama2vec.model.backbone import CHANGED_TOP, load_backbone

    config = backbone.model.config
    settings = ModelSettings.model_validate({"dtype": backbone.dtype, "layers": config.num_hidden_layers})
    whole = load_backbone(settings, backbone.model.device, backbone.source).model
    if changed := getattr(config, CHANGED_TOP, None):
        setattr(whole.config, CHANGED_TOP, changed)
    return whole


def save_trained(encoder: Encoder, trainable: Any, work: StageWork, *, facts: Mapping[str, Any]) -> Encoder:
    """Merge the adapter, save the encoder, write the manifest last, and put the folder in its place.

    ``trainable`` is the backbone's model, or the peft model around it; ``facts`` are results for the manifest.

    Raises:
        TrainingError: A weight is not finite; nothing is saved.
    """
    stage, plan = work.stage, work.plan
    check_finite(trainable, str(work.output))
    if hasattr(trainable, "merge_and_unload"):
        if process_rank() == 0:
            # peft adds to the card that a killed process may have left half-written.
            remove(work.path / "adapter")
            with quiet_transformers():
                trainable.save_pretrained(work.path / "adapter")
        if getattr(encoder.backbone.model, "is_quantized", False):
            from llama2vec.model.four_bit import merged_into

            encoder.backbone.model = merged_into(_whole_model(encoder.backbone), trainable)
        else:
            encoder.backbone.model = trainable.merge_and_unload()
        check_finite(encoder.backbone.model, str(work.output))
    encoder.backbone.model.eval()

    def save() -> None:
        for left_by_a_kill in work.path.glob(".saving-*"):
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
        origin = origin_of(encoder.backbone.source.name)
        encoder.save(work.path, overwrite=True)
        manifest = build_manifest(stage.name, plan["settings"], {stage.data: plan[stage.data]}, facts)
        write_model_card(work.path, name=work.output.resolve().name, origin=origin.followed_by(manifest))
        apply_umask(work.path)
        write_json(work.path / MANIFEST_FILE, sealed(manifest))

        (work.path / SPOOL_FILE).unlink(missing_ok=True)

    on_first_process(save)
    work.finish()
    encoder.backbone.source = resolve_model(str(work.output))
    return encoder
