"""A saved llama2vec encoder as a module of sentence-transformers, in one file that needs nothing of llama2vec.

It is copied beside the weights whenever an encoder is saved, and ``modules.json`` there names it, so that the folder
opens where llama2vec is not installed. What a vector is stands in ``llama2vec.json``, the encoding contract; this file
repeats what llama2vec's own encoder does with it (Llama2Vec, arXiv 2312.15503). Made for sentence-transformers 5.4 or
later; 5.2 gives the same vectors in float32.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

try:
    from sentence_transformers.base.modules import InputModule
except ImportError:  # sentence-transformers before 5.4
    from sentence_transformers.models import InputModule

logger = logging.getLogger(__name__)

CONTRACT_FILE = "llama2vec.json"
QUERY_MARK = "[llama2vec:query]"
"""What ``config_sentence_transformers.json`` has as the prompt called ``query``: it asks for the query side, and the
model never reads it. The real prompt is token ids behind the text, where sentence-transformers has no place for one."""

_FORMATS = (1, 2)
# As in llama2vec.model.contract, which this file must not import.
_NOT_TOKENIZATION = ("truncation", "padding")
_NOT_MODEL = (
    "_name_or_path", "architectures", "attn_implementation", "auto_map", "dtype", "id2label", "label2id", "torch_dtype",
    "transformers_version", "use_cache",
)  # fmt: skip
_HOOKED = "_output_capturing_hooks_installed"


class PortableEncoder(InputModule):  # type: ignore[misc, unused-ignore]
    """Texts to unit vectors: the only module of the model, since prompt, slots and pooling belong together.

    ``encode_query`` and ``encode(…, prompt_name="query")`` embed queries; ``encode_document`` and plain ``encode``
    embed passages. Any other prompt is put in front of the text. Letters: B batch, L tokens, S slots, D width.

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
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        backend: str = "torch",
        **kwargs: Any,
    ) -> PortableEncoder:
        """Load the model of a saved folder or hub repository; arguments as sentence-transformers gives them.

        Raises:
            ValueError: No contract there, one that was edited by hand, or another backend than ``torch``.
        """
        if backend != "torch":
            raise ValueError(f"{model_name_or_path}: backend={backend!r} cannot pool slots; use backend='torch'")
        where = {"subfolder": subfolder, "token": token, "revision": revision, "local_files_only": local_files_only}

        def path_of(name: str) -> str | None:
            path: str | None = cls.load_file_path(model_name_or_path, name, cache_folder=cache_folder, **where)
            return path

        contract_path = path_of(CONTRACT_FILE)
        if contract_path is None:
            raise ValueError(f"{model_name_or_path}: there is no {CONTRACT_FILE}; save the model again with llama2vec")
        contract = _read_contract(contract_path)
        hub = {**where, "cache_dir": cache_folder}
        options = dict(model_kwargs or {})
        if config_kwargs:
            options["config"] = AutoConfig.from_pretrained(model_name_or_path, **{**hub, **config_kwargs})
        # Called tokenizer_kwargs before sentence-transformers 5.4.
        tokenizer_options = processor_kwargs or kwargs.get("tokenizer_kwargs") or {}
        tokenizer = AutoTokenizer.from_pretrained(model_name_or_path, **{**hub, **tokenizer_options})
        model = AutoModelForCausalLM.from_pretrained(model_name_or_path, **{**hub, **options})
        model.config.use_cache = False
        return cls(model.eval(), tokenizer, contract)

    def __getstate__(self) -> dict[str, Any]:
        # Several processes encode with a pickled model, and the hooks by which transformers records hidden states
        # cannot be pickled. They come back with the next text.
        for module in self.model.modules():
            for key, hook in list(module._forward_hooks.items()):
                if getattr(hook, "__module__", "") == "transformers.utils.output_capturing":
                    del module._forward_hooks[key]
        if getattr(self.model.base_model, _HOOKED, False):
            setattr(self.model.base_model, _HOOKED, False)
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # What a class of models can record is noted when one of them is built, in each process.
        with torch.device("meta"):
            type(self.model)(self.model.config)

    # ------------------------------------------------------------------------------------------------------- the text

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Tokenize texts and put the prompt of their side around them, padding on the right.

        Args:
            inputs: B texts.
            prompt: The mark of a query, or a string to put in front of every text.
            kwargs: ``task``: ``query`` or ``document``; others are not used.

        Returns:
            ``input_ids`` and ``attention_mask`` [B, L].

        Raises:
            ValueError: An input is no text.
        """
        stranger = next((text for text in inputs if not isinstance(text, str)), None)
        if stranger is not None:
            raise ValueError(f"this model embeds texts, one string each; got {type(stranger).__name__}")
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

    def tokenize(self, texts: list[str], **kwargs: Any) -> dict[str, Tensor]:
        """Do what :meth:`preprocess` does for sentence-transformers before 5.4, which puts prompts in front itself."""
        if texts and all(isinstance(text, str) and text.startswith(QUERY_MARK) for text in texts):
            return self.preprocess([text.removeprefix(QUERY_MARK) for text in texts], QUERY_MARK, **kwargs)
        return self.preprocess(texts, **kwargs)

    def _prompted(self, texts: list[str], query: bool) -> list[list[int]]:
        """Return per text ``prefix + text + suffix``; the text is cut, the prompt never is."""
        limit = self._settings["query_max_tokens" if query else "passage_max_tokens"]
        ids = self.tokenizer(
            texts, add_special_tokens=False, truncation=True, max_length=limit, return_attention_mask=False
        )["input_ids"]
        if self.tokenizer.is_fast:
            # Else the limit of this call would be saved with the tokenizer.
            self.tokenizer.backend_tokenizer.no_truncation()
        prefix, suffix = self.contract["token_ids"]["prefix"], self._suffix(query)
        # An empty text without prefix and prompt has nothing to pool: the EOS token stands in for it.
        stand_in = [self.tokenizer.eos_token_id or 0]
        return [[*prefix, *row[:limit], *suffix] or stand_in for row in ids]

    @property
    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = self.contract["encoder"]
        return settings

    def _suffix(self, query: bool) -> list[int]:
        if self._settings["pooling"] == "mean":
            return []
        ids: list[int] = self.contract["token_ids"]["suffixes"][self._prompt_name(query)]
        return ids

    def _prompt_name(self, query: bool) -> str:
        return str(self._settings["query_prompt" if query else "passage_prompt"])

    @property
    def max_seq_length(self) -> int:
        """Most tokens that a passage may have, its prompt included.

        Setting it moves the limit of the passages; queries keep theirs unless it is longer than that. A model that is
        saved afterwards carries the new limits in its contract.
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
        limits = {
            "passage_max_tokens": room,
            "query_max_tokens": min(int(self._settings["query_max_tokens"]), room),
        }
        self.contract = {**self.contract, "encoder": {**self._settings, **limits}}

    @property
    def _prompt_tokens(self) -> int:
        return len(self.contract["token_ids"]["prefix"]) + max(len(self._suffix(query)) for query in (False, True))

    # ----------------------------------------------------------------------------------------------------- the vector

    def forward(self, features: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
        """Add ``sentence_embedding`` [B, D], unit vectors in float32, and ``token_embeddings`` [B, L, D]."""
        lengths = features["attention_mask"].sum(dim=1)
        hidden = self._last_hidden_states(features["input_ids"])
        pooled = [self._pooled(layer, lengths) for layer in hidden]
        if len(pooled) > 1:
            # The lengths of hidden states grow from layer to layer; each counts alike.
            pooled = [torch.stack([normalize(vectors, dim=-1) for vectors in pooled]).mean(dim=0)]
        return {**features, "token_embeddings": hidden[-1], "sentence_embedding": normalize(pooled[0], dim=-1)}

    def _last_hidden_states(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        # No padding mask: attention is causal, so what stands to the right of a slot never reaches it.
        layers = int(self._settings.get("layers", 1))
        output = self.model.base_model(input_ids=input_ids, use_cache=False, output_hidden_states=layers > 1)
        return (output.last_hidden_state,) if layers == 1 else tuple(output.hidden_states[-layers:])

    def _pooled(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Mean hidden state [B, D] over the slots, which end each row, or over the text's own tokens."""
        if self._settings["pooling"] == "slots":
            slots = int(self.contract["token_ids"]["slots"])
            columns = lengths[:, None] - slots + torch.arange(slots, device=hidden.device)  # [B, S]
            return hidden.gather(1, columns[:, :, None].expand(-1, -1, hidden.shape[2])).float().mean(dim=1)
        # An empty text is the end of the prefix.
        starts = torch.full_like(lengths, len(self.contract["token_ids"]["prefix"])).clamp(max=lengths - 1)
        columns = torch.arange(hidden.shape[1], device=hidden.device)
        inside = ((columns >= starts[:, None]) & (columns < lengths[:, None])).float()  # [B, L]
        return torch.einsum("bld,bl->bd", hidden.float(), inside) / inside.sum(dim=1, keepdim=True)

    def get_embedding_dimension(self) -> int:
        """D, the width of a vector."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    def get_sentence_embedding_dimension(self) -> int:
        """D, under the name that sentence-transformers before 5.4 asks for."""
        return self.get_embedding_dimension()

    # -------------------------------------------------------------------------------------------------------- the file

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Save weights, tokenizer and contract; the contract is renewed for weights that were trained meanwhile."""
        folder = Path(output_path)
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        contract = {
            **self.contract,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            **_facts_of_files(folder),
        }
        text = json.dumps({**contract, "hash": _digest(contract)}, indent=2, ensure_ascii=False)
        (folder / CONTRACT_FILE).write_text(text + "\n", encoding="utf-8")

    def get_config_dict(self) -> dict[str, Any]:
        """Return what ``print(model)`` shows."""
        return {"recipe": self.contract["prompts"]["recipe"], **self._settings}


def _read_contract(path: str) -> dict[str, Any]:
    """Read a contract and check it against its own hash."""
    try:
        contract: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        saved_hash = contract.pop("hash")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: cannot be read as an encoding contract ({error}); save the model again") from None
    if _digest(contract) != saved_hash:
        raise ValueError(f"{path}: the contract does not match its hash: it was edited by hand; restore it")
    if contract.get("format") not in _FORMATS:
        raise ValueError(f"{path}: contract format {contract.get('format')} is neither 1 nor 2; save the model again")
    if "common_directions" in contract:
        raise ValueError(f"{path}: common directions are no longer supported; adapt the base model again")
    return contract


def _digest(data: object) -> str:
    """Return the SHA-256 in hex of canonical JSON: sorted keys, no spaces."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _facts_of_files(folder: Path) -> dict[str, Any]:
    """Return what the contract holds of the model's files: hashes of weights and tokenizer, and the config."""
    weights = [[file.name, _file_sha256(file)] for file in sorted(folder.glob("*.safetensors"))]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return {
        "format": _FORMATS[-1],
        "weights": _digest(weights),
        "config": _without(config, _NOT_MODEL),
        "tokenizer": _digest({key: value for key, value in tokenizer.items() if key not in _NOT_TOKENIZATION}),
    }


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
