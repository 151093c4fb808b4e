"""Corpus, examples and files that the tests of mining share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from made_examples import TopicEncoder, topic_corpus, topic_examples, write_corpus_and_pairs

from llama2vec.records import Passage, TrainingExample
from llama2vec.retrieve.store.reader import VectorStore
from llama2vec.retrieve.store.writer import write_store


@pytest.fixture(scope="module")
def corpus() -> list[Passage]:
    return topic_corpus()


@pytest.fixture(scope="module")
def examples(corpus: list[Passage]) -> list[TrainingExample]:
    return topic_examples(corpus)


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., VectorStore]:
    def make(corpus: Sequence[Passage], name: str = "vectors") -> VectorStore:
        return write_store(lambda: corpus, TopicEncoder(), tmp_path / name, source={}, shard_size=20)

    return make


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return write_corpus_and_pairs(tmp_path)
