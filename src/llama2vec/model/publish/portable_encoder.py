"""A saved llama2vec encoder as a module of sentence-transformers (5.4 or later), in one file without llama2vec.

Every saved encoder has a copy next to its weights, named in ``modules.json``, so that the folder opens without
llama2vec. ``llama2vec.json``, the encoding contract, says what decides a vector; this file follows it just as
llama2vec's own encoder does (Llama2Vec, arXiv 2312.15503).
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules import InputModule
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

logger = logging.getLogger(__name__)

CONTRACT_FILE = "llama2vec.json"
QUERY_MARK = "[llama2vec:query]"
"""The prompt ``query`` of ``config_sentence_transformers.json``. It selects the query side and is never tokenized: the
real prompt is token ids after the text, where sentence-transformers has no place for one."""

_FORMAT = 2
# As in llama2vec.model.contract, which this file must not import.
_NOT_TOKENIZATION = ("truncation", "padding")
_NOT_MODEL = (
    "_name_or_path", "architectures", "attn_implementation", "auto_map", "dtype", "id2label", "label2id", "torch_dtype",
    "transformers_version", "use_cache",
)  # fmt: skip
_HOOKED = "_output_capturing_hooks_installed"


class PortableEncoder(InputModule):  # type: ignore[misc, unused-ignore]
    """Texts to unit vectors, from prompt to pooling.

    ``encode_query`` and ``encode(…, prompt_name="query")`` embed queries; ``encode_document`` and plain ``encode``
    embed passages. Any other prompt goes before the text. Letters: B batch, L tokens, S slots, D width.

    Args:
        model: A causal LM of transformers.
        tokenizer: Its tokenizer.
        contract: Content of ``llama2vec.json`` without the hash.
    """

    save_in_root = True

    def __init__(self, model: Any, tokenizer: Any, contract: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.contract = dict(contract)

    @classmethod
    def load(cls, model_name_or_path: str, *, backend: str = "torch", **given: Any) -> PortableEncoder:
        """Load a saved folder or hub repository; keyword arguments as sentence-transformers passes them.

        Raises:
            ValueError: The contract is missing, broken or edited, weights are missing or of another shape, config or
                tokenizer are not those of the contract, or the backend is not ``torch``.
        """
        if backend != "torch":
            raise ValueError(f"{model_name_or_path}: backend={backend!r} cannot pool slots; use backend='torch'")
        where = {name: given.get(name) for name in ("token", "revision")}
        where |= {"subfolder": given.get("subfolder", ""), "local_files_only": given.get("local_files_only", False)}
        cache = given.get("cache_folder")
        contract_path = cls.load_file_path(model_name_or_path, CONTRACT_FILE, cache_folder=cache, **where)
        if contract_path is None:
            raise ValueError(f"{model_name_or_path}: {CONTRACT_FILE} is missing; save the model again with llama2vec")
        contract = _read_contract(contract_path)
        # The model is one of transformers' own: code that the folder may name is not even asked about.
        options, config, processor = (
            {**where, "cache_dir": cache, **(given.get(f"{part}_kwargs") or {}), "trust_remote_code": False}
            for part in ("model", "config", "processor")
        )
        if given.get("config_kwargs"):
            options["config"] = AutoConfig.from_pretrained(model_name_or_path, **config)
        tokenizer = AutoTokenizer.from_pretrained(model_name_or_path, **processor)
        if tokenizer.is_fast:
            # What its file says would otherwise be undone by the first text, while other threads may read theirs.
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.backend_tokenizer.no_padding()
        model, found = AutoModelForCausalLM.from_pretrained(
            model_name_or_path, **{**options, "output_loading_info": True, "ignore_mismatched_sizes": True}
        )
        where |= {"cache_folder": cache}
        _check_files(model_name_or_path, contract, lambda file: cls.load_file_path(model_name_or_path, file, **where))
        _check_weights(model_name_or_path, model, found)
        model.config.use_cache = False
        return cls(model.eval(), tokenizer, contract)

    def __getstate__(self) -> dict[str, Any]:
        # Several processes encode with a pickled model, but the hooks by which transformers records hidden states
        # cannot be pickled. The next text brings them back.
        for module in self.model.modules():
            for key, hook in list(module._forward_hooks.items()):
                if getattr(hook, "__module__", "") == "transformers.utils.output_capturing":
                    del module._forward_hooks[key]
        if getattr(self.model.base_model, _HOOKED, False):
            setattr(self.model.base_model, _HOOKED, False)
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # transformers notes what a class of models can record when it builds one, in each process.
        with torch.device("meta"):
            type(self.model)(self.model.config)

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Tokenize B texts with the prompt of their side, padding on the right.

        Args:
            inputs: B texts.
            prompt: The mark of a query, or a string to put before every text.
            kwargs: ``task``: ``query`` or ``document``.

        Returns:
            ``input_ids`` and ``attention_mask`` [B, L].

        Raises:
            ValueError: An input is not a string.
        """
        stranger = next((text for text in inputs if not isinstance(text, str)), None)
        if stranger is not None:
            raise ValueError(f"this model embeds strings; got {type(stranger).__name__}")
        query = prompt == QUERY_MARK or kwargs.get("task") == "query"
        texts = [f"{prompt}{text}" for text in inputs] if prompt and prompt != QUERY_MARK else list(inputs)
        rows = self._prompted(texts, query)
        width = max(len(row) for row in rows)
        input_ids = torch.full((len(rows), width), self.tokenizer.eos_token_id or 0)
        for index, row in enumerate(rows):
            input_ids[index, : len(row)] = torch.tensor(row)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(width) < lengths[:, None]).long()
        return {"input_ids": input_ids, "attention_mask": mask}

    def _prompted(self, texts: list[str], query: bool) -> list[list[int]]:
        """Return ``prefix + text + suffix`` per text; only the text is cut."""
        limit = self._settings["query_max_tokens" if query else "passage_max_tokens"]
        # Cut below: a limit set in the tokenizer would also cut what other threads read at that moment.
        ids = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        prefix, suffix = self._prefix(query), self._suffix(query)
        # An empty text without prefix and prompt leaves nothing to pool: EOS stands in for it.
        stand_in = [self.tokenizer.eos_token_id or 0]
        return [[*prefix, *row[:limit], *suffix] or stand_in for row in ids]

    @property
    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = self.contract["encoder"]
        return settings

    def _prefix(self, query: bool) -> list[int]:
        ids = self.contract["token_ids"]
        is_next = self._settings["query_prompt" if query else "passage_prompt"] == "next"
        before: list[int] = ids["next_prefix"] if is_next and "next_prefix" in ids else ids["prefix"]
        return before

    def _suffix(self, query: bool) -> list[int]:
        if self._settings["pooling"] == "mean":
            return []
        prompt = self._settings["query_prompt" if query else "passage_prompt"]
        ids: list[int] = self.contract["token_ids"]["suffixes"][prompt]
        return ids

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a passage, prompt included.

        Setting it changes the limit of passages, and that of queries if it is longer. A model saved afterwards has
        the new limits in its contract.
        """
        return int(self._settings["passage_max_tokens"]) + self._prompt_tokens

    @max_seq_length.setter
    def max_seq_length(self, tokens: int) -> None:
        context = getattr(self.model.config, "max_position_embeddings", None)
        if context and tokens > context:
            logger.warning("max_seq_length is cut from %d to %d: the model reads no more", tokens, context)
            tokens = context
        room = int(tokens) - self._prompt_tokens
        if room < 1:
            raise ValueError(f"max_seq_length={tokens} has no room for a text; the prompt takes {self._prompt_tokens}")
        limits = {"passage_max_tokens": room, "query_max_tokens": min(int(self._settings["query_max_tokens"]), room)}
        self.contract = {**self.contract, "encoder": {**self._settings, **limits}}

    @property
    def _prompt_tokens(self) -> int:
        return max(len(self._prefix(query)) + len(self._suffix(query)) for query in (False, True))

    def forward(self, features: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
        """Add ``sentence_embedding`` [B, D], unit vectors in float32, and ``token_embeddings`` [B, L, D].

        Raises:
            ValueError: A vector is not finite, and the model is not in training.
        """
        lengths = features["attention_mask"].sum(dim=1)
        hidden = self._last_hidden_states(features["input_ids"])
        pooled = [self._pooled(layer, lengths) for layer in hidden]
        if len(pooled) > 1:
            # Hidden states grow longer from layer to layer; at unit length, all layers count alike.
            pooled = [torch.stack([normalize(vectors, dim=-1) for vectors in pooled]).mean(dim=0)]
        vectors = normalize(pooled[0], dim=-1)
        # A training may meet such numbers, as with a scaler of gradients, and recover.
        if not self.training and not vectors.isfinite().all():
            dtype = str(self.model.dtype).removeprefix("torch.")
            raise ValueError(
                f"the model gives numbers that are not finite in {dtype}; load it with "
                "model_kwargs={'dtype': 'bfloat16'} or 'float32', or take undamaged weights"
            )
        return {**features, "token_embeddings": hidden[-1], "sentence_embedding": vectors}

    def _last_hidden_states(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        # Attention is causal, so padding on the right reaches no slot and needs no mask.
        layers = int(self._settings.get("layers", 1))
        output = self.model.base_model(input_ids=input_ids, use_cache=False, output_hidden_states=layers > 1)
        return (output.last_hidden_state,) if layers == 1 else tuple(output.hidden_states[-layers:])

    def _pooled(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Return the mean hidden state [B, D] over the slots, which end each row, or over the text's own tokens."""
        if self._settings["pooling"] == "slots":
            slots = int(self.contract["token_ids"]["slots"])
            columns = lengths[:, None] - slots + torch.arange(slots, device=hidden.device)  # [B, S]
            return hidden.gather(1, columns[:, :, None].expand(-1, -1, hidden.shape[2])).float().mean(dim=1)
        # For an empty text, pool the last token of the prefix.
        starts = torch.full_like(lengths, len(self.contract["token_ids"]["prefix"])).clamp(max=lengths - 1)
        columns = torch.arange(hidden.shape[1], device=hidden.device)
        inside = ((columns >= starts[:, None]) & (columns < lengths[:, None])).float()  # [B, L]
        return torch.einsum("bld,bl->bd", hidden.float(), inside) / inside.sum(dim=1, keepdim=True)

    def get_embedding_dimension(self) -> int:
        """D, the width of a vector."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Save weights, tokenizer and the contract, renewed for the weights as they are now.

        Adapters (``add_adapter``) are merged into the weights that are saved; the model itself keeps them.
        """
        folder = Path(output_path)
        adapted = getattr(self.model, "_hf_peft_config_loaded", False)
        (_merged(self.model) if adapted else self.model).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        contract = {**self.contract, "dtype": str(self.model.dtype).removeprefix("torch."), **_facts_of_files(folder)}
        text = json.dumps({**contract, "hash": _digest(contract)}, indent=2, ensure_ascii=False)
        (folder / CONTRACT_FILE).write_text(text + "\n", encoding="utf-8")

    def get_config_dict(self) -> dict[str, Any]:
        """Return what ``print(model)`` shows."""
        return {"recipe": self.contract["prompts"]["recipe"], **self._settings}


