"""A saved encoder in the file format of another runtime, with a tokenizer that adds the prompts."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tokenizers import Tokenizer as TokenizerFile

from llama2vec.artifact import Work, claim, folder_kind, read_object
from llama2vec.config import ModelSettings
from llama2vec.errors import ConfigError, ModelError, one_line
from llama2vec.files import apply_umask, write_atomic, write_json
from llama2vec.model.golden import GOLDEN_TEXTS
from llama2vec.model.loading import quiet_transformers
from llama2vec.model.local import fetched
from llama2vec.model.publish.gguf_file import GGUF_FILE, write_gguf
from llama2vec.model.publish.prompted_tokenizer import (
    TOKENIZER_FILE,
    prompted_tokenizer,
    put_prompt_into_tokenizer,
    reads_sides_alike,
    surroundings,
    with_limits,
)
from llama2vec.model.source import CONTRACT_FILE, EXPORT_FILE, ModelSpec, resolve_model
from llama2vec.records import SIDES, Side, Vectors

if TYPE_CHECKING:
    from llama2vec.model.encoder import Encoder

logger = logging.getLogger(__name__)

Runtime = Literal["onnx", "llama.cpp"]
Quantization = Literal["none", "float16", "int8"]
QUANTIZATIONS: dict[Runtime, tuple[Quantization, ...]] = {
    "onnx": ("none", "int8"),
    "llama.cpp": ("none", "float16", "int8"),
}
"""What each runtime's file can hold weights in; ``none`` is float32."""
_HOW_TO_EXPORT = {
    "onnx": "give a folder that `llama2vec export --to onnx` wrote",
    "llama.cpp": "give a folder that `llama2vec export --to gguf` wrote",
}
QUERY_TOKENIZER = "query_tokenizer.json"
_FORMAT = {"format": "llama2vec-export", "version": 1}
_FLOAT32 = ModelSettings(dtype="float32", device="cpu")


