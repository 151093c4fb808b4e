"""How much do a few common directions hide? STS-B dev before and after removing them.

    python benchmarks/isotropy.py --data ../shared/data --models runs/adapted --output benchmarks/results/isotropy.json

``plain``: the vectors as they are. ``centred``: minus their mean. ``three out``: minus their mean and their first three
principal components. ``softened``: components scaled by 1/sqrt(s + s_20). The statistics come from the very sentences
that are scored (no labels), so the last three say what is possible, not what a user of new texts gets.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from llama2vec.data.sts import read_sentence_pairs
from llama2vec.evaluate.sts import score_similarities
from llama2vec.files import write_json
from llama2vec.manifest import code_version, machine, versions
from llama2vec.model.encoder import Encoder

PARTS = {"all 1,500": (0, 1500), "first 600": (0, 600), "last 500": (1000, 1500)}


def main() -> None:
    """Score each model under each treatment."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--models", nargs="+", required=True)
    options.add_argument("--output", type=Path, required=True)
    arguments = options.parse_args()
    pairs = read_sentence_pairs(arguments.data / "stsb" / "en-dev.tsv")
    sentences = list(dict.fromkeys(text for pair in pairs for text in (pair.first, pair.second)))
    row = {text: place for place, text in enumerate(sentences)}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for model in arguments.models:
        vectors = Encoder.load(model).encode_poolings(sentences, "self", 64)["slots"]
        found[model] = {}
        for name, treated in treatments(vectors).items():
            alike = [float(treated[row[pair.first]] @ treated[row[pair.second]]) for pair in pairs]
            found[model][name] = {
                part: score_similarities(alike[a:b], [pair.score for pair in pairs[a:b]])["spearman"]
                for part, (a, b) in PARTS.items()
            }
            print(model, name, {part: round(value, 3) for part, value in found[model][name].items()})
    facts = {"machine": machine(), "versions": versions(), "code": code_version()}
    write_json(arguments.output, {"spearman": found, **facts})


def treatments(vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Return the vectors [N, D] under each treatment, unit length again."""
    centred = vectors - vectors.mean(axis=0)
    _, scales, axes = np.linalg.svd(centred, full_matrices=False)
    return {
        "plain": vectors,
        "centred": _unit(centred),
        "three out": _unit(centred - centred @ axes[:3].T @ axes[:3]),
        "softened": _unit(centred @ axes.T / np.sqrt(scales + scales[20])),
    }


def _unit(matrix: np.ndarray) -> np.ndarray:
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
