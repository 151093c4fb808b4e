"""Shared by the recipes: their options, a few texts, and the check against the encoder's own vectors.

When a model moves, the usual fault is a vector that changes silently, so every recipe ends in :func:`hold_against`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llama2vec import Encoder, Passage, read_passages
from llama2vec.config import ModelSettings
from llama2vec.model.golden import default_tolerance

QUESTION = "Which animal carries loads in the Andes?"
PASSAGES = [
    Passage("llama", "The llama is a domesticated camelid that carries loads over the passes of the Andes.", "Llama"),
    Passage("alpaca", "The alpaca is smaller than the llama and is bred for its wool.", "Alpaca"),
    Passage("faiss", "An index holds vectors;\na search finds the nearest.\n\n    index.search(queries, 10)\n"),
    Passage("bridge", "The bridge was opened to traffic in 1932, after eight years of construction."),
    Passage("gare", "Le café de la gare est fermé le lundi; 東京は日本の首都です。"),
]


def options(description: str | None) -> argparse.ArgumentParser:
    """Return the options that all recipes have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a saved encoder")
    parser.add_argument("--corpus", help="JSONL, TSV, a BEIR folder …; default: five short texts")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest difference from the encoder's vectors; default: that of the number format",
    )
    return parser


def read_corpus(source: str | None) -> list[Passage]:
    """Read the passages; the encoder reads their ``full_text``, title and text joined."""
    return list(read_passages(source)) if source else PASSAGES


def load_encoder(model: str, dtype: str = "float32") -> Encoder:
    """Load the encoder, in float32 like the recipes' other programs, or as `llama2vec encode` does ("auto")."""
    return Encoder.load(model, settings=ModelSettings.model_validate({"dtype": dtype}))


def hold_against(
    encoder: Encoder,
    tolerance: float | None,
    question: str,
    asked: npt.ArrayLike,
    texts: Sequence[str],
    found: npt.ArrayLike,
) -> None:
    """Print how far a stack's vectors are from the encoder's, and exit with code 1 if that is too far.

    Args:
        encoder: The reference.
        tolerance: Largest difference of a number that passes; None = that of the encoder's number format.
        question: What the stack embedded as a query.
        asked: [D] the stack's vector for it.
        texts: N texts that the stack embedded as passages.
        found: [N, D] the stack's vectors for them.
    """
    model = encoder.backbone.model
    if tolerance is None:
        dtype = str(model.dtype).removeprefix("torch.")
        tolerance = default_tolerance(dtype, encoder.dimension, model.config.get_text_config().num_hidden_layers)
    sides = {
        "query": (encoder.encode_queries([question]), np.asarray(asked)[None]),
        "passages": (encoder.encode_passages(list(texts)), np.asarray(found)),
    }
    for side, (expected, given) in sides.items():
        gap = float(np.abs(expected - given).max()) if expected.shape == given.shape else float("inf")
        print(f"largest difference from the encoder, {side}: {gap:.1e}")
        if not gap <= tolerance:  # also true for a NaN
            raise SystemExit(
                f"these are not the encoder's vectors: {side} differ by {gap:.1e}, more than {tolerance:g}"
            )
