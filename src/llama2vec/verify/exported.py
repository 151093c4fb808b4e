"""An exported encoder, compared with the encoder itself in float32: more texts, and every way of batching them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from llama2vec.config import ModelSettings
from llama2vec.errors import BackendError
from llama2vec.model.golden import Golden, read_golden
from llama2vec.model.local import fetched
from llama2vec.model.publish.exporting import Export, OnnxExport, Runtime
from llama2vec.model.publish.gguf_file import GGUF_FILE
from llama2vec.model.source import EXPORT_FILE
from llama2vec.records import Side, Vectors
from llama2vec.verify.backends import Backend

_TOLERANCE = 1e-3
# What 8-bit weights did to the golden texts says how far other texts may be off.
_ROOM_FOR_OTHER_TEXTS = 3.0
# Where it is not known what they did: rounding of weights of unit vectors as wide as small models' are.
_OF_WEIGHTS = {"float16": 5e-3, "int8": 5e-2}
_DRAWN, _LONGEST = 18, 90
_SENT_AS_TEXT = "what your client sends: the texts were cut at the contract's limits and sent with the prompt"


def open_exported(runtime: Runtime, folder: Path) -> tuple[Path, Golden, Backend]:
    """Open an export and the encoder that it was made from.

    Returns:
        The encoder's folder; its vectors in float32, of the golden texts and of drawn ones; the export as a backend.

    Raises:
        ConfigError: The folder holds no export for this runtime.
        BackendError: The encoder was saved again since.
    """
    export = Export.read(folder, runtime)
    from llama2vec.model.encoder import Encoder

    missing = f"it is the encoder that {folder / EXPORT_FILE} names: put it back, or export it again"
    source = fetched(export.encoder.source(missing))
    encoder = Encoder.from_spec(export.encoder, ModelSettings(dtype="float32", device="cpu"), source)
    home = Path(encoder.backbone.source.location)
    if encoder.contract_hash != export.contract:
        raise BackendError(f"{folder}: {home} was saved again after it was exported; export it again")
    golden = read_golden(home)
    texts = (*golden.texts, *drawn_texts(golden.texts))
    vectors: dict[Side, Vectors] = {
        "query": encoder.encode_queries(texts),
        "passage": encoder.encode_passages(texts),
    }
    expected = replace(golden, texts=texts, vectors=vectors, dtype="float32", tolerance=_tolerance(export))
    if runtime == "llama.cpp":
        eos = str(encoder.backbone.tokenizer.eos_token)
        from llama2vec.verify.llama_cpp import LlamaCpp

        server = LlamaCpp(folder / GGUF_FILE, home, encoder.contract, eos)
        return home, expected, Backend(runtime, server.embed, live=False, unchecked=(_SENT_AS_TEXT,))
    exported = OnnxExport(folder)

    def embed(side: Side, asked: object) -> Vectors:
        """Return the vectors of the way of batching that is furthest off."""
        ways = exported.embed_every_way(side, texts)
        return max(ways.values(), key=lambda given: np.nan_to_num(np.abs(given - vectors[side]).max(), nan=np.inf))

    return home, expected, Backend(runtime, embed, live=False)


def _tolerance(export: Export) -> float:
    if export.quantize == "none":
        return _TOLERANCE
    if export.difference is None:
        return _OF_WEIGHTS[export.quantize]
    return max(_TOLERANCE, _ROOM_FOR_OTHER_TEXTS * export.difference)


def drawn_texts(texts: tuple[str, ...]) -> list[str]:
    """Return texts of 1 to 90 words of the given ones, always the same."""
    draw, words = np.random.default_rng(0), " ".join(texts).split()
    lengths = np.geomspace(1, _LONGEST, _DRAWN).round().astype(int)
    return [" ".join(draw.choice(words, size)) for size in lengths]
