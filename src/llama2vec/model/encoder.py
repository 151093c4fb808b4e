"""Encoder: one artifact that turns queries and passages into vectors, the same way everywhere."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama2vec.config import EncoderSettings, ModelSettings, PromptName, PromptSettings
from llama2vec.errors import ConfigError, ContractError, OutputExistsError
from llama2vec.files import apply_umask, disk_errors
from llama2vec.model.adapters import add_slot_tokens_and_rows
from llama2vec.model.backbone import Backbone, load_backbone
from llama2vec.model.batching import cells_per_batch, checked_tokens, chunks, padded_batches, texts_of
from llama2vec.model.contract import Contract, load_contract
from llama2vec.model.golden import GOLDEN_TEXTS, Golden, default_tolerance, save_golden
from llama2vec.model.lengths import Cut
from llama2vec.model.limits import most_tokens, within_model
from llama2vec.model.loading import quiet_transformers, weights_to_save
from llama2vec.model.local import check_layer_count, fetched
from llama2vec.model.pooling import Pooling, check_finite, unit_vectors
from llama2vec.model.prompt import count_longer, prompt_ids, prompted_texts
from llama2vec.model.publish.portable_files import PUBLIC_FILES, check_other_reading
from llama2vec.model.publish.prompted_tokenizer import put_prompt_into_tokenizer
from llama2vec.model.publish.publishing import add_public_files
from llama2vec.model.source import COMPACT_FILE, COMPACT_FILES, ModelSource, ModelSpec, resolve_model
from llama2vec.model.speed.compiled_reading import Compile, CompiledReading
from llama2vec.model.speed.short_reading import ShortReading
from llama2vec.records import Passage, Query, Side, Vectors
from llama2vec.terminal import ProgressReporter

_CHUNK = 4096  # Texts that are tokenized at a time


class Encoder:
    """Embed queries and passages with a causal LM (Llama2Vec, arXiv 2312.15503).

    Texts are padded on the right, so no padding mask is needed: attention is causal, and what stands to the right of a
    slot never reaches it. Vectors are pooled and L2-normalized in float32.

    Args:
        backbone: Model and tokenizer; the tokenizer knows the prompt's slot tokens.
        contract: Everything that decides a vector.
    """

    def __init__(self, backbone: Backbone, contract: Contract) -> None:
        self.backbone = backbone
        self.contract = contract
        self._batch_tokens = 0  # What suits the device
        self._reading, self.short_reading = CompiledReading(backbone), ShortReading(backbone)

    @classmethod
    def from_backbone(
        cls,
        backbone: Backbone,
        prompts: PromptSettings | None = None,
        settings: EncoderSettings | None = None,
    ) -> Encoder:
        """Wrap a loaded backbone; new slot tokens get their embedding rows here.

        Raises:
            TokenizerError: The prompt's slot is EOS and the tokenizer has none.
        """
        prompts, settings = prompts or PromptSettings(), settings or EncoderSettings()
        add_slot_tokens_and_rows(backbone, prompts)
        ids = prompt_ids(backbone.tokenizer, prompts)
        contract = Contract(
            prompts=prompts,
            encoder=within_model(backbone, ids, settings),
            ids=ids,
            dtype=backbone.dtype,
            weights="",
            config={},
        )
        return cls(backbone, contract.of_files(backbone.source, layers=backbone.kept_layers))

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        device: str | None = None,
        dtype: str | None = None,
        batch_tokens: int | None = None,
        prompts: PromptSettings | None = None,
        encoder: EncoderSettings | None = None,
        settings: ModelSettings | None = None,
    ) -> Encoder:
        """Load a saved encoder, or any causal LM with a prompt of your choice.

        Args:
            name: Folder written by :meth:`save` (its contract decides), or any hub id, folder or GGUF file.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, …
            dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
            batch_tokens: Most tokens of one batch, padding included; None = what suits the device.
            prompts: Wording for a model without a contract.
            encoder: Pooling, lengths and prompt pairing for a model without a contract.
            settings: Defaults of device and dtype, and the attention kernel; its ``name`` is ignored.

        Raises:
            ModelNotFoundError: Nothing there.
            ContractError: The folder's contract does not match its hash, tokenizer, config or weights.
            ConfigError: ``batch_tokens`` is not a whole number.
        """
        chosen = {key: value for key, value in (("device", device), ("dtype", dtype)) if value}
        settings = ModelSettings.model_validate({**(settings or ModelSettings()).model_dump(), **chosen})
        cells = checked_tokens("batch_tokens", 0 if batch_tokens is None else batch_tokens, least=0)
        source = resolve_model(str(name))
        found = cls._load(fetched(source), settings, ModelSpec.of_source(source, prompts=prompts, encoder=encoder))
        found.batch_tokens = cells
        return found

    @classmethod
    def from_spec(
        cls, spec: ModelSpec, settings: ModelSettings | None = None, source: ModelSource | None = None
    ) -> Encoder:
        """Load the encoder that a store names, from its ``source`` if that is :func:`fetched`; else as :meth:`load`."""
        return cls._load(source or fetched(spec.source()), settings or ModelSettings(), spec)

    @classmethod
    def _load(cls, source: ModelSource, settings: ModelSettings, spec: ModelSpec) -> Encoder:
        if source.carries_contract and (spec.prompts or spec.encoder):
            raise ContractError(
                f"{source.name}: this model carries its own contract; prompts and lengths cannot be changed at load"
            )
        if source.carries_contract:
            check_layer_count(source, settings.layers)
        elif spec.layers:
            settings = settings.model_copy(update={"layers": spec.layers})
        check_other_reading(source)
        backbone = load_backbone(settings, source=source)
        if source.carries_contract:
            folder = Path(source.location)
            contract = load_contract(folder, backbone.tokenizer)
            contract.check_files(folder)
            found = cls(backbone, contract)
        else:
            found = cls.from_backbone(backbone, spec.prompts, spec.encoder)
        found.compile = settings.compile
        return found

    @property
    def batch_tokens(self) -> int:
        """Most tokens of one batch, padding included: as it was set, else what suits the device."""
        return self._cells(compiled=False)

    @batch_tokens.setter
    def batch_tokens(self, most: int | None) -> None:
        self._batch_tokens = checked_tokens("batch_tokens", 0 if most is None else most, least=0)

    def _cells(self, *, compiled: bool, tokens: float = 0) -> int:
        device, layers = self.backbone.model.device.type, self.contract.encoder.layers
        return self._batch_tokens or cells_per_batch(device, compiled=compiled, layers=layers, tokens=tokens)

    @property
    def compile(self) -> Compile:
        """Whether texts are read with compiled layers, as ``model.compile`` says; False unless loading set it."""
        return self._reading.wanted

    @compile.setter
    def compile(self, wanted: Compile) -> None:
        self._reading = CompiledReading(self.backbone, wanted)

    @property
    def spec(self) -> ModelSpec:
        """The spec that a store records, with which :meth:`from_spec` loads this encoder again."""
        source, contract = self.backbone.source, self.contract
        if source.carries_contract:
            return ModelSpec.of_source(source)
        return ModelSpec.of_source(
            source, prompts=contract.prompts, encoder=contract.encoder, layers=self.backbone.kept_layers
        )

    @property
    def dimension(self) -> int:
        """D, the width of a vector."""
        return int(self.backbone.model.get_input_embeddings().weight.shape[1])

    @property
    def dtype(self) -> str:
        """Number format that the model computes in, such as ``bfloat16``."""
        return self.backbone.dtype

    @property
    def contract_hash(self) -> str:
        """SHA-256 of everything that decides a vector."""
        return self.contract.hash

    def encode_queries(
        self, queries: Sequence[Query] | Sequence[str] | Query | str, *, show_progress: bool = False
    ) -> Vectors:
        """Embed queries.

        Args:
            queries: N queries or plain texts, or a single one.
            show_progress: Show a progress bar on stderr.

        Returns:
            [N, D] unit vectors, float32, in the given order; [D] for a single query.

        Raises:
            DataError: An item is not a text.
            ModelError: A vector is not finite.
        """
        return self._encode(queries, "query", show_progress, short=True)

    def encode_passages(
        self, passages: Sequence[Passage] | Sequence[str] | Passage | str, *, show_progress: bool = False
    ) -> Vectors:
        """Embed passages, title and text as one; arguments, result and errors as in :meth:`encode_queries`."""
        return self._encode(passages, "passage", show_progress)

    def passage_batches(
        self, passages: Sequence[Passage] | Sequence[str], skip: Sequence[bool] | None = None
    ) -> Iterator[tuple[list[int], Vectors]]:
        """Yield the places of B passages at a time and their vectors [B, D], in an order that the texts alone decide.

        A batch whose texts are all marked in ``skip`` [N] is not computed; the other batches keep their bits.
        """
        pooling = self.contract.encoder.pooling
        for rows, vectors in self._batches(texts_of(passages), *self.reading("passage"), (pooling,), skip):
            yield rows, vectors[pooling]

    def count_cut(self, passages: Sequence[Passage]) -> int:
        """Return how many passages are longer than the model reads of them."""
        return self.cut(passages, "passage").texts

    def cut_queries(self, queries: Sequence[Query] | Sequence[str]) -> Cut:
        """Return how many queries are longer than the model reads of them, and how much that is."""
        return self.cut(queries, "query")

    def cut(self, items: Sequence[Passage] | Sequence[Query] | Sequence[str], side: Side) -> Cut:
        """Return how many texts are longer than the model reads on a side, and how much that is."""
        _, most = self.reading(side)
        tokenizer, source = self.backbone.tokenizer, self.backbone.source
        count = sum(count_longer(tokenizer, part, most) for part in chunks(texts_of(items), _CHUNK))
        room = most_tokens(self.backbone.model.config, self.contract.ids)
        return Cut(count, most, source.carries_contract or (room is not None and most >= room))

    def encode_poolings(self, texts: Sequence[str], prompt: PromptName, max_tokens: int) -> dict[Pooling, Vectors]:
        """Return the vectors [N, D] of texts by every pooling, from one pass.

        Attention is causal, so the prompt that follows a text does not change the text's hidden states: ``mean`` equals
        what an encoder with ``pooling="mean"`` gives.

        Raises:
            ConfigError: The prompt is unknown, or ``max_tokens`` must be a whole number above 0.
            DataError: An item is not a text.
        """
        if prompt not in self.contract.ids.suffixes:
            raise ConfigError(f"unknown prompt {prompt!r}; choose one of {', '.join(self.contract.ids.suffixes)}")
        max_tokens = checked_tokens("max_tokens", max_tokens)
        poolings: tuple[Pooling, ...] = ("slots", "mean")
        plain = texts_of(texts)
        found: dict[Pooling, Vectors] = {name: np.empty((len(plain), self.dimension), np.float32) for name in poolings}
        for rows, vectors in self._batches(plain, prompt, max_tokens, poolings):
            for name, part in vectors.items():
                found[name][rows] = part
        return found

    def reading(self, side: Side) -> tuple[PromptName | None, int]:
        """Return the prompt that follows the texts of a side, None with ``pooling=mean``, and their most tokens."""
        return self.contract.encoder.reading(side)

    def _encode(self, items: Any, side: Side, show_progress: bool = False, *, short: bool = False) -> Vectors:
        """Embed one item or several; with ``short``, a few texts may be read with packed weights."""
        single = isinstance(items, str | Query | Passage)
        texts, pooling = texts_of([items] if single else items), self.contract.encoder.pooling
        found = np.empty((len(texts), self.dimension), dtype=np.float32)
        with ProgressReporter("encoding", "text") if show_progress else nullcontext() as progress:
            if progress:
                progress.start(len(texts))
            for rows, vectors in self._batches(texts, *self.reading(side), (pooling,), short=short):
                found[rows] = vectors[pooling]
                if progress:
                    progress.advance(len(rows))
        return found[0] if single else found

    @torch.inference_mode()
    def _batches(
        self,
        texts: list[str],
        prompt: PromptName | None,
        max_tokens: int,
        poolings: Sequence[Pooling],
        skip: Sequence[bool] | None = None,
        *,
        short: bool = False,
    ) -> Iterator[tuple[list[int], dict[Pooling, Vectors]]]:
        """Yield places and vectors; texts are tokenized chunk by chunk, so that memory does not grow with them."""
        device, settings, ids = self.backbone.model.device, self.contract.encoder, self.contract.ids
        start, compiled = 0, None
        for chunk in chunks(texts, _CHUNK):
            sequences = prompted_texts(self.backbone.tokenizer, chunk, ids, prompt, max_tokens)
            tokens = sum(map(len, sequences)) / len(chunk)
            if compiled is None:
                compiled = self._reading.is_on(len(texts), tokens * len(texts))
                short = short and not compiled and self.short_reading.is_on(len(texts) * max(map(len, sequences)))
            cells = self._cells(compiled=compiled, tokens=tokens)
            for batch in padded_batches(
                sequences, cells, self.pad_id, boundary=self.backbone.rotary_boundary,
                equal_lengths=self.backbone.padding_changes_vectors,
            ):  # fmt: skip
                rows = [start + row for row in batch.rows]
                if skip is not None and all(skip[row] for row in rows):
                    continue
                states = self.short_reading.states if short else partial(self._reading.states, compiled=compiled)
                hidden = states(batch.input_ids.to(device), settings.layers)
                lengths = batch.lengths.to(device)
                vectors = {name: unit_vectors(hidden, lengths, ids, name, prompt) for name in poolings}
                for part in vectors.values():
                    check_finite(part, rows, self.backbone.source.name, self.dtype)
                yield rows, vectors
            start += len(chunk)

    @property
    def pad_id(self) -> int:
        """What fills a batch after its shorter rows; no slot sees it."""
        return self.backbone.tokenizer.eos_token_id or 0

    def golden(self) -> Golden:
        """Embed the golden texts, each by itself, so that no padding stands next to any of them."""
        vectors: dict[Side, Vectors] = {
            "query": np.stack([self._encode(text, "query") for text in GOLDEN_TEXTS]),
            "passage": np.stack([self._encode(text, "passage") for text in GOLDEN_TEXTS]),
        }
        layers = int(self.backbone.model.config.get_text_config().num_hidden_layers)
        tolerance = default_tolerance(self.dtype, self.dimension, layers)
        return Golden(GOLDEN_TEXTS, vectors, self.contract_hash, self.dtype, tolerance)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Save weights, tokenizer and contract as one transformers folder, whole or not at all, and keep other files.

        Raises:
            OutputExistsError: The folder holds a model, and ``overwrite`` is false, or a file is in its place.
            DataError: The folder cannot be written.
            ContractError: The prompt repeats the text, which other programs cannot do.
        """
        folder = Path(folder)
        if self.contract.ids.repeat is not None:
            raise ContractError(
                f"{folder}: no other program repeats a text as these prompts do, so this encoder cannot be saved; "
                "choose other prompts"
            )
        if (folder / "config.json").exists() and not overwrite:
            raise OutputExistsError(f"{folder}: holds a model already; pass overwrite=True (--overwrite) to replace it")
        if folder.exists() and not folder.is_dir():
            raise OutputExistsError(f"{folder}: a file; give a folder, or remove it")
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
        try:
            self._save_model(partial)
            self.contract = replace(self.contract, dtype=self.dtype).of_files(ModelSource(str(folder), str(partial)))
            self.contract.save(partial)
            save_golden(self.golden(), partial)
            add_public_files(partial, folder, self.backbone.source.name)
            apply_umask(partial)
            (folder / "chat_template.jinja").unlink(missing_ok=True)
            # Shards of the model that is replaced, or its low-rank difference, would count as weights of this one, its
            # pooling as that of this one.
            shards = (*folder.glob("model*.safetensors"), folder / "model.safetensors.index.json")
            compact = COMPACT_FILES if (folder / COMPACT_FILE).exists() else ()
            for old in (*shards, *(folder / name for name in (*compact, *PUBLIC_FILES))):
                if not (partial / old.relative_to(folder)).exists():
                    old.unlink(missing_ok=True)
            # config.json last: it is what makes the folder a model.
            made = [path for path in partial.rglob("*") if path.is_file()]
            for file in sorted(made, key=lambda path: path == partial / "config.json"):
                place = folder / file.relative_to(partial)
                place.parent.mkdir(exist_ok=True)
                file.replace(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self.backbone.source = resolve_model(str(folder))
        return folder

    def _save_model(self, folder: Path) -> None:
        model, tokenizer = self.backbone.model, self.backbone.tokenizer
        with quiet_transformers():
            model.save_pretrained(folder, state_dict=weights_to_save(model, self.backbone.missing_head))
            # An encoder does not chat: with a template sentence-transformers wraps every text in a conversation.
            tokenizer.chat_template = None
            tokenizer.save_pretrained(folder)
        if self.contract.encoder.servable:
            put_prompt_into_tokenizer(folder, tokenizer, self.contract)
