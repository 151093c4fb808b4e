"""The steps that both training stages share: claim the output, make the backbone trainable, save the encoder."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama2vec.artifact import Found, Kind, Work, claim, read_object, same_plan
from llama2vec.config import ModelSettings
from llama2vec.data.spool import SPOOL_FILE
from llama2vec.files import apply_umask, file_sha256, remove, write_json
from llama2vec.manifest import build_manifest, digest, sealed, versions
from llama2vec.model.contract import CONTRACT_FILE
from llama2vec.model.golden import GOLDEN_FILE, GOLDEN_VECTORS
from llama2vec.model.local import fetched, quiet_transformers
from llama2vec.model.publish.origin import CARD_FILE, origin_of
from llama2vec.model.publish.publishing import PUBLIC_FILES, is_authors_card, write_model_card
from llama2vec.model.source import resolve_model
from llama2vec.processes import check_same, connect, launched_processes, on_first_process, process_rank
from llama2vec.training.state import CHECKPOINTS, LOG_FILE, LOSS_PLOT, check_finite, has_checkpoint
from llama2vec.training.tracking import TENSORBOARD, TRACKING_FILE

if TYPE_CHECKING:
    from llama2vec.model.backbone import Backbone
    from llama2vec.model.encoder import Encoder

MANIFEST = "manifest.json"
PLAN_FORMAT = 4
"""The version of what a plan stands for. An unfinished training continues in the version that began it.

In version 1, adaptation counted words by spaces alone, documents that start with another number than 0 or 1 shared one
draw, fine-tuning dropped the batches of an epoch that fill no whole step, and in a run it repeated ``model.layers``. Up
to version 2, texts with equally many spaces shared batches; version 2 counted each Hangul sign as a word. Up to version
3, a combining mark ended a word, and a run without white space counted as one however long.
"""

_FILES = (
    *(
        MANIFEST,
        LOG_FILE,
        LOSS_PLOT,
        TRACKING_FILE,
        f"{TENSORBOARD}/**",
        f"{CHECKPOINTS}/**",
        "adapter/**",
        ".saving-*/**",
        CARD_FILE,
    ),
    *("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json", CONTRACT_FILE),
    *("tokenizer*", "vocab*", "merges.txt", "*.model", "added_tokens.json", "special_tokens_map.json", "dict.txt"),
    *(SPOOL_FILE, f".{SPOOL_FILE}-*", "chat_template.jinja", GOLDEN_FILE, GOLDEN_VECTORS, *PUBLIC_FILES),
)
"""All that a training leaves in its folder, whatever the architecture."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A training stage as its output folder shows it."""

    name: str  # The verb, ``adapt`` or ``finetune``; the plan is ``<name>.json``
    noun: str  # What the folder holds, with its article
    data: str  # What the stage learns from

    def plan(self, settings: Mapping[str, Any], data: object, model: str) -> dict[str, Any]:
        """Return what decides the result: all resolved settings, and the fingerprints of the input and the model."""
        return _hashed({"settings": dict(settings), self.data: data, "model": model, "format": PLAN_FORMAT})

    @property
    def kind(self) -> Kind:
        """How a finished or begun folder of this stage is recognized: by a plan that carries its own hash."""

        def read(folder: Path) -> Found | None:
            plan = read_object(folder / f"{self.name}.json") or {}
            is_ours = plan == _hashed(plan)
            return Found(plan, (folder / MANIFEST).is_file(), has_checkpoint(folder)) if is_ours else None

        return Kind(self.noun, read, entries=(f"{self.name}.json", *_FILES))

    def kind_for(self, plan: Mapping[str, Any]) -> Kind:
        """Return the kind for comparing folders with a plan: formats do not matter.

        Plans of format 1 do not name the model; they count as made from the one of this plan.
        """

        def read(folder: Path) -> Found | None:
            found = self.kind.read(folder)
            return found and replace(found, plan={"model": plan["model"], **found.plan, "format": plan["format"]})

        return replace(self.kind, read=read)

    def format_in(self, folder: Path, plan: Mapping[str, Any]) -> int:
        """Return the format of the unfinished training that a folder holds for this plan; without one, the newest."""
        comparable = self.kind_for(plan).read(folder)
        return self.format_of(folder) if comparable and same_plan(comparable.plan, plan) else PLAN_FORMAT

    def format_of(self, folder: Path) -> int:
        """Return the format of the plan in a folder; without one, the newest."""
        found = self.kind.read(folder)
        return int(found.plan.get("format", 1)) if found else PLAN_FORMAT