def _merged(model: Any) -> Any:
    """Return a copy of a model with its active adapters merged into the weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    merged = copy.deepcopy(model)
    for name, layer in list(merged.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            merged.set_submodule(name, layer.get_base_layer())
    left = next((name for name, part in merged.named_modules() if type(part).__module__.startswith("peft.")), None)
    if left is not None:
        raise ValueError(f"the adapter at {left} cannot be merged into the weights; add one without modules_to_save")
    merged._hf_peft_config_loaded = False
    return merged


def _check_files(name: str, contract: Mapping[str, Any], path_of: Callable[[str], str | None]) -> None:
    """Raise a ValueError unless config and tokenizer are those of the contract; hashing the weights would take long."""
    for file, key, facts in (
        ("config.json", "config", _config_facts),
        ("tokenizer.json", "tokenizer", _tokenizer_facts),
    ):
        path = path_of(file)
        if facts(Path(path) if path else None) != contract.get(key):
            raise ValueError(
                f"{name}: {file} is not the one that {CONTRACT_FILE} was made for; restore it, or save the model again"
            )


def _check_weights(name: str, model: Any, found: Mapping[str, Any]) -> None:
    """Raise a ValueError for weights that the files lack and that are random now; the output head may be missing."""
    head = model.get_output_embeddings()
    heads = [place for place, module in model.named_modules() if module is head]
    missing = sorted(key for key in found["missing_keys"] if key.rpartition(".")[0] not in heads)
    other = sorted(str(entry[0]) for entry in found["mismatched_keys"])
    for what, keys in (("missing", missing), ("of another shape", other)):
        if keys:
            raise ValueError(
                f"{name}: weights are {what}: {', '.join(keys[:3])}{' …' if len(keys) > 3 else ''}; "
                "take files that belong together"
            )


def _read_contract(path: str) -> dict[str, Any]:
    """Read a contract and check it against its own hash."""
    try:
        contract: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        saved_hash = contract.pop("hash")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: cannot be read as an encoding contract ({error}); save the model again") from None
    if _digest(contract) != saved_hash:
        raise ValueError(f"{path}: the contract does not match its hash: it was edited by hand; restore it")
    if contract.get("format") != _FORMAT:
        raise ValueError(f"{path}: contract format {contract.get('format')} is not {_FORMAT}; save the model again")
    return contract


def _digest(data: object) -> str:
    """Return the SHA-256 in hex of canonical JSON: sorted keys, no spaces."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _facts_of_files(folder: Path) -> dict[str, Any]:
    """Return what the contract holds of the model's files: hashes of weights and tokenizer, and the config."""
    weights = [[file.name, _file_sha256(file)] for file in sorted(folder.glob("*.safetensors"))]
    return {
        "format": _FORMAT,
        "weights": _digest(weights),
        "config": _config_facts(folder / "config.json"),
        "tokenizer": _tokenizer_facts(folder / "tokenizer.json"),
    }


def _config_facts(path: Path | None) -> Any:
    return _without(_read_json(path), _NOT_MODEL)


def _tokenizer_facts(path: Path | None) -> str:
    tokenizer = _read_json(path)
    return _digest({key: tokenizer[key] for key in tokenizer if key not in _NOT_TOKENIZATION}) if tokenizer else ""


def _read_json(path: Path | None) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else {}


def _without(value: Any, names: Sequence[str]) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without(inner, names) for key, inner in value.items() if key not in names}


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
