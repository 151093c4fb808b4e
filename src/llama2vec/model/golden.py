"""Golden vectors: a saved model's vectors of a few fixed texts, kept next to its contract.

The contract says how to compute a vector; golden vectors say which vector that gives. Any program that claims to read
the model can be compared with them (``llama2vec verify``), without llama2vec installed.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from llama2vec.artifact import read_object
from llama2vec.errors import ContractError, GoldenVectorsError
from llama2vec.files import write_atomic, write_json
from llama2vec.manifest import digest
from llama2vec.model.contract import CONTRACT_FILE, Contract, load_contract
from llama2vec.model.tokenizer import load_model_config, load_tokenizer
from llama2vec.records import SIDES, Side, Vectors

GOLDEN_FILE = "golden.json"
# Not a safetensors file: inference servers read every *.safetensors of a folder as weights, and so do our fingerprints.
GOLDEN_VECTORS = "golden.npy"
_FORMAT = 1

UNIT_ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""16-bit number format → the largest relative error of rounding a number to it; the finer one first."""

_FLOAT32_TOLERANCE = 1e-5
_ROUNDINGS = 16.0

# Each is known to go wrong somewhere: a question, a sentence, a text beyond 128 tokens, letters beyond ASCII,
# line breaks and white space at the end, a single word. An empty text would be refused by many servers.
GOLDEN_TEXTS: tuple[str, ...] = (
    "How do bees find their way back to the hive?",
    "The bridge was opened to traffic in 1932, after eight years of construction.",
    "A lighthouse keeper on the northern coast kept a diary for forty years. Every evening he wrote down the wind, the "
    "height of the waves and the number of ships that passed. In winter, when no ship came for weeks, he described the "
    "birds that rested on the railing: gulls, guillemots and, once, a snowy owl that stayed for nine days. When the "
    "light was made automatic, he gave the eleven volumes to the town library, where a young biologist found them much "
    "later. She counted the birds, compared them with the temperature of the sea, and showed that several species had "
    "moved two hundred kilometres to the north. The diary is now read by people who study the climate, and the railing "
    "of the lighthouse, repaired twice since then, still serves the gulls.",
    "Le café de la gare est fermé; 東京は日本の首都です。 Привет, мир! 10 €",
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n",
    "lighthouse",
)


@dataclass(frozen=True, slots=True)
class Golden:
    """Golden vectors with their texts and contract."""

    texts: tuple[str, ...]  # N texts.
    vectors: Mapping[Side, Vectors]  # Side → [N, D] unit vectors, float32.
    contract_hash: str
    dtype: str  # Number format they were computed in.
    tolerance: float  # Largest difference of a number that counts as the same vector.

    @property
    def dimension(self) -> int:
        """D, the width of a vector."""
        return int(self.vectors["query"].shape[1])


def default_tolerance(dtype: str, dimension: int, layers: int) -> float:
    """Return how far a number of a unit vector [D] may move between two correct computations.

    In float32 kernels differ in the order of their sums: 1e-5. In a 16-bit format each layer rounds the residual stream
    and the branches added to it. Independent roundings of relative size u (the format's unit roundoff) add up to
    u·√(roundings), a number of a unit vector is about 1/√D, and the largest of thousands of differences is about four
    times the usual one: together 16·u·√(layers/D), which leaves room above what was measured (docs/contract.md).

    >>> default_tolerance("float32", 576, 30), default_tolerance("bfloat16", 576, 30)
    (1e-05, 0.014264)
    """
    if dtype not in UNIT_ROUNDOFF:
        return _FLOAT32_TOLERANCE
    return round(_ROUNDINGS * UNIT_ROUNDOFF[dtype] * math.sqrt(layers / dimension), 6)


