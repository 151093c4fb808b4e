"""Which vector of an adapted model? The last layer or the mean of several, with and without their common directions.

    python benchmarks/isotropy.py --data ../shared/data --models runs/adapted --output benchmarks/results/isotropy.json

Every model is read once. A vector is the mean of the last 1, 2, 4 or 8 layers' states at the slot, each at unit length;
from it go nothing (``plain``), the mean (``centred``), or the mean and the 5 or 12 largest principal components of 400
sentences of data/wiki (``5 out``, ``12 out``); none of the scored texts is used for that. Scores: Spearman on STS-B
dev, and nDCG@10 on the half of Cranfield that variants.py describes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from variants import (
    PASSAGE_TOKENS,
    QUERY_TOKENS,
    half_of_cranfield,
    retrieval,
    similarity,
    unit,
    wiki_sentences,
)

from llama2vec.data.sts import read_sentence_pairs
from llama2vec.files import write_json
from llama2vec.manifest import code_version, machine, versions
from llama2vec.model.backbone import decoder
from llama2vec.model.batching import token_budget_batches
from llama2vec.model.common_directions import CommonDirections
from llama2vec.model.encoder import Encoder
from llama2vec.model.pooling import last_hidden_states, pool
from llama2vec.model.prompt import prompted_texts

LAYERS = (1, 2, 4, 8)
TREATMENTS = {"plain": None, "centred": 0, "5 out": 5, "12 out": 12}
SENTENCES = 400

States = dict[int, np.ndarray]
"""Layers → [N, D] unit vectors."""


def main() -> None:
    """Score every model under every treatment."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--models", nargs="+", required=True)
    options.add_argument("--output", type=Path, required=True)
    arguments = options.parse_args()
    found = {model: score(Encoder.load(model), arguments.data) for model in arguments.models}
    facts = {"machine": machine(), "versions": versions(), "code": code_version()}
    write_json(arguments.output, {"scores": found, **facts})
    print("| model | layers | treatment | STS-B dev | half of Cranfield |\n|---|---|---|---|---|")
    for model, rows in found.items():
        for row in rows:
            print(f"| {model} | {row['layers']} | {row['treatment']} | {row['sts']:.3f} | {row['retrieval']:.3f} |")


def score(encoder: Encoder, data: Path) -> list[dict[str, Any]]:
    """Score one model on both tasks, layers by treatment."""
    pairs = read_sentence_pairs(data / "stsb" / "en-dev.tsv")
    sentences = list(dict.fromkeys(text for pair in pairs for text in (pair.first, pair.second)))
    row = {text: place for place, text in enumerate(sentences)}
    queries, qrels, passages = half_of_cranfield(data)
    plain = states(encoder, wiki_sentences(data, SENTENCES), QUERY_TOKENS)
    alike = states(encoder, sentences, QUERY_TOKENS)
    asked = states(encoder, [query.text for query in queries], QUERY_TOKENS)
    searched = states(encoder, [passage.full_text for passage in passages], PASSAGE_TOKENS)

    ids = [passage.id for passage in passages]
    rows = []
    for layers in LAYERS:
        for name, count in TREATMENTS.items():
            treat = treatment(plain[layers], count)
            sts = similarity(treat(alike[layers]), row, pairs)
            found = retrieval(treat(asked[layers]), treat(searched[layers]), queries, ids, qrels)
            rows.append({"layers": layers, "treatment": name, "sts": sts, "retrieval": found})
            print(rows[-1], flush=True)
    return rows


def treatment(texts: np.ndarray, count: int | None) -> Callable[[np.ndarray], np.ndarray]:
    """Return what takes the common directions of ``texts`` [N, D] away; None = nothing."""
    if count is None:
        return lambda vectors: vectors
    return CommonDirections.fit(texts, count).remove


@torch.inference_mode()
def states(encoder: Encoder, texts: Sequence[str], max_tokens: int) -> States:
    """Read texts once and pool the last layers in every number of ``LAYERS``."""
    contract, backbone = encoder.contract, encoder.backbone
    sequences = prompted_texts(backbone.tokenizer, texts, contract.ids, "self", max_tokens)
    found = {layers: np.empty((len(texts), encoder.dimension), dtype=np.float32) for layers in LAYERS}
    for batch in token_budget_batches(sequences, 2048, pad_id=0):
        hidden = last_hidden_states(decoder(backbone.model), batch.input_ids, max(LAYERS))
        for layers, vectors in found.items():
            pooled = pool(hidden[-layers:], batch.lengths, contract.ids, "slots", "self")
            vectors[batch.rows] = unit(pooled.numpy())
    return found


if __name__ == "__main__":
    main()
