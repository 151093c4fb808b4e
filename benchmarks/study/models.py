"""Adapt and fine-tune the model of a cell, or reuse it if it is already trained."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from benchmarks.paths import REPOSITORY
from benchmarks.study.cells import Cell
from benchmarks.study.protocol import Protocol
from llama2vec.adapt.settings import AdaptConfig
from llama2vec.config import EncoderSettings, Settings, load_config
from llama2vec.errors import ConfigError, ContractError
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.manifest import first_difference

logger = logging.getLogger(__name__)

_OBJECTIVES = {"ebae": ["objective.next_weight=0"], "ebar": ["objective.self_weight=0"], "both": []}
# Settings without an effect on weights or vectors: paths, the machine, and how often something is written.
_IMMATERIAL = {
    "model": ("name", "device"),
    "text": ("corpus",),
    "data": ("sources",),
    "optimizer": ("log_every", "save_every", "validate_every", "keep_checkpoints", "workers"),
    # The budget says where training and scoring cut texts.
    "encoder": ("query_max_tokens", "passage_max_tokens"),
}
_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")

ConfigT = TypeVar("ConfigT", AdaptConfig, FinetuneConfig)


def adapt_config(protocol: Protocol, cell: Cell) -> AdaptConfig:
    """Return the recipe of stage 1 for a cell."""
    arm, stage = cell.arm, protocol.adaptation
    prompt = protocol.prompt_of[arm.adaptation]
    overrides = [
        *stage.overrides,
        *stage.recipes[arm.recipe],
        *_OBJECTIVES[arm.adaptation],
        f'model.name="{protocol.model}"',
        f"optimizer.steps={arm.steps}",
        f"optimizer.seed={cell.seed}",
        f"encoder.query_prompt={prompt}",
        f"encoder.passage_prompt={prompt}",
    ]
    return load_config(AdaptConfig, REPOSITORY / stage.recipe, overrides)


def finetune_config(protocol: Protocol, cell: Cell, start: str, pairs: int) -> FinetuneConfig:
    """Return the recipe of stage 2 for a cell.

    Args:
        protocol: The budget.
        cell: The cell.
        start: Name or folder of the model to start from.
        pairs: The number of pairs.
    """
    arm, stage = cell.arm, protocol.finetuning
    prompt = protocol.prompt_of[arm.adaptation]
    overrides = [
        *stage.overrides,
        *prompt_overrides(protocol, arm.recipe),
        f'model.name="{start}"',
        f"optimizer.steps={stage.steps_for(pairs)}",
        f"optimizer.batch_size={stage.batch_size}",
        f"optimizer.seed={cell.seed}",
        f"contrastive.negatives={stage.negatives if arm.stage == 'labels' else 0}",
        f"encoder.query_prompt={prompt}",
        f"encoder.passage_prompt={prompt}",
        f"encoder.pooling={arm.pooling}",
    ]
    return load_config(FinetuneConfig, None, overrides)


def prompt_overrides(protocol: Protocol, recipe: str) -> list[str]:
    """Return those overrides of a recipe that choose its prompts; no other one reaches the second stage."""
    return [term for term in protocol.adaptation.recipes[recipe] if term.startswith("prompts")]


def differing(there: Mapping[str, Any], wanted: ConfigT) -> tuple[str, object, object] | None:
    """Return the first setting that affects weights or vectors and differs from a manifest's; None if all agree.

    Args:
        there: Settings of the manifest.
        wanted: Those of the cell.

    Returns:
        Its name, the value there and the value wanted.
    """
    try:
        found = type(wanted).parsed(there)
    except ValidationError as error:
        return str(error.errors()[0]["loc"]), "unknown", "this version's settings"
    return first_difference(_material(found), _material(wanted))


def _material(config: Settings) -> dict[str, Any]:
    values = config.model_dump()
    for section, names in _IMMATERIAL.items():
        values[section] = {key: value for key, value in values.get(section, {}).items() if key not in names}
    values["prompts"].pop("recipe")
    return values


class Models:
    """The trained models of a budget, in a folder.

    Args:
        protocol: The budget.
        data: Data folder.
        work: Folder of the budget.
        keep: Keep merged weights; otherwise keep only the adapter of each cell.
    """

    def __init__(self, protocol: Protocol, data: Path, work: Path, *, keep: bool = False) -> None:
        self.protocol, self.data, self.work, self.keep = protocol, data, work, keep

    def folder(self, cell: Cell) -> Path:
        """Return the folder of a trained cell's model."""
        stage = "adapted" if cell.arm.stage == "none" else "finetuned"
        names = [value for name, value in cell.fields.items() if name not in ("stage", "seed") and value != "0"]
        return self.work / stage / "-".join([cell.arm.stage, *names, f"seed{cell.seed}"]).removeprefix("none-")

    def is_trained(self, cell: Cell) -> bool:
        """Whether a cell's training has ended."""
        return (self.folder(cell) / "manifest.json").is_file()

    def facts(self, cell: Cell) -> dict[str, Any]:
        """Return steps, seconds and losses of a finished training, by stage."""
        found = {}
        for one in dict.fromkeys((cell.start, cell)):
            if one.arm.is_trained and self.is_trained(one):
                manifest = json.loads((self.folder(one) / "manifest.json").read_text(encoding="utf-8"))
                kept = {key: manifest["results"].get(key) for key in ("steps", "seconds", "losses")}
                found[manifest["stage"]] = {**kept, "code": manifest["code"], "machine": manifest["machine"]}
        return found

    def encoder(self, cell: Cell) -> Any:
        """Return a cell's encoder, training it first if necessary."""
        from llama2vec.model.encoder import Encoder

        arm = cell.arm
        if not arm.is_trained:
            prompt = self.protocol.prompt_of["none"]
            settings = EncoderSettings(pooling=arm.pooling, query_prompt=prompt, passage_prompt=prompt)
            prompts = load_config(FinetuneConfig, None, prompt_overrides(self.protocol, arm.recipe)).prompts
            return Encoder.load(self.protocol.model, prompts=prompts, encoder=settings)
        return self._adapted(cell) if arm.stage == "none" else self._finetuned(cell)

    def _adapted(self, cell: Cell) -> Any:
        from llama2vec.adapt.stage import adapt_model
        from llama2vec.data.corpus.passages import read_passages

        config, folder = adapt_config(self.protocol, cell), self.folder(cell)

        def train() -> Any:
            return adapt_model(config, folder, passages=read_passages(self.data / self.protocol.adaptation.corpus))

        return _trained(folder, config, train)

    def _finetuned(self, cell: Cell) -> Any:
        from benchmarks.study.pairs import training_pairs
        from llama2vec.finetune.stage import finetune_model

        arm, folder = cell.arm, self.folder(cell)
        stage = self.protocol.finetuning
        examples = training_pairs(arm.stage, arm.pairs, cell.seed, stage, self.data, self.work)
        start = self.protocol.model
        if cell.start.arm.is_trained:
            start = str(self.folder(cell.start))
            if not (self.is_trained(cell) and _weights(folder)):
                self._adapted(cell.start)
        config = finetune_config(self.protocol, cell, start, len(examples))
        return _trained(folder, config, lambda: finetune_model(config, folder, examples=examples))

    def tidy(self, cell: Cell) -> None:
        """Delete a finished model's merged weights and checkpoints if its adapter can restore them."""
        folder = self.folder(cell)
        if self.keep or not cell.arm.is_trained or not self.is_trained(cell):
            return
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        if (folder / "adapter").is_dir():
            for path in _weights(folder):
                path.unlink()


