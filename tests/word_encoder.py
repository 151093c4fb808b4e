"""A stand-in for an encoder, small retrieval tasks, and an evaluation of one on the other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from llama2vec.config import EncoderSettings, PromptSettings
from llama2vec.data.text.words import word_spans
from llama2vec.model.lengths import Cut
from llama2vec.records import Passage, Query, Side
from llama2vec.score.evaluator import evaluate_tasks
from llama2vec.score.settings import ScoringSettings
from llama2vec.score.systems import SearchMode, Stores, System
from llama2vec.score.tasks import TaskScore

WORDS = ("river", "stone", "bridge", "castle", "winter", "market")
LIMIT = 8


class WordTokenizer:
    """Words are tokens."""

    is_fast = True

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        return {"offset_mapping": word_spans(text)}


class WordEncoder:
    """A vector says which of six words stand among the first eight of a text; it counts what it read."""

    dimension, dtype = len(WORDS), "float32"

    def __init__(self, contract_hash: str = "c0ffee", fault: float = 0.0) -> None:
        self.contract_hash = contract_hash
        settings = EncoderSettings(passage_max_tokens=LIMIT)
        self.contract = SimpleNamespace(encoder=settings, prompts=PromptSettings())
        self.backbone = SimpleNamespace(tokenizer=WordTokenizer())
        self.fault = fault
        self.read: list[str] = []

    def _vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        kept = [text.split()[:LIMIT] for text in texts]
        counts = np.array([[words.count(word) for word in WORDS] for words in kept], dtype=np.float32) + 0.01
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True) + self.fault).astype(np.float32)

    def count_cut(self, passages: Sequence[Passage]) -> int:
        return sum(len(passage.full_text.split()) > LIMIT for passage in passages)

    def cut(self, texts: Sequence[str], side: Side) -> Cut:
        return Cut(sum(len(text.split()) > LIMIT for text in texts), LIMIT, fixed=False)

    def cut_queries(self, queries: Sequence[Query], /) -> Cut:
        return self.cut([query.text for query in queries], "query")

    def encode_passages(self, passages: Sequence[Passage] | Sequence[str], /) -> npt.NDArray[np.float32]:
        read = [passage if isinstance(passage, Passage) else Passage(passage, passage) for passage in passages]
        self.read += [passage.id for passage in read]
        return self._vectors([passage.full_text for passage in read])

    def encode_queries(self, queries: Sequence[Query] | Sequence[str], /) -> npt.NDArray[np.float32]:
        return self._vectors([query.text if isinstance(query, Query) else query for query in queries])


def system(encoder: Any = None, name: str = "words", mode: SearchMode = "dense") -> System:
    return System(name, encoder, mode)


PASSAGES = {"d1": "a river", "d2": "a stone", "d3": "the bridge", "d4": "river stone", "d5": "winter market"}
QUERIES = {"q1": "river", "q2": "stone", "q3": "winter castle"}
QRELS = {"q1": {"d1": 1, "d4": 2}, "q2": {"d2": 1}, "q3": {"d5": 1, "d3": 0}}


def write_task(
    folder: Path,
    passages: Mapping[str, str] = PASSAGES,
    queries: Mapping[str, str] = QUERIES,
    qrels: Mapping[str, Mapping[str, int]] = QRELS,
    split: str = "test",
) -> Path:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, rows in (("corpus", passages), ("queries", queries)):
        lines = [json.dumps({"_id": key, "text": text}) for key, text in rows.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    lines = [f"{query}\t{passage}\t{gain}" for query, gains in qrels.items() for passage, gain in gains.items()]
    (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines), encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Options:
    """What an evaluation is called with besides system and tasks."""

    output: Path
    settings: ScoringSettings
    stores: Stores
    overwrite: bool


def options(
    tmp_path: Path, name: str = "out", *, stores: Path | None = None, overwrite: bool = False, **settings: Any
) -> Options:
    """Evaluate into ``tmp_path / name``, with named tasks in ``tmp_path``."""
    return Options(tmp_path / name, ScoringSettings(data_root=str(tmp_path), **settings), Stores(stores), overwrite)


def evaluate(one: System, names: Sequence[str], given: Options) -> list[TaskScore]:
    """Call the evaluator."""
    return evaluate_tasks(one, names, given.output, given.settings, stores=given.stores, overwrite=given.overwrite)


def saved(tmp_path: Path, stem: str) -> dict[str, Any]:
    """Return what an evaluation into ``tmp_path / "out"`` wrote."""
    return dict(json.loads((tmp_path / "out" / f"{stem}.json").read_text(encoding="utf-8")))
