"""A corpus of six topics, queries about them, and stand-ins for encoder and searcher; for tests of mining."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llama2vec.data.examples.labeled import write_examples
from llama2vec.mine.candidates import Bm25Searcher, Retrieved
from llama2vec.mine.mining import MiningResult, mine
from llama2vec.mine.settings import MineSettings
from llama2vec.records import Passage, Query, TrainingExample

TOPICS = ("llama", "camel", "sheep", "goat", "horse", "mule")
FILLERS = [
    *("river", "stone", "bridge", "castle", "winter", "market", "harbour", "engine", "letter", "garden", "forest"),
    *("silver", "copper", "orchard", "temple", "village", "mountain", "lantern", "captain", "merchant", "painter"),
]
OPEN = MineSettings(max_share_of_positive=0, near_duplicate=0, negatives=3, choose="top", last_rank=50)
"""No filter but the known positives, so that a test can switch on its own."""


class TopicEncoder:
    """One dimension per topic word and one for the rest."""

    dimension = len(TOPICS) + 1

    def __init__(self, contract_hash: str = "c0ffee") -> None:
        self.contract_hash = contract_hash
        self.passages_encoded = 0

    def _vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        words = [text.lower().split() for text in texts]
        counts = np.array([[row.count(topic) for topic in TOPICS] + [0.5] for row in words], dtype=np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
        self.passages_encoded += len(passages)
        return self._vectors([passage.full_text for passage in passages])

    def encode_queries(self, queries: Sequence[Query], /) -> npt.NDArray[np.float32]:
        return self._vectors([query.text for query in queries])


class ListSearcher:
    """Always finds the same rows; row r scores 1 - r / 100, and so do the targets."""

    name = "list"

    def __init__(self, rows: list[int], passages: int = 0) -> None:
        self._rows, self._passages = rows, passages or len(rows)

    def __len__(self) -> int:
        return self._passages

    def search(self, queries: Sequence[Query], targets: Sequence[Sequence[int | str]], depth: int) -> Any:
        def score(rows: Sequence[Any]) -> list[float]:
            return [1 - row / 100 if isinstance(row, int) else 0.0 for row in rows]

        rows = self._rows[:depth]
        for wanted in targets:
            yield Retrieved(np.array(rows), np.array(score(rows), dtype=np.float32), score(wanted), score)


def made_up_text(draw: random.Random, topic: str, times: int) -> str:
    words = [draw.choice(FILLERS) for _ in range(30)] + [topic] * times
    draw.shuffle(words)
    return " ".join(words)


def topic_corpus() -> list[Passage]:
    """For each topic twelve passages of 30 and more words, ``llama-0`` … ``mule-11``; the later, the more of it."""
    draw = random.Random(0)
    return [
        Passage(f"{topic}-{number}", made_up_text(draw, topic, 1 + number)) for topic in TOPICS for number in range(12)
    ]


def topic_examples(corpus: Sequence[Passage]) -> list[TrainingExample]:
    """One query per topic; the seventh passage is the positive."""
    return [
        TrainingExample(
            f"about the {topic}",
            (corpus[12 * place + 6].text,),
            query_id=f"q{place}",
            positive_ids=(f"{topic}-6",),
        )
        for place, topic in enumerate(TOPICS)
    ]


def write_corpus_and_pairs(folder: Path) -> dict[str, Path]:
    corpus = topic_corpus()
    write_examples(topic_examples(corpus), folder / "pairs.jsonl")
    return {
        "pairs": folder / "pairs.jsonl",
        "corpus": write_jsonl(folder / "corpus.jsonl", corpus),
        "output": folder / "out" / "mined.jsonl",
    }


def with_bm25(examples: Sequence[TrainingExample], corpus: Sequence[Passage], **changes: Any) -> MiningResult:
    return mine(examples, corpus, [Bm25Searcher(corpus)], OPEN.model_copy(update=changes))


def write_jsonl(path: Path, passages: Sequence[Passage]) -> Path:
    rows = [{"_id": passage.id, "title": passage.title, "text": passage.text} for passage in passages]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def plain(count: int) -> list[Passage]:
    return [Passage(f"p{row:02d}", f"text number {row}") for row in range(count)]


def chosen_rows(example: TrainingExample) -> list[int]:
    return [int(passage_id[1:]) for passage_id in example.negative_ids]