@dataclass(frozen=True, slots=True)
class Export:
    """What an exported folder says of itself."""

    contract: str  # Hash of the encoder's contract
    encoder: ModelSpec  # Where the encoder is
    quantize: Quantization
    cosine: float | None  # Smallest cosine to the encoder's vectors on the golden texts; None = not compared yet
    difference: float | None  # Largest difference of a number there
    megabytes: float  # Size of all files

    @classmethod
    def read(cls, folder: Path, runtime: str) -> Export:
        """Read a folder; raise a ConfigError if it holds no export for this runtime."""
        facts = read_object(folder / EXPORT_FILE) or {}
        if facts.get("format") != _FORMAT["format"]:
            raise ConfigError(f"{folder}: no export for {runtime}; {_HOW_TO_EXPORT[runtime]}")
        made_for = facts.get("made", {}).get("runtime")
        if made_for != runtime:
            other = f"it is one for {made_for}, which --backend {made_for} checks"
            raise ConfigError(f"{folder}: no export for {runtime} ({other}); {_HOW_TO_EXPORT[runtime]}")
        try:
            return cls(
                contract=str(facts["made"]["model"]),
                encoder=ModelSpec.model_validate(facts["model"]).beside(folder),
                quantize=facts["made"]["quantize"],
                cosine=facts["cosine"],
                difference=facts["difference"],
                megabytes=sum(path.stat().st_size for path in folder.iterdir()) / 1e6,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{folder / EXPORT_FILE}: damaged ({type(error).__name__}); export it again") from error


EXPORT = folder_kind(
    "an exported encoder", EXPORT_FILE, _FORMAT,
    entries=(
        EXPORT_FILE, CONTRACT_FILE, "model.onnx*", GGUF_FILE, QUERY_TOKENIZER, "tokenizer*", "special_tokens_map.json",
        "added_tokens.json", "vocab*", "merges.txt", "*.model", "dict.txt",
    ),
)  # fmt: skip


def export_encoder(
    model: str | Path,
    output: str | Path,
    *,
    runtime: Runtime = "onnx",
    quantize: Quantization = "none",
    overwrite: bool = False,
) -> Export:
    """Write a saved encoder for another runtime.

    ``onnx``: a graph that holds all of the contract after tokenization. Beside it, ``tokenizer.json`` adds the prompt,
    cuts and pads by itself. Where queries are read in another way than passages, ``query_tokenizer.json`` reads them.
    ``llama.cpp``: one GGUF file with weights, tokenizer and pooling, for models that llama.cpp can pool.

    Args:
        model: A saved encoder.
        output: The folder to write.
        runtime: What will read it.
        quantize: Number format of the weights; ``none`` = float32.
        overwrite: Replace an export in ``output``.

    Raises:
        ConfigError: The runtime has no such number format.
        ModelError: The model has no contract, or cannot be exported.
        OutputExistsError: ``output`` holds something else.
    """
    if quantize not in QUANTIZATIONS[runtime]:
        raise ConfigError(f"--quantize {quantize}: {runtime} takes {', '.join(QUANTIZATIONS[runtime])}")
    encoder = _saved_encoder(model)
    made = {"model": encoder.contract_hash, "runtime": runtime, "quantize": quantize}
    with claim(Path(output), EXPORT, made, overwrite=overwrite, inputs=[str(model)]) as work:
        if not work.is_finished:
            _write(encoder, work, Path(output), made)
    return Export.read(Path(output), runtime)


def _saved_encoder(model: str | Path) -> Encoder:
    source = fetched(resolve_model(str(model)))
    if not source.carries_contract:
        raise ModelError(f"{model}: has no {CONTRACT_FILE}; give an encoder that llama2vec saved")
    from llama2vec.model.encoder import Encoder

    return Encoder.from_spec(ModelSpec.of_source(source), _FLOAT32, source)


def _write(encoder: Encoder, work: Work, output: Path, made: dict[str, Any]) -> None:
    """Write the folder, and take the vectors of the golden texts from an ONNX graph that was written."""
    folder = work.begin()
    encoder.contract.save(folder)
    facts: dict[str, Any] = {**_FORMAT, "made": made, "model": encoder.spec.to_json(output)}
    if made["runtime"] == "onnx":
        from llama2vec.model.publish.onnx_file import ONNX_FILE, quantize_onnx, write_onnx

        _write_tokenizers(encoder, folder)
        logger.info("writing the graph and its weights to %s", ONNX_FILE)
        write_onnx(encoder, folder)
        if made["quantize"] == "int8":
            logger.info("rounding the weights to int8")
            quantize_onnx(folder)
        logger.info("comparing its vectors with the encoder's")
        facts |= _comparison(encoder, OnnxExport(folder))
    else:
        logger.info("writing the weights to %s", GGUF_FILE)
        write_gguf(encoder, folder / GGUF_FILE, made["quantize"])
        facts |= {"cosine": None, "difference": None}
    write_json(folder / EXPORT_FILE, facts)
    apply_umask(folder)
    work.finish()


def _write_tokenizers(encoder: Encoder, folder: Path) -> None:
    tokenizer, contract = encoder.backbone.tokenizer, encoder.contract
    with quiet_transformers():
        tokenizer.chat_template = None
        tokenizer.save_pretrained(folder)
    put_prompt_into_tokenizer(folder, tokenizer, contract)
    files: dict[Side, str] = {"passage": TOKENIZER_FILE}
    if not reads_sides_alike(contract):
        files["query"] = QUERY_TOKENIZER
    pad_token = str(tokenizer.convert_ids_to_tokens(encoder.pad_id))
    for side, name in files.items():
        around = sum(map(len, surroundings(contract, side)))
        most = getattr(contract.encoder, f"{side}_max_tokens") + around
        content = with_limits(prompted_tokenizer(tokenizer, contract, side), most, encoder.pad_id, pad_token)
        write_atomic(folder / name, json.dumps(content, ensure_ascii=False).encode())


def _comparison(encoder: Encoder, exported: OnnxExport) -> dict[str, float]:
    expected = np.concatenate([encoder.encode_queries(GOLDEN_TEXTS), encoder.encode_passages(GOLDEN_TEXTS)])
    given = np.concatenate([exported.embed(side, GOLDEN_TEXTS) for side in SIDES])
    cosines = (expected * given).sum(axis=1)
    return {"cosine": float(cosines.min()), "difference": float(np.abs(expected - given).max())}


class OnnxExport:
    """An exported folder, read with its own files alone.

    Raises:
        ModelError: Its graph or a tokenizer cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        from llama2vec.model.publish.onnx_file import ONNX_FILE, OnnxModel

        self._model = OnnxModel(folder / ONNX_FILE)
        own = folder / QUERY_TOKENIZER
        paths: dict[Side, Path] = {"passage": folder / TOKENIZER_FILE}
        paths["query"] = own if own.is_file() else paths["passage"]
        try:
            self._tokenizers = {side: TokenizerFile.from_file(str(path)) for side, path in paths.items()}
            self._pad_id = int((self._tokenizers["passage"].padding or {})["pad_id"])
        # The tokenizers library raises plain exceptions.
        except Exception as error:
            raise ModelError(f"{folder}: its tokenizer cannot be read ({one_line(error)}); export it again") from None

    def embed(self, side: Side, texts: Sequence[str], *, left: bool = False) -> Vectors:
        """Return the vectors [N, D] of texts, read as one batch with padding on one side."""
        tokenizer = self._tokenizers[side]
        rows = [
            [token for token, real in zip(one.ids, one.attention_mask, strict=True) if real]
            for one in tokenizer.encode_batch(list(texts))
        ]
        return self._model.embed(rows, pad_id=self._pad_id, left=left)

    def embed_every_way(self, side: Side, texts: Sequence[str]) -> dict[str, Vectors]:
        """Return the vectors by how the texts were batched: all at once, padded on the left, and one by one."""
        alone = [self.embed(side, [text]) for text in texts]
        return {
            "padding on the right": self.embed(side, texts),
            "padding on the left": self.embed(side, texts, left=True),
            "one by one": np.concatenate(alone),
        }