def _trained(folder: Path, config: ConfigT, train: Callable[[], Any]) -> Any:
    """Return the encoder in a folder if its training has ended; otherwise train it.

    Raises:
        ConfigError: The folder holds a model with other settings.
    """
    from llama2vec.model.encoder import Encoder

    if not (folder / "manifest.json").is_file():
        return train()
    there = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["settings"]
    differs = differing(there, config)
    if differs:
        name, old, new = differs
        raise ConfigError(f"{folder} was trained with {name} = {old!r}, not {new!r}; choose another --work")
    if _weights(folder):
        return Encoder.load(folder, settings=config.model)
    if (folder / "adapter").is_dir():
        _merge_again(folder, config)
        try:
            return Encoder.load(folder, settings=config.model)
        except ContractError:
            logger.warning("%s: its adapter does not restore the same weights here; training it again", folder)
    shutil.rmtree(folder)
    return train()


def _weights(folder: Path) -> list[Path]:
    return [path for pattern in _WEIGHTS for path in sorted(folder.glob(pattern))]


def _merge_again(folder: Path, config: AdaptConfig | FinetuneConfig) -> None:
    """Merge a kept adapter into its base, as the end of training did."""
    from peft import PeftModel

    from llama2vec.model.adapters import add_slot_tokens_and_rows
    from llama2vec.model.backbone import load_backbone
    from llama2vec.model.contract import saved_settings
    from llama2vec.model.loading import quiet_transformers

    saved = saved_settings(folder)
    backbone = load_backbone(config.model)
    if saved is not None:
        add_slot_tokens_and_rows(backbone, saved[0])
    with quiet_transformers(), tempfile.TemporaryDirectory(prefix=".merging-", dir=folder) as partial:
        model = PeftModel.from_pretrained(backbone.model, folder / "adapter").merge_and_unload()
        model.save_pretrained(partial)
        # Move the folder whole: weights that a kill cut short would look like the model's.
        for path in _weights(Path(partial)):
            path.replace(folder / path.name)
