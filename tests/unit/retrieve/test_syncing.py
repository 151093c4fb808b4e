"""Words first, then vectors; the model is loaded only when a text is new."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from encoders import FLOAT32

from llama2vec.config import ModelSettings
from llama2vec.errors import ConfigError, StoreError
from llama2vec.model.encoder import Encoder
from llama2vec.model.source import ModelSpec, resolve_model
from llama2vec.retrieve import syncing
from llama2vec.retrieve.library import SyncReport
from llama2vec.retrieve.retriever import Retriever
from llama2vec.retrieve.settings import LibrarySettings
from llama2vec.retrieve.syncing import Following, SyncSettings


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, text in {"a.md": "# River\n\nA stone bridge.", "b.md": "A winter market.", "c.md": "An orchard."}.items():
        (folder / name).write_text(text)
        os.utime(folder / name, (10**9, 10**9))
    return folder


def following(docs: Path, model: Path | None, **options: object) -> Following:
    spec = ModelSpec.of_source(resolve_model(str(model))) if model else None
    return Following(docs, docs.parent / "index", spec, FLOAT32, **options)  # type: ignore[arg-type]


def test_words_answer_before_the_model_is_loaded(
    docs: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words: list[SyncReport] = []
    steps: list[str] = []
    loaded = syncing._loaded

    def load(spec: ModelSpec, settings: object) -> object:
        steps.append(f"loaded, words: {len(words)}, modes: {Retriever.open(docs.parent / 'index').modes}")
        return loaded(spec, FLOAT32)

    monkeypatch.setattr(syncing, "_loaded", load)
    report = following(docs, llama_folder, on_words=words.append).sync()
    assert steps == ["loaded, words: 1, modes: ('bm25',)"]
    assert (words[0].passages, words[0].has_vectors, report.encoded, report.has_vectors) == (3, False, 3, True)
    # Nothing is new: the model is remembered, and not loaded.
    assert not following(docs, None).sync().is_new
    (docs / "b.md").unlink()
    assert following(docs, None, on_words=words.append).sync().passages == 2
    assert (len(steps), len(words)) == (1, 1)
    (docs / "d.md").write_text("A copper lantern.")
    assert following(docs, None).sync().encoded == 1
    assert len(steps) == 2
    retriever = Retriever.open(docs.parent / "index", device="cpu", dtype="float32")
    assert retriever.hits("copper", "hybrid")[0].passage.id == "d.md"
    encoder = Encoder.load(llama_folder, settings=FLOAT32)
    for passage, vector in zip(retriever.store.passages([0, 1, 2]), retriever.store.vectors([0, 1, 2]), strict=True):
        assert abs(encoder.encode_passages([passage])[0] - vector).max() < 1e-5


def test_an_unusable_device_is_refused_before_anything_is_indexed(docs: Path, llama_folder: Path) -> None:
    spec = ModelSpec.of_source(resolve_model(str(llama_folder)))
    with pytest.raises(ConfigError, match="device banana: not usable here"):
        Following(docs, docs.parent / "index", spec, ModelSettings(device="banana")).sync()
    assert not (docs.parent / "index").exists()


def test_another_model_encodes_everything_again(docs: Path, llama_folder: Path, tied_llama_folder: Path) -> None:
    following(docs, llama_folder).sync()
    assert following(docs, tied_llama_folder).sync().encoded == 3
    assert following(docs, None).sync().encoded == 0


def test_a_model_that_changed_in_place_is_noticed(docs: Path, llama_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    Encoder.load(llama_folder, settings=FLOAT32).save(model)
    following(docs, model).sync()
    assert following(docs, None).sync().encoded == 0
    raw = following(docs, llama_folder)
    raw.sync()
    lazy = syncing._LoadedWhenNeeded(
        Retriever.open(docs.parent / "index").store, ModelSpec.of_source(resolve_model(str(model))), FLOAT32
    )
    lazy.contract_hash = "another"
    with pytest.raises(StoreError, match="is not the model that encoded the index"):
        lazy.encode_passages(Retriever.open(docs.parent / "index").store.passages([0]))


def test_settings_of_the_last_time_stay_unless_they_are_given(docs: Path) -> None:
    german = SyncSettings(index=LibrarySettings(language="de"))
    following(docs, None, settings=german).sync()
    following(docs, None, settings=SyncSettings(index=LibrarySettings(half=True))).sync()
    kept = syncing.Library(docs.parent / "index").inventory.settings
    assert (kept["language"], kept["half"]) == ("de", True)


def test_passages_are_measured_in_the_tokens_of_the_model(docs: Path, llama_folder: Path) -> None:
    (docs / "long.md").write_text("A stone bridge crosses the wide river. " * 40)
    following(docs, None).sync()
    words = len(Retriever.open(docs.parent / "index").store)
    report = following(docs, llama_folder).sync()
    assert report.passages > words
    store = Retriever.open(docs.parent / "index", device="cpu", dtype="float32").store
    encoder = Encoder.load(llama_folder, settings=FLOAT32)
    tokenizer, (_, reads) = encoder.backbone.tokenizer, encoder.reading("passage")
    for passage in store.passages(range(len(store))):
        assert len(tokenizer(passage.full_text, add_special_tokens=False)["input_ids"]) <= reads
