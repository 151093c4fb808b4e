"""How many layers does an adapted encoder need: quality and speed as top layers are taken out, without new training.

    llama2vec adapt smollm2-cpu --corpus ../shared/data/wiki/train.jsonl.gz --output runs/adapted
    python -m benchmarks.quality.fewer_layers --data ../shared/data --model runs/adapted \
        --output benchmarks/results/fewer-layers-cpu.json

Scores are those of the study's samples (budget ``choices``): nDCG@10 of five sets, and STS-B dev. Speed is that of 128
tokens a text, as a share of the whole model's, the median of turns over all depths. The output resumes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.mistakes import results_so_far, told_in_one_line
from benchmarks.provenance import made_by
from benchmarks.study.protocol import Sets, load_protocol
from benchmarks.study.sets import SampledSet, embedding, sampled_set, score_pairs, score_set
from llama2vec.config import ModelSettings
from llama2vec.files import write_json
from llama2vec.model.encoder import Encoder
from llama2vec.model.top_layers import drop_top_layers

_TEXTS, _TURNS = 48, 4


def main(arguments: list[str] | None = None) -> None:
    """Score and time each depth that the output lacks."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--output", type=Path, required=True)
    options.add_argument("--keep", type=int, nargs="+", default=[30, 28, 25, 22, 20, 16], help="layers that stay")
    options.add_argument("--skip-speed", action="store_true", help="score alone; times want a quiet machine")
    options.add_argument("--budget", default="choices", help="of the study: its samples are scored")
    given = options.parse_args(arguments)
    with told_in_one_line():
        _measure(given)


def _measure(arguments: argparse.Namespace) -> None:
    protocol = load_protocol(arguments.budget)
    samples = [sampled_set(arguments.data / name, protocol.sets) for name in protocol.sets.retrieval]
    settings = {
        "contract_hash": Encoder.load(arguments.model, settings=ModelSettings(device="cpu")).contract_hash,
        "sets": protocol.sets.model_dump(), "samples": {one.task.name: one.facts["fingerprint"] for one in samples},
    }  # fmt: skip
    results = results_so_far(arguments.output, settings, "depths")
    found = results["depths"]
    for count in arguments.keep:
        if str(count) in found:
            continue
        found[str(count)] = scored(shortened(arguments.model, count), samples, protocol.sets, arguments.data)
        spearman = found[str(count)]["scores"][protocol.sets.sts[0]]["spearman"]
        print(count, round(found[str(count)]["average"], 4), round(spearman, 4), flush=True)
        write_json(arguments.output, results | made_by())
    if not arguments.skip_speed:
        rates = relative_speed(arguments.model, [int(count) for count in found])
        for count, rate in rates.items():
            found[str(count)]["speed"] = rate
            print(count, rate, flush=True)
        write_json(arguments.output, results | made_by())


def scored(encoder: Encoder, samples: Sequence[SampledSet], sets: Sets, data: Path) -> dict[str, Any]:
    """Return nDCG@10 of each sample and their average, and Spearman's correlation on the sentence pairs."""
    embed = embedding(encoder)
    scores = {one.task.name: score_set(one, embed, sets.depth) for one in samples}
    average = fmean(one["nDCG@10"] for one in scores.values())
    scores |= {name: score_pairs(data / name, embed) for name in sets.sts}
    return {"average": average, "scores": scores}


def shortened(model: str | Path, count: int) -> Encoder:
    """Return the encoder with its lowest layers, of which as many are averaged as before where there are as many."""
    loaded = Encoder.load(model, settings=ModelSettings(device="cpu", compile=False))
    contract, backbone = loaded.contract, loaded.backbone
    drop_top_layers(backbone.model, int(backbone.model.config.num_hidden_layers) - count)
    return Encoder.from_backbone(backbone, contract.prompts, contract.encoder)


def relative_speed(model: Path, counts: list[int]) -> dict[int, float]:
    """Return the tokens a second of each depth as a ratio to the deepest one; the median of turns."""
    encoders = {count: shortened(model, count) for count in sorted(counts, reverse=True)}
    texts = [" ".join(["river", "bridge", "castle", "winter"] * 29)] * _TEXTS
    times: dict[int, list[float]] = {count: [] for count in encoders}
    for turn in range(_TURNS + 1):
        order = list(encoders.items()) if turn % 2 else list(encoders.items())[::-1]
        for count, encoder in order:
            started = time.perf_counter()
            encoder.encode_passages(texts)
            if turn:  # The first one warms up.
                times[count].append(time.perf_counter() - started)
    whole = max(encoders)
    pairs = {count: zip(times[whole], taken, strict=True) for count, taken in times.items()}
    return {count: round(median(mine / other for mine, other in both), 2) for count, both in pairs.items()}


if __name__ == "__main__":
    main()
