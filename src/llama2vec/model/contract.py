"""The encoding contract: everything that decides a vector, hashed, saved beside the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llama2vec.config import EncoderSettings, PromptSettings
from llama2vec.errors import ContractError
from llama2vec.files import write_json
from llama2vec.manifest import digest
from llama2vec.model.backbone import ModelSource
from llama2vec.model.prompt import PromptIds, Tokenizer, prompt_ids

CONTRACT_FILE = "llama2vec.json"
_FORMAT = 1
# Contracts written before there was a choice of layers do not name it, and their hash must stay.
_ONE_LAYER = ("layers", 1)


@dataclass(frozen=True, slots=True)
class Contract:
    """What turns a text into a vector.

    Attributes:
        prompts: The wording.
        encoder: Which prompt serves which side, lengths, pooling.
        ids: Token ids of the prompts under this model's tokenizer.
        dtype: Number format of the saved weights.
        weights: Fingerprint of the weight files.
    """

    prompts: PromptSettings
    encoder: EncoderSettings
    ids: PromptIds
    dtype: str
    weights: str

    def to_dict(self) -> dict[str, Any]:
        """Return the contract as plain data, without its hash."""
        return {
            "format": _FORMAT,
            "prompts": self.prompts.model_dump(),
            "encoder": {key: value for key, value in self.encoder.model_dump().items() if (key, value) != _ONE_LAYER},
            "token_ids": {
                "prefix": list(self.ids.prefix),
                "suffixes": {name: list(ids) for name, ids in self.ids.suffixes.items()},
                "slots": self.ids.slots,
            },
            "normalise": True,
            "padding_side": "right",
            "dtype": self.dtype,
            "weights": self.weights,
        }

    @property
    def hash(self) -> str:
        """SHA-256 in hex; two encoders with the same hash give the same vectors."""
        return digest(self.to_dict())

    def save(self, folder: Path) -> None:
        """Write ``llama2vec.json`` with the hash in it."""
        write_json(folder / CONTRACT_FILE, {**self.to_dict(), "hash": self.hash})


def carries_contract(source: ModelSource) -> bool:
    """Tell whether the model was saved with a contract of its own."""
    return not source.gguf_file and (Path(source.location) / CONTRACT_FILE).is_file()


def load_contract(folder: Path, tokenizer: Tokenizer) -> Contract:
    """Read a saved contract and check it against its own hash and the tokenizer beside it.

    Raises:
        ContractError: The file was edited, is of another format, or the tokenizer gives other prompt ids.
    """
    path = folder / CONTRACT_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        saved_hash = data.pop("hash")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ContractError(f"{path}: cannot be read as an encoding contract ({error}); save the model again") from None
    if digest(data) != saved_hash:
        raise ContractError(
            f"{path}: the contract does not match its hash: it was edited by hand; restore it or save the model again"
        )
    if data.get("format") != _FORMAT:
        raise ContractError(f"{path}: contract format {data.get('format')} is not {_FORMAT}; use a matching llama2vec")
    contract = _parse(path, data)
    actual = prompt_ids(tokenizer, contract.prompts)
    if actual != contract.ids:
        raise ContractError(
            f"{path}: the tokenizer in this folder gives other prompt ids than the contract's; restore it"
        )
    return contract


def saved_settings(folder: Path) -> tuple[PromptSettings, EncoderSettings] | None:
    """Return the prompts and encoder settings of a saved contract without loading its model; None = there is none.

    Raises:
        ContractError: The file cannot be read.
    """
    path = folder / CONTRACT_FILE
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ContractError(f"{path}: cannot be read as an encoding contract ({error}); save the model again") from None
    contract = _parse(path, data)
    return contract.prompts, contract.encoder


def _parse(path: Path, data: Mapping[str, Any]) -> Contract:
    if "common_directions" in data:
        raise ContractError(
            f"{path}: this model takes common directions away from its vectors, which llama2vec no longer does; "
            "adapt the base model again"
        )
    try:
        tokens = data["token_ids"]
        ids = PromptIds(
            prefix=tuple(tokens["prefix"]),
            suffixes={name: tuple(values) for name, values in tokens["suffixes"].items()},
            slots=int(tokens["slots"]),
        )
        return Contract(
            prompts=PromptSettings.model_validate(data["prompts"]),
            encoder=EncoderSettings.model_validate(data["encoder"]),
            ids=ids,
            dtype=str(data["dtype"]),
            weights=str(data["weights"]),
        )
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise ContractError(f"{path}: incomplete contract ({error}); save the model again") from None
