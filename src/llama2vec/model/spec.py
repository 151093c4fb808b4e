"""The model spec: how a store, an index or a run names the model that made its vectors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from llama2vec.config import EncoderSettings, PromptSettings, Settings, load_config
from llama2vec.errors import ModelNotFoundError, StoreError
from llama2vec.model.source import SMOLLM2_NAME, ModelSource, resolve_hub, resolve_model

_ANCESTORS = 4
_READING = ("prompts", "encoder", "contract_format")


class ModelSpec(Settings):
    """A model and how it reads texts; :meth:`Encoder.from_spec` loads the same encoder again.

    A model is named either by ``path`` or by ``name``, never by a string that could mean both: a folder that has moved
    must not be looked up on the public hub, where anybody may own its name.

    Attributes:
        path: Absolute path of a model folder or GGUF file; "" where ``name`` says which model it is.
        name: Hub id, or ``smollm2-135m``; "" where ``path`` says which model it is.
        prompts: Wording for a model without a contract of its own; None = the contract decides.
        encoder: Pooling, lengths and prompt pairing for such a model; None = the contract decides.
        contract_format: Version of the contract under which such a model made its vectors; None = the model's own.
    """

    path: str = ""
    name: str = ""
    prompts: PromptSettings | None = None
    encoder: EncoderSettings | None = None
    contract_format: int | None = None

    @model_validator(mode="after")
    def _names_one_model(self) -> ModelSpec:
        if bool(self.path) == bool(self.name):
            raise ValueError("give either a path or a name")
        return self

    @classmethod
    def of_source(cls, source: ModelSource, **reading: Any) -> ModelSpec:
        """Describe a model whose files have been found; ``reading`` are the fields of a model without a contract."""
        if source.hub_id or source.name == SMOLLM2_NAME:
            return cls(name=source.name if source.name == SMOLLM2_NAME else str(source.hub_id), **reading)
        return cls(path=str(Path(source.location, source.gguf_file or "").resolve()), **reading)

    @classmethod
    def of_store(cls, source: Mapping[str, object], folder: str | Path, model: str | Path | None = None) -> ModelSpec:
        """Read the spec of a vector store.

        Args:
            source: What the store says about its corpus and model.
            folder: The store; relative paths start there.
            model: Another model in place of the store's; without a contract it reads texts as the store's did.

        Raises:
            StoreError: The store does not say which model made it.
            ModelNotFoundError: ``model``, or the model that an older store names, is not there.
        """
        folder, kept = Path(folder).resolve(), source.get("model")
        old = isinstance(kept, str) and bool(kept)
        try:
            spec = _old_reading(source) if old else cls.model_validate(kept)
        except ValidationError:
            raise StoreError(f"{folder}: does not say which model made it; name the model with --model") from None
        if model is not None:
            found = resolve_model(str(model))
            reading = spec.model_dump(include=set(_READING))
            return cls.of_source(found, **({} if found.carries_contract else reading))
        if old:
            return spec.model_copy(update=_old_location(str(kept), folder))
        return spec.model_copy(update={"path": os.path.normpath(folder / spec.path)}) if spec.path else spec

    def to_json(self, folder: str | Path) -> dict[str, object]:
        """Return the spec as plain data for an artifact in ``folder``, with the path relative to it."""
        data = self.model_dump(exclude_none=True, exclude={"path", "name"})
        if not self.path:
            return {"name": self.name, **data}
        try:
            path = os.path.relpath(self.path, Path(folder).resolve())
        except ValueError:  # Another drive of Windows.
            path = self.path
        return {"path": Path(path).as_posix(), **data}

    def source(self) -> ModelSource:
        """Find the model's files; a path is never looked up on the hub.

        Raises:
            ModelNotFoundError: No model is at the path.
        """
        if self.name:
            return resolve_hub(self.name)
        if not Path(self.path).exists():
            raise ModelNotFoundError(f"{self.path}: no such model folder or file; name the model with --model")
        return resolve_model(self.path)

    @property
    def title(self) -> str:
        """What people call the model: a hub id in full, of a path the last part."""
        return self.name or Path(self.path).name


def _old_reading(source: Mapping[str, object]) -> ModelSpec:
    """Read the options that stores kept before there was a spec, all but where the model is."""
    named, sets = source.get("prompts"), source.get("sets")
    prompts = load_config(_PromptChoice, None, [f"prompts={named}"]).prompts if named else None
    encoder = load_config(EncoderSettings, None, [str(value) for value in sets]) if isinstance(sets, list) else None
    return ModelSpec(name=SMOLLM2_NAME, prompts=prompts, encoder=encoder, contract_format=1)


def _old_location(model: str, folder: Path) -> dict[str, str]:
    """Find the model of an old store, whose paths start at the folder in which the command ran."""
    if model == SMOLLM2_NAME:
        return {"name": model, "path": ""}
    given = Path(model).expanduser()
    bases = [Path.cwd(), *list(folder.parents)[:_ANCESTORS]]
    for path in [*(base / given for base in bases), folder.parent / given.name]:
        if path.exists():
            return {"path": str(path.resolve()), "name": ""}
    raise ModelNotFoundError(
        f"{folder}: an earlier version wrote its model as '{model}'; no such folder is here, and the name is not "
        "looked up on the hub; name the model with --model"
    )


class _PromptChoice(Settings):
    prompts: PromptSettings = PromptSettings()
