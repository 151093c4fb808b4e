"""The encoding contract: everything that decides a vector, hashed and saved next to the weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llama2vec.config import EncoderSettings, PromptSettings
from llama2vec.errors import ContractError
from llama2vec.files import write_json
from llama2vec.manifest import digest, first_difference
from llama2vec.model.prompt import PromptIds, Tokenizer, prompt_ids
from llama2vec.model.source import CONTRACT_FILE as CONTRACT_FILE
from llama2vec.model.source import ModelSource, sampled_fingerprint, weights_fingerprint

logger = logging.getLogger(__name__)

FORMAT = 2
"""Format 1 knew neither the model's config nor its tokenizer, and hashed a sample of the weights."""

# Contracts written before there was a choice of layers do not name it, and their hash must stay.
_ONE_LAYER = ("layers", 1)
# Part of tokenizer.json and of config.json that a reader of texts sets for itself, or that names who wrote the file.
_NOT_TOKENIZATION = ("truncation", "padding")
_NOT_MODEL = (
    "_name_or_path", "architectures", "attn_implementation", "auto_map", "dtype", "id2label", "label2id", "torch_dtype",
    "transformers_version", "use_cache",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Contract:
    """What turns a text into a vector.

    Attributes:
        prompts: The wording.
        encoder: Which prompt serves which side, lengths, pooling.
        ids: Token ids of the prompts under this model's tokenizer.
        dtype: Number format of the saved weights.
        weights: Hash of the weight files.
        config: The model's own config without what decides no vector; None = format 1.
        tokenizer: Hash of ``tokenizer.json``; "" = there is no such file.
    """

    prompts: PromptSettings
    encoder: EncoderSettings
    ids: PromptIds
    dtype: str
    weights: str
    config: Mapping[str, Any] | None = None
    tokenizer: str = ""

    @property
    def format(self) -> int:
        """Version of the format, 1 or 2."""
        return 1 if self.config is None else FORMAT

    def to_dict(self) -> dict[str, Any]:
        """Return the contract as plain data, without its hash."""
        model = {} if self.config is None else {"config": dict(self.config), "tokenizer": self.tokenizer}
        return {
            "format": self.format,
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
            **model,
        }

    @property
    def hash(self) -> str:
        """SHA-256 in hex; two encoders with the same hash give the same vectors."""
        return digest(self.to_dict())

    def of_files(self, source: ModelSource, contract_format: int = FORMAT) -> Contract:
        """Return the contract with what a model's files say: hashes of weights and tokenizer, and the config."""
        if contract_format == 1:
            return replace(self, weights=_sampled_weights(source), config=None, tokenizer="")
        folder = Path(source.location)
        # A GGUF file is config, tokenizer and weights in one.
        config, tokenizer = ({}, "") if source.gguf_file else (config_facts(folder), tokenizer_hash(folder))
        return replace(self, weights=source.fingerprint(), config=config, tokenizer=tokenizer)

    def save(self, folder: Path) -> None:
        """Write ``llama2vec.json`` with the hash in it."""
        write_json(folder / CONTRACT_FILE, {**self.to_dict(), "hash": self.hash})

    def check_files(self, folder: Path) -> None:
        """Compare the contract with the weights, config and tokenizer of its folder.

        Raises:
            ContractError: One of them is not what the contract was made for.
        """
        actual = self.of_files(ModelSource(str(folder), str(folder)), self.format)
        if actual.weights != self.weights:
            raise ContractError(
                f"{folder}: the weights are not those that {CONTRACT_FILE} was made for; restore them, or save the "
                "model again"
            )
        change = first_difference(self.config or {}, actual.config or {})
        if change:
            raise ContractError(
                f"{folder / 'config.json'}: {change[0]} is {change[2]!r}, and {CONTRACT_FILE} was made for "
                f"{change[1]!r}; restore it, or save the model again"
            )
        if actual.tokenizer != self.tokenizer:
            raise ContractError(
                f"{folder / 'tokenizer.json'}: not the tokenizer that {CONTRACT_FILE} was made for; restore it, or "
                "save the model again"
            )
        if self.format < FORMAT:
            logger.info(
                "%s: contract format %d, which samples the weights and does not cover config.json", folder, self.format
            )


def config_facts(folder: Path) -> dict[str, Any]:
    """Return what ``config.json`` says about the model, without what decides no vector.

    Read from the file and not from transformers, whose versions add defaults of their own.
    """
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return {key: _facts(value) for key, value in content.items() if key not in _NOT_MODEL}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise ContractError(f"{folder / 'config.json'}: cannot be read ({error}); restore it") from None


def _facts(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _facts(inner) for key, inner in value.items() if key not in _NOT_MODEL}


def tokenizer_hash(folder: Path) -> str:
    """Return the SHA-256 in hex of what ``tokenizer.json`` does to a text; "" where there is no such file."""
    path = folder / "tokenizer.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return digest({key: value for key, value in content.items() if key not in _NOT_TOKENIZATION})
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, AttributeError) as error:
        raise ContractError(f"{path}: cannot be read ({error}); restore it") from None


def saved_weights(folder: Path, contract_format: int) -> str:
    """Return what a contract of a format calls the weights of a saved model."""
    source = ModelSource(str(folder), str(folder))
    return _sampled_weights(source) if contract_format == 1 else weights_fingerprint(source.weight_files())


def _sampled_weights(source: ModelSource) -> str:
    if source.hub_id:
        return ModelSource(source.name, source.hub_id).fingerprint()
    return sampled_fingerprint(sorted(Path(source.location).glob(source.gguf_file or "*.safetensors")))


def load_contract(folder: Path, tokenizer: Tokenizer) -> Contract:
    """Read a saved contract and check it against its own hash and the tokenizer beside it.

    Raises:
        ContractError: The file was edited, is of another format, or the tokenizer gives other prompt ids.
    """
    path = folder / CONTRACT_FILE
    data = _read(path)
    saved_hash = data.pop("hash", None)
    if digest(data) != saved_hash:
        raise ContractError(
            f"{path}: the contract does not match its hash: it was edited by hand; restore it or save the model again"
        )
    contract = _parse(path, data)
    if prompt_ids(tokenizer, contract.prompts) != contract.ids:
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
    contract = _parse(path, _read(path))
    return contract.prompts, contract.encoder


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ContractError(f"{path}: cannot be read as an encoding contract ({error}); save the model again") from None
    if not isinstance(data, dict):
        raise ContractError(f"{path}: cannot be read as an encoding contract (not an object); save the model again")
    return data


def _parse(path: Path, data: Mapping[str, Any]) -> Contract:
    if data.get("format") not in (1, FORMAT):
        raise ContractError(
            f"{path}: contract format {data.get('format')} is neither 1 nor {FORMAT}; use a matching llama2vec"
        )
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
            config=dict(data["config"]) if data["format"] == FORMAT else None,
            tokenizer=str(data["tokenizer"]) if data["format"] == FORMAT else "",
        )
    except (KeyError, TypeError, ValueError, AttributeError, ValidationError) as error:
        problem = " ".join(str(error).split())
        raise ContractError(f"{path}: incomplete contract ({problem}); save the model again") from None
