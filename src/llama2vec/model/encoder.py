"""The encoder: one artifact that turns queries and passages into vectors, the same way everywhere."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from llama2vec.config import EncoderSettings, ModelSettings, PromptName, PromptSettings
from llama2vec.errors import ContractError, OutputExistsError
from llama2vec.model.backbone import (
    Backbone,
    ModelSource,
    add_slot_tokens_and_rows,
    decoder,
    load_backbone,
    quiet_transformers,
    resolve_model,
    weights_fingerprint,
)
from llama2vec.model.batching import token_budget_batches, windows
from llama2vec.model.contract import CONTRACT_FILE, Contract, carries_contract, load_contract
from llama2vec.model.golden import compute_golden, save_golden
from llama2vec.model.pooling import Pooling, Vectors, last_hidden_states, pool
from llama2vec.model.prompt import prompt_ids, prompted_texts
from llama2vec.model.publish.hub import local_copy, upload_encoder
from llama2vec.model.publish.publishing import add_public_files, name_card
from llama2vec.model.spec import ModelSpec
from llama2vec.records import Passage, Query

logger = logging.getLogger(__name__)

_WINDOW = 4096
# On a CPU what one layer reads and writes should stay in the caches (docs/results.md, "Speed and memory").
BATCH_TOKENS = {"cpu": 1024, "cuda": 65536}


class Encoder:
    """Embed queries and passages with a causal LM (Llama2Vec, arXiv 2312.15503).

    Texts are padded on the right, so no padding mask is needed: attention is causal, and what stands to the right of a
    slot never reaches it. Vectors are pooled and L2-normalized in float32.

    Args:
        backbone: Model and tokenizer; the tokenizer knows the prompt's slot tokens.
        contract: What turns a text into a vector.
        batch_tokens: Most cells of one batch; None = what suits the device.
    """

    def __init__(
        self,
        backbone: Backbone,
        contract: Contract,
        batch_tokens: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.contract = contract
        most = BATCH_TOKENS.get(backbone.model.device.type, BATCH_TOKENS["cpu"])
        # transformers keeps every layer's states where more than the last one is asked for.
        self.batch_tokens = batch_tokens or (most if contract.encoder.layers == 1 else max(most // 4, 1024))

    @classmethod
    def from_backbone(
        cls, backbone: Backbone, prompts: PromptSettings | None = None, settings: EncoderSettings | None = None
    ) -> Encoder:
        """Wrap a loaded backbone; new slot tokens get their embedding rows here.

        Raises:
            TokenizerError: The prompt's slot is EOS and the tokenizer has none.
        """
        prompts, settings = prompts or PromptSettings(), settings or EncoderSettings()
        add_slot_tokens_and_rows(backbone, prompts)
        contract = Contract(
            prompts=prompts,
            encoder=_within_model(backbone, prompts, settings),
            ids=prompt_ids(backbone.tokenizer, prompts),
            dtype=str(backbone.model.dtype).removeprefix("torch."),
            weights=backbone.source.fingerprint(),
        )
        return cls(backbone, contract)

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        settings: ModelSettings | None = None,
        prompts: PromptSettings | None = None,
        encoder: EncoderSettings | None = None,
    ) -> Encoder:
        """Load a saved encoder, or any causal LM with a prompt of your choice.

        Args:
            name: Folder written by :meth:`save` (its contract decides), or any hub id, folder or GGUF file.
            settings: Number format, device, attention kernel; its ``name`` is replaced.
            prompts: Wording for a model without a contract.
            encoder: Pooling, lengths and prompt pairing for a model without a contract.

        Raises:
            ModelNotFoundError: Nothing there.
            ContractError: The folder's contract does not match its hash, tokenizer or weights.
        """
        return cls._load(resolve_model(str(name)), settings, prompts, encoder)

    @classmethod
    def from_spec(cls, spec: ModelSpec, settings: ModelSettings | None = None) -> Encoder:
        """Load the encoder that a store, an index or a run names.

        Args:
            spec: Which model, and how it reads texts.
            settings: Number format, device, attention kernel; its ``name`` is replaced.

        Raises:
            ModelNotFoundError: Nothing there.
            ContractError: The folder's contract does not match its hash, tokenizer or weights.
        """
        return cls._load(spec.source(), settings, spec.prompts, spec.encoder)

    @classmethod
    def _load(
        cls,
        source: ModelSource,
        settings: ModelSettings | None,
        prompts: PromptSettings | None,
        encoder: EncoderSettings | None,
    ) -> Encoder:
        if source.hub_id:
            source = replace(source, location=local_copy(source.hub_id))
        backbone = load_backbone(settings or ModelSettings(), source=source)
        if not carries_contract(source):
            return cls.from_backbone(backbone, prompts, encoder)
        if prompts or encoder:
            raise ContractError(
                f"{source.name}: this model carries its own contract; prompts and lengths cannot be changed at load"
            )
        folder = Path(source.location)
        contract = load_contract(folder, backbone.tokenizer)
        if weights_fingerprint(sorted(folder.glob("*.safetensors"))) != contract.weights:
            raise ContractError(
                f"{folder}: the weights are not those that {CONTRACT_FILE} was made for; save the model again"
            )
        return cls(backbone, contract)

    @property
    def spec(self) -> ModelSpec:
        """What a store records, so that :meth:`from_spec` loads this encoder again."""
        source = self.backbone.source
        if carries_contract(source):
            return ModelSpec.of_source(source)
        return ModelSpec.of_source(source, self.contract.prompts, self.contract.encoder)

    @property
    def dimension(self) -> int:
        """D, the width of a vector."""
        return int(self.backbone.model.get_input_embeddings().weight.shape[1])

    @property
    def contract_hash(self) -> str:
        """SHA-256 of everything that decides a vector."""
        return self.contract.hash

    def encode_queries(
        self, queries: Sequence[Query] | Sequence[str], on_done: Callable[[int], None] | None = None
    ) -> Vectors:
        """Embed queries.

        Args:
            queries: N queries or plain texts.
            on_done: Called with the number of texts finished since the last call.

        Returns:
            [N, D] unit vectors, float32, in the given order.
        """
        texts = [query.text if isinstance(query, Query) else query for query in queries]
        settings = self.contract.encoder
        return self._encode_side(texts, settings.query_prompt, settings.query_max_tokens, on_done)

    def encode_passages(
        self, passages: Sequence[Passage] | Sequence[str], on_done: Callable[[int], None] | None = None
    ) -> Vectors:
        """Embed passages, title and text as one; arguments and result as in :meth:`encode_queries`."""
        texts = [passage.full_text if isinstance(passage, Passage) else passage for passage in passages]
        settings = self.contract.encoder
        return self._encode_side(texts, settings.passage_prompt, settings.passage_max_tokens, on_done)

    def encode_poolings(self, texts: Sequence[str], prompt: PromptName, max_tokens: int) -> dict[Pooling, Vectors]:
        """Embed texts with every pooling in one pass: ``slots``, and ``mean`` over the text's own tokens.

        Attention is causal, so the text's hidden states do not know of the prompt behind them: ``mean`` equals what
        an encoder with ``pooling="mean"`` gives. Two baselines for the price of one.

        Returns:
            Pooling name → [N, D] unit vectors, float32.
        """
        return self._encode(texts, prompt, max_tokens, ("slots", "mean"), None)

    def _encode_side(
        self, texts: list[str], prompt: PromptName, max_tokens: int, on_done: Callable[[int], None] | None
    ) -> Vectors:
        pooling = self.contract.encoder.pooling
        return self._encode(texts, prompt if pooling == "slots" else None, max_tokens, (pooling,), on_done)[pooling]

    def _encode(
        self,
        texts: Sequence[str],
        prompt: PromptName | None,
        max_tokens: int,
        poolings: Sequence[Pooling],
        on_done: Callable[[int], None] | None,
    ) -> dict[Pooling, Vectors]:
        """Tokenize and embed window by window: memory for tokens does not grow with the number of texts."""
        vectors = {name: np.empty((len(texts), self.dimension), dtype=np.float32) for name in poolings}
        start = 0
        for window in windows(texts, _WINDOW):
            self._encode_window(
                window, prompt, max_tokens, {name: all_[start:] for name, all_ in vectors.items()}, on_done
            )
            start += len(window)
        return vectors

    @torch.inference_mode()
    def _encode_window(
        self,
        texts: list[str],
        prompt: PromptName | None,
        max_tokens: int,
        vectors: Mapping[Pooling, Vectors],
        on_done: Callable[[int], None] | None,
    ) -> None:
        """Write the vectors of one window of texts into the front of ``vectors``."""
        tokenizer, model, settings = self.backbone.tokenizer, self.backbone.model, self.contract.encoder
        sequences = prompted_texts(tokenizer, texts, self.contract.ids, prompt, max_tokens)
        body = decoder(model)
        for batch in token_budget_batches(sequences, self.batch_tokens, pad_id=self.pad_id):
            hidden = last_hidden_states(body, batch.input_ids.to(model.device), settings.layers)
            lengths = batch.lengths.to(model.device)
            for name, rows in vectors.items():
                pooled = pool(hidden, lengths, self.contract.ids, name, prompt)
                rows[batch.rows] = torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
            if on_done:
                on_done(len(batch.rows))

    @property
    def pad_id(self) -> int:
        """What fills a batch behind its shorter rows; no slot sees it."""
        return self.backbone.tokenizer.eos_token_id or 0

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Save weights, tokenizer and contract as one ordinary transformers folder.

        The folder appears whole or not at all; nothing else in an existing folder is touched.

        Raises:
            OutputExistsError: A model is there already.
        """
        folder = Path(folder)
        if (folder / "config.json").exists() and not overwrite:
            raise OutputExistsError(
                f"{folder}: a model is there already; pass overwrite=True (--overwrite) to replace it"
            )
        folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
        try:
            with quiet_transformers():
                self.backbone.model.save_pretrained(partial)
                # An encoder does not chat: with a template sentence-transformers wraps every text in a conversation.
                self.backbone.tokenizer.chat_template = None
                self.backbone.tokenizer.save_pretrained(partial)
            self.contract = replace(
                self.contract,
                dtype=str(self.backbone.model.dtype).removeprefix("torch."),
                weights=weights_fingerprint(sorted(partial.glob("*.safetensors"))),
            )
            self.contract.save(partial)
            save_golden(compute_golden(self), partial)
            add_public_files(partial, folder, self.backbone.source.name)
            (folder / "chat_template.jinja").unlink(missing_ok=True)
            # config.json last: it is what makes the folder a model.
            for file in sorted(partial.iterdir(), key=lambda path: path.name == "config.json"):
                file.replace(folder / file.name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self.backbone.source = resolve_model(str(folder))
        return folder

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the encoder to the Hugging Face Hub; a model card that somebody wrote, here or there, stays.

        Returns:
            The address of the commit.

        Raises:
            ModelError: The hub refused, or cannot be reached.
        """
        source = self.backbone.source
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            try:
                self.save(folder)
            finally:
                self.backbone.source = source
            name_card(folder, repo_id, source)
            return upload_encoder(folder, repo_id, private=private, token=token)


def _within_model(backbone: Backbone, prompts: PromptSettings, settings: EncoderSettings) -> EncoderSettings:
    """Cut layers and length limits to what the model has, and say so."""
    settings = EncoderSettings.model_validate(settings.model_dump())
    depth = getattr(backbone.model.config, "num_hidden_layers", settings.layers)
    if settings.layers > depth:
        logger.warning("encoder.layers is cut from %d to %d: the model has no more", settings.layers, depth)
        settings = settings.model_copy(update={"layers": depth})
    context = getattr(backbone.model.config, "max_position_embeddings", None)
    if not context:
        return settings
    ids = prompt_ids(backbone.tokenizer, prompts)
    room = context - len(ids.prefix) - max(len(suffix) for suffix in ids.suffixes.values())
    if room < 1:
        raise ContractError(f"{backbone.source.name}: its context of {context} tokens has no room beside the prompts")
    limits = {}
    for name in ("query_max_tokens", "passage_max_tokens"):
        if getattr(settings, name) > room:
            logger.warning(
                "%s is cut from %d to %d: the model reads %d tokens", name, getattr(settings, name), room, context
            )
            limits[name] = room
    return settings.model_copy(update=limits)
