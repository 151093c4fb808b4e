"""A query reader: what reading a question takes of an encoder, in files that open at once and without transformers.

The merged bfloat16 weights lie in the layout of :class:`PlainDecoder` and are mapped into memory, so that a search from
the shell waits neither for transformers nor for the loading of a model. The vectors are those that the encoder gives
from its second question on (:mod:`short_reading`), to the last bit.

A folder holds ``reader.json`` (written last: plan, contract, facts and checksum), ``reader.safetensors`` and
``tokenizer.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama2vec.artifact import Found, Kind, read_object
from llama2vec.errors import ContractError
from llama2vec.files import write_atomic, write_json
from llama2vec.manifest import sealed, unsealed
from llama2vec.model.batching import padded_batches
from llama2vec.model.contract import Contract, parse_contract
from llama2vec.model.pooling import check_finite, unit_vectors
from llama2vec.model.prompt import count_longer, prompted_texts
from llama2vec.model.source import weights_fingerprint
from llama2vec.model.speed.plain_decoder import LayerFacts, Norm, PlainDecoder, PlainLayer
from llama2vec.records import Vectors

READER_FILE, WEIGHTS_FILE, TOKENIZER_FILE = "reader.json", "reader.safetensors", "tokenizer.json"
FORMAT = {"format": "llama2vec-query-reader", "version": 2}


def _found(folder: Path) -> Found | None:
    facts = reader_facts(folder)
    return None if facts is None else Found(facts["plan"], finished=True)


READER = Kind("a query reader", _found, resumable=False, entries=(READER_FILE, WEIGHTS_FILE, TOKENIZER_FILE))


def reader_facts(folder: Path) -> dict[str, Any] | None:
    """Return what ``reader.json`` says; None if the reader is missing, or the file was changed."""
    facts = unsealed(read_object(folder / READER_FILE) or {})
    return facts if facts and facts.get("format") == FORMAT["format"] and "plan" in facts else None


class QueryReader:
    """Encodes a few short texts as queries, as its encoder does.

    Args:
        decoder: The model below its head.
        tokenizer: A ``tokenizers.Tokenizer``.
        contract: That of the encoder.
        facts: ``model`` (its name for messages), ``eos`` and ``pad`` (token ids); ``boundary`` and ``equal_lengths``
            are those of :func:`padded_batches`.
    """

    def __init__(self, decoder: PlainDecoder, tokenizer: Any, contract: Contract, facts: Mapping[str, Any]) -> None:
        self._decoder, self._contract, self._facts = decoder, contract, facts
        self._tokenizer = _CalledTokenizer(tokenizer, facts["eos"])
        self._reads = False
        self.contract_hash = contract.hash

    @classmethod
    def open(cls, folder: Path) -> QueryReader | None:
        """Open a reader; None where there is none, or a damaged one."""
        facts = reader_facts(folder)
        if facts is None or "refused" in facts:
            return None
        files = [folder / WEIGHTS_FILE, folder / TOKENIZER_FILE]
        try:
            if weights_fingerprint(files) != facts["files"]:
                return None
            from safetensors import safe_open
            from tokenizers import Tokenizer

            with safe_open(files[0], framework="pt") as weights:
                tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118 (no mapping)
            decoder = _decoder(tensors, facts["layers"])
            contract = parse_contract(folder / READER_FILE, facts["contract"])
            return cls(decoder, Tokenizer.from_file(str(files[1])), contract, facts["reading"])
        except (OSError, KeyError, TypeError, ValueError, ContractError):
            return None

    def count_cut(self, texts: Sequence[str]) -> int:
        """Return how many texts have more than the :attr:`most_tokens` that are read of each."""
        return count_longer(self._tokenizer, texts, self.most_tokens)

    @property
    def most_tokens(self) -> int:
        """Most tokens that are read of a query."""
        return self._contract.encoder.query_max_tokens

    @torch.inference_mode()
    def vectors(self, texts: Sequence[str]) -> Vectors | None:
        """Return the unit vectors [N, D] of N texts as queries, float32; None for more than the reader reads at once.

        Raises:
            ModelError: A vector is not finite.
        """
        settings, ids = self._contract.encoder, self._contract.ids
        prompt, _ = settings.reading("query")
        most, width = self._decoder.tables[0].shape[1], self._decoder.embedding.shape[1]
        if len(texts) > most:
            return None
        found = np.empty((len(texts), width), dtype=np.float32)
        sequences = prompted_texts(self._tokenizer, texts, ids, prompt, self.most_tokens) if texts else []
        if len(texts) * max(map(len, sequences), default=0) > most:
            return None
        if self._reads:  # Packing pays from the second question on.
            self._decoder.pack()
        self._reads = True
        facts = self._facts
        for batch in padded_batches(
            sequences, most, facts["pad"], boundary=facts["boundary"], equal_lengths=facts["equal_lengths"]
        ):
            hidden = self._decoder.states(batch.input_ids, settings.layers)
            vectors = unit_vectors(hidden, batch.lengths, ids, settings.pooling, prompt)
            check_finite(vectors, batch.rows, facts["model"], "bfloat16")
            found[batch.rows] = vectors
        return found


def write_reader(folder: Path, plan: Mapping[str, Any], encoder: Any) -> str | None:
    """Write the reader of an encoder into an empty folder; return why there can be none, None if there is one.

    A reason is written too, so that the next search need not ask again.
    """
    backbone, parts = encoder.backbone, encoder.short_reading.parts()
    refused = None if backbone.tokenizer.is_fast else "its tokenizer is a slow one"
    if parts is None:
        refused = "it is not read by packed layers of Llama's plan"
    content: dict[str, Any] = {**FORMAT, "plan": dict(plan)}
    if parts is None or refused:
        write_json(folder / READER_FILE, sealed({**content, "refused": refused}))
        return refused
    from safetensors.torch import save_file

    tensors, layers = parts
    files = [folder / WEIGHTS_FILE, folder / TOKENIZER_FILE]
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, files[0])
    write_atomic(files[1], backbone.tokenizer.backend_tokenizer.to_str().encode())
    reading = {
        "model": backbone.source.name,
        "eos": backbone.tokenizer.eos_token_id,
        "pad": encoder.pad_id,
        "boundary": backbone.rotary_boundary,
        "equal_lengths": backbone.padding_changes_vectors,
    }
    content |= {"files": weights_fingerprint(files), "layers": layers, "reading": reading}
    write_json(folder / READER_FILE, sealed({**content, "contract": encoder.contract.to_dict()}))
    return None


def _decoder(tensors: Mapping[str, torch.Tensor], facts: Sequence[Mapping[str, Any]]) -> PlainDecoder:
    """Make a decoder of what :func:`decoder_parts` returned."""
    layers = []
    for number, layer in enumerate(facts[:-1]):
        start = f"{number}."
        own = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
        layers.append(PlainLayer(own, LayerFacts(**layer)))
    norm = Norm(tensors["norm"], facts[-1]["epsilon"])
    return PlainDecoder(tensors["embedding"], layers, norm, (tensors["cos"], tensors["sin"]))


class _CalledTokenizer:
    """A ``tokenizers.Tokenizer``, called as transformers' tokenizers are."""

    is_fast = True

    def __init__(self, backend: Any, eos_token_id: int | None) -> None:
        self.backend_tokenizer, self.eos_token_id = backend, eos_token_id
        backend.no_padding()
        backend.no_truncation()

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        """Return the ids of texts, whole and without special tokens."""
        read = self.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        return {"input_ids": [one.ids for one in read]}