def _hashed(plan: Mapping[str, Any]) -> dict[str, Any]:
    decides = {key: value for key, value in plan.items() if key != "hash"}
    return {**decides, "hash": digest(decides)}


class StageWork:
    """The right to train into one folder (:class:`llama2vec.artifact.Work`), held by the first process for all."""

    def __init__(self, stage: Stage, plan: Mapping[str, Any], output: Path) -> None:
        self.stage, self.plan, self.output = stage, plan, output
        self.path, self.is_finished, self.format = output, False, PLAN_FORMAT
        self._work: Work  # On the first process

    def begin(self) -> Path:
        """Make the folder, or find what an earlier call left, and write the plan."""

        def write_plan(folder: Path) -> None:
            write_json(folder / f"{self.stage.name}.json", _hashed({**self.plan, "format": self.format}))

        # A card that its author took over stays with the folder.
        keep = [CARD_FILE] if is_authors_card(self.output / CARD_FILE) else []
        self.path = on_first_process(lambda: self._work.begin(keep, write_plan))
        return self.path

    def finish(self) -> None:
        """Put the result in the output's place."""
        on_first_process(lambda: self._work.finish())
        self.path = self.output


def model_fingerprint(name: str) -> str:
    """Return a hash of a model's weights and of its contract, if it has one; for a model on the hub, of its name."""
    source = resolve_model(name)
    if source.gguf_file:
        source = fetched(source)  # Its parts may not have been joined yet
    contract = Path(source.location) / CONTRACT_FILE
    return digest([source.fingerprint(), file_sha256(contract) if contract.is_file() else ""])


def join_processes(device: str, *, alone_too: bool = False) -> None:
    """Join the processes that torchrun started; a ConfigError where the device of the settings is not usable.

    Alone on device ``auto`` there is nothing to do, and torch, whose import takes seconds, is not imported.
    ``alone_too`` as in :func:`connect`.
    """
    if launched_processes() > 1 or alone_too or device != "auto":
        from llama2vec.model.device import choose_device

        connect(choose_device(device), alone_too=alone_too)


@contextmanager
def claim_output(
    output: Path,
    stage: Stage,
    plan: dict[str, Any],
    *,
    overwrite: bool,
    device: str,
    model: str,
    inputs: Iterable[str | None] = (),
    sharding: str = "none",
) -> Iterator[StageWork]:
    """Take the output folder for this plan, once for all processes.

    Raises:
        ModelError: The manifest of ``model``, which the training starts from, was changed after it was written.
        OutputExistsError: The folder is not free for this plan, or holds the model or one of the ``inputs``.
        TrainingError: Another process was started with another plan, another ``sharding`` or other versions.
    """
    origin_of(model)  # A damaged manifest is refused before the training rather than after it
    join_processes(device, alone_too=sharding != "none")
    check_same(f"{plan['hash']} {sharding}", f"settings, {stage.data} or model")
    check_same(digest(versions()), "versions of packages")
    made = StageWork(stage, plan, output)
    with ExitStack() as stack:

        def take() -> tuple[Path, bool, int]:
            made._work = stack.enter_context(
                claim(output, stage.kind_for(plan), plan, overwrite=overwrite, inputs=[model, *inputs])
            )
            return made._work.path, made._work.is_finished, stage.format_in(made._work.path, plan)

        made.path, made.is_finished, made.format = on_first_process(take)
        yield made


def training_precision(settings: ModelSettings) -> tuple[ModelSettings, bool]:
    """Return how the weights are loaded for training, and whether bfloat16 autocast multiplies them.

    Small updates vanish in bfloat16 weights: full fine-tuning keeps float32 weights and multiplies in bfloat16.
    """
    import torch

    from llama2vec.model.device import choose_device, choose_dtype

    dtype = choose_dtype(settings.dtype, choose_device(settings.device))
    mixed = settings.lora.rank == 0 and dtype == torch.bfloat16
    return settings.model_copy(update={"dtype": "float32"}) if mixed else settings, mixed


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
        write_json(work.path / MANIFEST, sealed(manifest))

        (work.path / SPOOL_FILE).unlink(missing_ok=True)

    on_first_process(save)
    work.finish()
    encoder.backbone.source = resolve_model(str(work.output))
    return encoder
