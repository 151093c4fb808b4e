"""The prompt inside the tokenizer: a ``tokenizer.json`` that puts the contract's ids around every text by itself.

Other programs call a tokenizer with its special tokens and cut at its limit; with this file, that is all of the
contract's reading of a text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama2vec.errors import TokenizerError
from llama2vec.files import write_json
from llama2vec.model.contract import Contract
from llama2vec.model.prompt import AFTER, BEFORE, Tokenizer, processors_of
from llama2vec.records import Side

TOKENIZER_FILE, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
# Classes of transformers read these and replace what the file says.
_OWN_SPECIAL_TOKENS = ("add_bos_token", "add_eos_token", "add_prefix_space", "auto_map", "legacy")
_CLASS = "PreTrainedTokenizerFast"


def surroundings(contract: Contract, side: Side) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids before and after a text of a side."""
    ids, (prompt, _) = contract.ids, contract.encoder.reading(side)
    return ids.before(prompt), ids.after(prompt)


def reads_sides_alike(contract: Contract) -> bool:
    """Tell whether queries and passages get the same ids, so that one tokenizer reads both."""
    settings = contract.encoder
    same = settings.query_max_tokens == settings.passage_max_tokens
    return same and surroundings(contract, "query") == surroundings(contract, "passage")


def prompted_tokenizer(tokenizer: Tokenizer, contract: Contract, side: Side) -> dict[str, Any]:
    """Return the content of a ``tokenizer.json`` that adds the prompt of a side to each text.

    Raises:
        TokenizerError: The tokenizer is a slow one, which has no such file.
    """
    if not tokenizer.is_fast:
        raise TokenizerError("a slow tokenizer cannot hold the prompt; take a model with a fast one (tokenizer.json)")
    content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    before, after = surroundings(contract, side)
    whole: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    special: dict[str, Any] = {}
    for name, ids, place in ((BEFORE, before, 0), (AFTER, after, len(whole))):
        if ids:
            whole.insert(place if name == BEFORE else len(whole), {"SpecialToken": {"id": name, "type_id": 0}})
            special[name] = {"id": name, "ids": list(ids), "tokens": tokenizer.convert_ids_to_tokens(list(ids))}
    pair = [*whole, {"Sequence": {"id": "B", "type_id": 1}}]
    template = {"type": "TemplateProcessing", "single": whole, "pair": pair, "special_tokens": special}
    kept = [part for part in processors_of(content.get("post_processor")) if part["type"] == "ByteLevel"]
    content["post_processor"] = {"type": "Sequence", "processors": [*kept, template]} if kept else template
    return content


def with_limits(content: Mapping[str, Any], most: int, pad_id: int, pad_token: str) -> dict[str, Any]:
    """Return the content of a ``tokenizer.json`` that also cuts at ``most`` tokens, prompt included, and pads right."""
    cut = {"direction": "Right", "max_length": most, "strategy": "LongestFirst", "stride": 0}
    pad = {
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": pad_id, "pad_type_id": 0, "pad_token": pad_token,
    }  # fmt: skip
    return {**content, "truncation": cut, "padding": pad}


def put_prompt_into_tokenizer(folder: Path, tokenizer: Tokenizer, contract: Contract) -> None:
    """Write the prompt into the tokenizer that was saved in ``folder``; it is that of passages, where sides differ."""
    write_json(folder / TOKENIZER_FILE, prompted_tokenizer(tokenizer, contract, "passage"))
    path = folder / TOKENIZER_CONFIG
    settings = json.loads(path.read_text(encoding="utf-8"))
    kept = {name: value for name, value in settings.items() if name not in _OWN_SPECIAL_TOKENS}
    padding = {"padding_side": "right", "pad_token": tokenizer.pad_token or tokenizer.eos_token}
    write_json(path, {**kept, **padding, "tokenizer_class": _CLASS})
