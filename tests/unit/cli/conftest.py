"""What several commands' tests need."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama2vec.config import EncoderSettings, ModelSettings
from llama2vec.data.corpus.passages import read_passages
from llama2vec.model.encoder import Encoder
from llama2vec.retrieve.store.writer import write_store


@pytest.fixture(scope="module")
def store(llama_folder: Path, corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = ModelSettings(dtype="float32", device="cpu")
    encoder = Encoder.load(llama_folder, settings=settings, encoder=EncoderSettings(passage_max_tokens=48))
    folder = tmp_path_factory.mktemp("made") / "store"
    source = {"corpus": str(corpus_file), "model": encoder.spec.to_json(folder)}
    write_store(lambda: read_passages(corpus_file), encoder, folder, source=source)
    return folder
