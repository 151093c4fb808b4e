"""One measurement in its own process: ``python -m benchmarks.speed.measure JOB.json``; ``ratios.py`` starts it.

A fresh process per measurement gives each side its own peak of memory, and lets two sides take turns.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.speed.adaptation_sides import build_side, non_embedding_parameters
from benchmarks.speed.contrastive_sides import build_contrastive
from benchmarks.speed.encoding_sides import build_encoder, prompted, token_ids
from benchmarks.texts import question_pairs, retrieval_texts
from llama2vec.config import ModelSettings
from llama2vec.model.backbone import load_backbone
from llama2vec.model.device import choose_device, choose_dtype, cpu_has_bfloat16

# [rows, inner, columns]: the backbone's own feed-forward shapes, and squares, where libraries are fastest.
_MATMUL_SHAPES = ((2048, 576, 1536), (2048, 1536, 576), (1024, 1024, 1024), (2048, 2048, 2048), (4096, 2048, 2048))
_MATMUL_SECONDS = 0.4


def prepare(job: dict[str, Any]) -> dict[str, Any]:
    """Save the model that all sides load, cut the texts, and say which number format ``auto`` is."""
    backbone = load_backbone(ModelSettings(name=job["model"], dtype="float32"))
    config = backbone.model.config
    if job["layers"]:
        config.num_hidden_layers = job["layers"]
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[: job["layers"]]
    model = backbone.model
    if job["random"]:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    elif job["layers"]:
        model.base_model.layers = model.base_model.layers[: job["layers"]]
    model.save_pretrained(job["folder"])
    # With a chat template sentence-transformers would wrap every text in a conversation.
    backbone.tokenizer.chat_template = None
    backbone.tokenizer.save_pretrained(job["folder"])
    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    source, texts = retrieval_texts(Path(job["data"]), tokenizer, job["max_tokens"], job["texts"])
    pairs_source, pairs = question_pairs(Path(job["data"]), tokenizer, job["pair_tokens"], job["pair_count"])
    ours = token_ids(texts, tokenizer)
    as_text = tokenizer(prompted(texts, tokenizer))["input_ids"]
    device = choose_device()
    prompt = len(token_ids([""], tokenizer)[0])
    return {
        "dtype": str(choose_dtype(job["dtype"], device)).removeprefix("torch."),
        "native_bfloat16": device.type == "cuda" or cpu_has_bfloat16(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "texts": texts,
        "texts_source": source,
        "pairs": pairs,
        "pairs_source": pairs_source,
        "text_tokens": sum(map(len, ours)) - prompt * len(texts),
        "tokens": sum(map(len, ours)),
        "identical_token_ids": sum(left == right for left, right in zip(ours, as_text, strict=True)),
        "non_embedding_parameters": non_embedding_parameters(model),
    }


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Time training steps; the first batch warms up and gives the losses."""
    side = build_side(job["side"], job["model"], job["dtype"], job["length"], job["pairs"])
    batches = [
        job["pairs"][start : start + job["batch_size"]] for start in range(0, len(job["pairs"]), job["batch_size"])
    ]
    _, _, losses = side.step(batches[0])
    text_tokens = tokens = 0
    seconds = []
    for batch in batches[1:]:
        started = _now()
        counts = side.step(batch)
        seconds.append(_now() - started)
        text_tokens, tokens = text_tokens + counts[0], tokens + counts[1]
    return {
        "peak_gib": _peak_gib(),
        "seconds": seconds,
        "text_tokens": text_tokens,
        "tokens_per_second": text_tokens / sum(seconds),
        "gflops": side.flops_per_token * tokens / sum(seconds) / 1e9,
        "matmul_peak_gflops": _matmul_peak("bfloat16" if side.mixed else job["dtype"]),
        "losses": losses,
    }


def encode(job: dict[str, Any]) -> dict[str, Any]:
    """Time the encoding of all texts once, after a few that warm up; measure the matrix-multiply peak too."""
    run, _ = build_encoder(job["side"], job["model"], job["dtype"], job["max_tokens"])
    texts = job["encode_texts"]
    run(texts[:: max(1, len(texts) // 16)])
    started = _now()
    vectors = run(texts)
    seconds = _now() - started
    np.save(job["vectors"], vectors)
    peak_gib = _peak_gib()
    return {
        "peak_gib": peak_gib,
        "seconds": [seconds],
        "tokens_per_second": job["text_tokens"] / seconds,
        "gflops": 2 * job["non_embedding_parameters"] * job["tokens"] / seconds / 1e9,
        "matmul_peak_gflops": _matmul_peak(job["dtype"]) if job["side"] == "ours" else None,
    }


def contrast(job: dict[str, Any]) -> dict[str, Any]:
    """Time forward and backward of contrastive batches; a small one warms up, the first whole one gives the loss."""
    step = build_contrastive(job["side"], job["model"], job["dtype"], compiled=job["compiled"], held=job.get("held", 0))
    step(job["pairs"][:4])
    losses, seconds = [], []
    for start in range(0, len(job["pairs"]), job["batch_size"]):
        started = _now()
        losses.append(step(job["pairs"][start : start + job["batch_size"]]))
        seconds.append(_now() - started)
    return {
        "peak_gib": _peak_gib(),
        "seconds": seconds,
        "tokens_per_second": len(job["pairs"]) / sum(seconds),
        "losses": {"loss": losses[0]},
    }


def _matmul_peak(dtype: str) -> float:
    """Return the best GFLOP/s over several large products, in the layout of a linear layer and in the plain one."""
    device, best = choose_device(), 0.0
    for rows, inner, columns in _MATMUL_SHAPES:
        left = torch.randn(rows, inner, device=device, dtype=getattr(torch, dtype))
        right = torch.randn(columns, inner, device=device, dtype=getattr(torch, dtype))
        for other in (right.T, right.T.contiguous()):
            torch.mm(left, other)
            ends = _now() + _MATMUL_SECONDS
            while (started := _now()) < ends:
                torch.mm(left, other)
                best = max(best, 2 * rows * inner * columns / (_now() - started) / 1e9)
    return best


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_gib() -> float:
    """Return the peak memory of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def main() -> None:
    # A length limit cut to the model's context and similar notices belong on the screen of the person who measures.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("job", type=Path, help="JSON file of one measurement; its result is written beside it")
    path = options.parse_args().job
    job = json.loads(path.read_text(encoding="utf-8"))
    result = {"prepare": prepare, "train": train, "encode": encode, "contrast": contrast}[job["kind"]](job)
    path.with_suffix(".result").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