def save_golden(golden: Golden, folder: Path) -> None:
    """Write ``golden.npy`` [2, N, D] (queries, then passages) and, last, ``golden.json``."""
    buffer = io.BytesIO()
    np.save(buffer, np.stack([golden.vectors[side] for side in SIDES]).astype(np.float32), allow_pickle=False)
    facts = {
        "format": _FORMAT,
        "contract": golden.contract_hash,
        "dtype": golden.dtype,
        "tolerance": golden.tolerance,
        "sides": list(SIDES),
        "texts": list(golden.texts),
        "vectors": {"file": GOLDEN_VECTORS, "sha256": sha256(buffer.getvalue()).hexdigest()},
    }
    write_atomic(folder / GOLDEN_VECTORS, buffer.getvalue(), sweep=True)
    write_json(folder / GOLDEN_FILE, {**facts, "hash": digest(facts)}, sweep=True)


def load_golden(folder: Path, contract_hash: str) -> Golden:
    """Read the golden vectors of a saved model.

    Raises:
        GoldenVectorsError: They are missing, were edited, or belong to another contract than ``contract_hash``.
    """
    path = folder / GOLDEN_FILE
    if not path.is_file():
        why = (
            "saved by sentence-transformers, which writes none"
            if _saved_by_sentence_transformers(folder)
            else "the model was saved before golden vectors were, or the file was removed"
        )
        raise GoldenVectorsError(
            f"{folder}: no {GOLDEN_FILE}: {why}; run `llama2vec verify {folder} --write`, which makes them once our "
            "encoder and plain transformers agree"
        )
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        saved = facts.pop("hash")
        content = (folder / GOLDEN_VECTORS).read_bytes()
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise _fault(path, f"cannot be read as golden vectors ({error})") from None
    if digest(facts) != saved:
        raise _fault(path, "does not match its hash: it was edited by hand")
    if facts.get("format") != _FORMAT or facts.get("sides") != list(SIDES):
        raise _fault(path, f"golden format {facts.get('format')} is not {_FORMAT}")
    if facts["contract"] != contract_hash:
        raise _fault(path, f"made for contract {facts['contract'][:12]}…, and the model's is {contract_hash[:12]}…")
    if sha256(content).hexdigest() != facts["vectors"]["sha256"]:
        raise _fault(folder / GOLDEN_VECTORS, f"not the vectors that {GOLDEN_FILE} names: damaged or edited")
    stacked: Vectors = np.load(io.BytesIO(content), allow_pickle=False)
    texts = tuple(facts["texts"])
    if stacked.ndim != 3 or stacked.shape[:2] != (len(SIDES), len(texts)):
        raise _fault(path, f"{len(texts)} texts on {len(SIDES)} sides, but vectors of shape {list(stacked.shape)}")
    vectors = dict(zip(SIDES, stacked, strict=True))
    return Golden(texts, vectors, contract_hash, facts["dtype"], float(facts["tolerance"]))


def _saved_by_sentence_transformers(folder: Path) -> bool:
    # It notes the versions that saved a model; llama2vec leaves them out.
    return "__version__" in (read_object(folder / "config_sentence_transformers.json") or {})


def _fault(path: Path, what: str) -> GoldenVectorsError:
    return GoldenVectorsError(f"{path}: {what}; restore it, or make new ones with --write --overwrite")


def read_golden(folder: Path) -> Golden:
    """Read the golden vectors of a saved model, after checking its contract against its hash and tokenizer.

    Their tolerance is at least what today's rule gives: models saved earlier carry a smaller one for 16-bit formats.

    Raises:
        ContractError: No saved encoder, or its contract does not hold.
        GoldenVectorsError: Golden vectors are missing or damaged.
    """
    golden = load_golden(folder, checked_contract(folder).hash)
    layers = int(load_model_config(str(folder)).get_text_config().num_hidden_layers)
    usual = default_tolerance(golden.dtype, golden.dimension, layers)
    return replace(golden, tolerance=max(golden.tolerance, usual))


def checked_contract(folder: Path) -> Contract:
    """Read the contract of a saved model; a ContractError where there is none, or it does not fit the tokenizer."""
    if not (folder / CONTRACT_FILE).is_file():
        raise ContractError(
            f"{folder}: no {CONTRACT_FILE}; verify needs the folder of a model that llama2vec saved "
            "(download one from a hub first)"
        )
    return load_contract(folder, load_tokenizer(str(folder)))
