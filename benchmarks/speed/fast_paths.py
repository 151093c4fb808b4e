"""Measure each faster path of training alone, as a ratio of processor times in one process.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.fast_paths --output benchmarks/results/fast-paths-cpu.json

Steps with and without a path take turns, and the ratio is the median over the turns. Processor time hardly depends on
what else the machine does, unlike the wall time of ``ratios.py``, which measures the memory of each path.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.provenance import made_by
from benchmarks.texts import DATA, continuations, documents
from llama2vec.adapt.settings import AdaptConfig
from llama2vec.adapt.train import _prepare
from llama2vec.config import load_config
from llama2vec.files import write_json
from llama2vec.model.backbone import load_backbone
from llama2vec.model.speed import fast_paths
from llama2vec.model.speed.lean_attention import use_lean_attention, use_stock_attention
from llama2vec.model.speed.lean_layers import fuse_lora, keep_less
from llama2vec.records import AdaptationExample


@contextmanager
def patched(patch: Callable[[Any], list[torch.nn.Module]], model: Any) -> Any:
    changed = patch(model)
    yield
    for module in changed:
        del module.forward


@contextmanager
def lean_attention(model: Any) -> Any:
    use_lean_attention(model)
    yield
    use_stock_attention(model)


PATHS: dict[str, Callable[[Any], AbstractContextManager[Any]]] = {
    "fused_lora": lambda model: patched(fuse_lora, model),
    "lean_layers": lambda model: patched(keep_less, model),
    "lean_attention": lean_attention,
    "all": fast_paths,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--length", type=int, default=128, help="tokens of a text")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    source, texts = documents(options.data)
    pairs = [AdaptationExample(*pair) for pair in continuations(texts, options.length, options.batch_size)]
    ratios = {dtype: measure(options, dtype, pairs) for dtype in options.dtypes}
    facts = {"texts": source, "length": options.length, "batch_size": options.batch_size, "layers": options.layers}
    write_json(options.output, {**facts, "threads": torch.get_num_threads(), "ratios": ratios, **made_by()})
    for dtype, found in ratios.items():
        for name, ratio in found.items():
            print(
                f"{dtype:<9} {name:<15} {ratio['ratio']:.2f}  ({', '.join(f'{turn:.2f}' for turn in ratio['turns'])})"
            )


def measure(options: argparse.Namespace, dtype: str, pairs: list[AdaptationExample]) -> dict[str, Any]:
    config = load_config(AdaptConfig, None, [f"model.dtype={dtype}", f"text.max_tokens={options.length}"])
    with cut_to(options.layers):
        _, model, objective, _ = _prepare(config, pairs)
    model.train()
    batch = objective.collate(pairs)

    def step() -> float:
        started = time.process_time()
        objective.loss(model, batch)[0].backward()
        return time.process_time() - started

    step()
    found = {}
    for name, path in PATHS.items():
        turns = []
        for _ in range(options.turns):
            stock = step()
            with path(model):
                turns.append(round(stock / step(), 3))
        found[name] = {"ratio": median(turns), "turns": turns}
    return found


@contextmanager
def cut_to(layers: int) -> Any:
    """Let the recipe's model load with its first layers only."""
    from llama2vec.adapt import train

    def load(settings: Any) -> Any:
        backbone = load_backbone(settings)
        body = backbone.model.base_model
        body.layers, backbone.model.config.num_hidden_layers = body.layers[:layers], layers
        return backbone

    train.load_backbone = load
    yield
    train.load_backbone = load_backbone


if __name__ == "__main__":
    main()
