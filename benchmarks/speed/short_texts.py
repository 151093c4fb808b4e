"""Measure how long a question takes in a warm process, with packed weights and with the model's own layers.

    python -m benchmarks.speed.short_texts --output benchmarks/results/short-texts-cpu.json

Both ways read each question in turn. A question's tokens are those of the text alone, without the prompt. The cosines
compare the vectors of both ways.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch

from benchmarks.provenance import made_by
from benchmarks.speed.turns import rounded
from benchmarks.texts import DATA, documents
from llama2vec.files import write_json
from llama2vec.model.encoder import Encoder
from llama2vec.model.speed.short_reading import ShortReading

_WARM_UP = 4


class OwnLayers(ShortReading):
    """Leaves every text to the model's own layers."""

    def is_on(self, tokens: int) -> bool:
        """Return False."""
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama2vec-smollm2-135m")
    parser.add_argument("--tokens", type=int, nargs="+", default=[5, 12, 30], help="tokens of a question")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--data", type=Path, default=DATA, help="folder that the questions are cut from")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    source, found = documents(options.data)
    encoder = Encoder.load(options.model, dtype="bfloat16")
    tokenizer = encoder.backbone.tokenizer
    texts = [text for document in found for text in document]
    results = []
    for tokens in options.tokens:
        ids = [tokenizer.encode(text, add_special_tokens=False)[:tokens] for text in texts]
        whole = [row for row in ids if len(row) == tokens][: options.questions]
        results.append({"tokens": tokens, **measure(encoder, [tokenizer.decode(row) for row in whole])})
    facts = {"model": options.model, "texts": source, "threads": torch.get_num_threads()}
    write_json(options.output, {**facts, "results": results, **made_by()})
    for result in results:
        print(", ".join(f"{name}: {value}" for name, value in result.items()))


def measure(encoder: Encoder, questions: list[str]) -> dict[str, Any]:
    """Return the milliseconds of both ways over the questions, and how their vectors differ."""
    ways = {"own": OwnLayers(encoder.backbone), "packed": ShortReading(encoder.backbone)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    cosines = []
    for number, question in enumerate([*questions[:_WARM_UP], *questions]):
        vectors = []
        for name, way in ways.items():
            encoder.short_reading = way
            started = time.perf_counter()
            vectors.append(encoder.encode_queries(question))
            if number >= _WARM_UP:
                times[name].append(1000 * (time.perf_counter() - started))
        cosines.append(float(vectors[0] @ vectors[1]))
    cuts = {name: quantiles(values, n=20) for name, values in times.items()}
    found: dict[str, Any] = {"questions": len(questions)}
    for name, cut in cuts.items():
        found |= {f"{name}_p50_ms": rounded(cut[9]), f"{name}_p95_ms": rounded(cut[18])}
    return {**found, "ratio": rounded(cuts["own"][9] / cuts["packed"][9]), "least_cosine": round(min(cosines), 5)}


if __name__ == "__main__":
    main()
