"""The encoding contract: everything that decides a vector, hashed and saved next to the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama2vec.config import EncoderSettings, PromptSettings
from llama2vec.errors import ContractError
from llama2vec.files import write_json
from llama2vec.manifest import digest, first_difference
from llama2vec.model.prompt import PromptIds, Tokenizer, prompt_ids
from llama2vec.model.source import CONTRACT_FILE as CONTRACT_FILE
from llama2vec.model.source import ModelSource
from llama2vec.records import Side

FORMAT = 2

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
    """Everything that decides a vector."""

    prompts: PromptSettings
    encoder: EncoderSettings
    ids: PromptIds  # Prompts as this model's tokenizer reads them.
    dtype: str  # Number format of the saved weights.
    weights: str  # Hash of the weight files.
    config: Mapping[str, Any]  # config.json without what decides no vector.
    tokenizer: str = ""  # Hash of tokenizer.json.

    def to_dict(self) -> dict[str, Any]:
        """Return the contract as plain data, without its hash."""
        return {
            "format": FORMAT,
            "prompts": self.prompts.model_dump(),
            "encoder": {key: value for key, value in self.encoder.model_dump().items() if (key, value) != _ONE_LAYER},
            "token_ids": {
                "prefix": list(self.ids.prefix),
                "suffixes": {name: list(ids) for name, ids in self.ids.suffixes.items()},
                "slots": self.ids.slots,
                **({} if self.ids.next_prefix is None else {"next_prefix": list(self.ids.next_prefix)}),
                **({} if self.ids.repeat is None else {"repeat": list(self.ids.repeat)}),
            },
            "normalise": True,
            "padding_side": "right",
            "dtype": self.dtype,
            "weights": self.weights,
            "config": dict(self.config),
            "tokenizer": self.tokenizer,
        }

    @property
    def hash(self) -> str:
        """SHA-256 in hex; two encoders with the same hash give the same vectors."""
        return digest(self.to_dict())

    def of_files(self, source: ModelSource, *, layers: int = 0) -> Contract:
        """Return the contract with what a model's files say: hashes of weights and tokenizer, and the config.

        Only the lowest ``layers`` of those in the files give the vectors; 0 = all.
        """
        folder, kept = Path(source.location), {"num_hidden_layers": layers} if layers else {}
        if source.gguf_file:  # Config, tokenizer and weights in one.
            return replace(self, weights=source.fingerprint(), config=kept, tokenizer="")
        content = _read_json(folder / "tokenizer.json")
        tokenizer = digest({key: content[key] for key in content if key not in _NOT_TOKENIZATION}) if content else ""
        config = {**_about_model(_read_json(folder / "config.json")), **kept}
        return replace(self, weights=source.fingerprint(), config=config, tokenizer=tokenizer)

    def save(self, folder: Path) -> None:
        """Write ``llama2vec.json`` with the hash in it."""
        write_json(folder / CONTRACT_FILE, {**self.to_dict(), "hash": self.hash})

    def check_files(self, folder: Path) -> None:
        """Raise a ContractError if the weights, config or tokenizer of a folder are not those of the contract."""
        actual = self.of_files(ModelSource(str(folder), str(folder)))
        change = first_difference(self.config, actual.config)
        if actual.weights != self.weights:
            fault = "the weights are not those"
        elif change:
            fault = f"config.json has {change[0]} = {change[2]!r} and not the {change[1]!r}"
        elif actual.tokenizer != self.tokenizer:
            fault = "tokenizer.json is not the one"
        else:
            return
        raise ContractError(f"{folder}: {fault} that {CONTRACT_FILE} was made for; restore it, or save the model again")


def _ids(tokens: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
    return tuple(tokens[name]) if name in tokens else None


def _about_model(value: Any) -> Any:
    """Return config.json, or a part of it, without what decides no vector."""
    if not isinstance(value, dict):
        return value
    return {key: _about_model(inner) for key, inner in value.items() if key not in _NOT_MODEL}


def _read_json(path: Path) -> dict[str, Any]:
    """Read a file of a model as it stands, since transformers' versions add defaults of their own; {} if missing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ContractError(f"{path}: cannot be read ({error}); restore it") from None
    if not isinstance(content, dict):
        raise ContractError(f"{path}: not a JSON object; restore it")
    return content


def prefix_words(contract: Mapping[str, Any], side: Side) -> str:
    """Return the wording before the text of a side, from the content of a contract."""
    prompts, is_next = contract["prompts"], contract["encoder"][f"{side}_prompt"] == "next"
    words: str = prompts.get("next_prefix", prompts["prefix"]) if is_next else prompts["prefix"]
    return words


def load_contract(folder: Path, tokenizer: Tokenizer) -> Contract:
    """Read a saved contract; raise a ContractError if it was edited, or if the tokenizer gives other prompt ids."""
    path = folder / CONTRACT_FILE
    data = _read_json(path)
    saved_hash = data.pop("hash", None)
    if digest(data) != saved_hash:
        raise ContractError(
            f"{path}: the contract does not match its hash: it was edited by hand; restore it or save the model again"
        )
    contract = parse_contract(path, data)
    if contract.hash != saved_hash:
        raise ContractError(
            f"{path}: the contract has settings that this llama2vec does not know; "
            "save the model again or update llama2vec"
        )
    if prompt_ids(tokenizer, contract.prompts) != contract.ids:
        raise ContractError(
            f"{path}: the tokenizer in this folder gives other prompt ids than the contract's; restore it"
        )
    return contract


def saved_contract(folder: Path) -> Contract | None:
    """Return a saved contract without checking it against its model; None = there is none."""
    path = folder / CONTRACT_FILE
    return parse_contract(path, _read_json(path)) if path.is_file() else None


def saved_settings(folder: Path) -> tuple[PromptSettings, EncoderSettings] | None:
    """Return the prompts and encoder settings of a saved contract without loading its model; None = it has none."""
    contract = saved_contract(folder)
    return None if contract is None else (contract.prompts, contract.encoder)


def parse_contract(path: Path, data: Mapping[str, Any]) -> Contract:
    """Return the contract that a file holds as :meth:`Contract.to_dict` gives it; a ContractError for anything else."""
    if data.get("format") != FORMAT:
        raise ContractError(
            f"{path}: contract format {data.get('format')}, and this llama2vec reads {FORMAT}; "
            "save the model again or update llama2vec"
        )
    try:
        tokens = data["token_ids"]
        suffixes = {name: tuple(values) for name, values in tokens["suffixes"].items()}
        return Contract(
            prompts=PromptSettings.model_validate(data["prompts"]),
            encoder=EncoderSettings.model_validate(data["encoder"]),
            ids=PromptIds(
                tuple(tokens["prefix"]),
                suffixes,
                int(tokens["slots"]),
                _ids(tokens, "next_prefix"),
                _ids(tokens, "repeat"),
            ),
            dtype=str(data["dtype"]),
            weights=str(data["weights"]),
            config=dict(data["config"]),
            tokenizer=str(data["tokenizer"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = " ".join(str(error).split())
        raise ContractError(f"{path}: incomplete contract ({problem}); save the model again") from None
