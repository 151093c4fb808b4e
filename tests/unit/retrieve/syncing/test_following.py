"""Words first, then vectors; the model is loaded only when a text is new."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from encoders import FLOAT32

from llama2vec.artifact import owned
from llama2vec.config import ModelSettings
from llama2vec.data.documents import folder as folder_module
from llama2vec.data.documents.folder import SourceFile
from llama2vec.data.settings import PassageSettings
from llama2vec.errors import ConfigError, Llama2VecError, StoreError, UnreadableError
from llama2vec.files import write_json
from llama2vec.model.encoder import Encoder
from llama2vec.model.source import ModelSpec, resolve_model
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.retrieve.settings import LibrarySettings
from llama2vec.retrieve.store.reader import VectorStore
from llama2vec.retrieve.syncing import Following, folder_source
from llama2vec.retrieve.syncing import following as following_module
from llama2vec.retrieve.syncing.following import SyncSettings
from llama2vec.retrieve.syncing.library import Library, SyncReport


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
    loaded = following_module._loaded

    def load(spec: ModelSpec, settings: object) -> object:
        steps.append(f"loaded, words: {len(words)}, modes: {Retriever.open(docs.parent / 'index').modes}")
        return loaded(spec, FLOAT32)

    monkeypatch.setattr(following_module, "_loaded", load)
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


def test_without_a_model_signs_are_counted_as_words(docs: Path) -> None:
    (docs / "b.md").write_text("羊驼生活在山上。" * 40)
    sync = SyncSettings(passages=PassageSettings(tokens=40))
    assert following(docs, None, settings=sync).sync().passages > 8


def test_the_report_of_the_first_sync_with_a_model_counts_what_both_steps_found(docs: Path, llama_folder: Path) -> None:
    (docs / "d.pdf").write_bytes(b"%PDF broken")
    counts = following(docs, llama_folder, on_words=lambda report: (docs / "c.md").unlink()).sync().counts
    assert (counts.added, counts.deleted, counts.unchanged) == (3, 1, 0)
    (docs / "e.md").write_text("A copper lantern.")
    report = following(docs, llama_folder).sync()
    assert (report.counts.added, report.counts.unchanged, report.reading.skipped[0].name) == (1, 2, "d.pdf")


def test_a_model_that_joins_an_index_of_words_counts_what_changed_and_what_came_back(
    docs: Path, llama_folder: Path
) -> None:
    following(docs, None).sync()
    Library(docs.parent / "index").remove(["a.md"])
    (docs / "a.md").write_text("An orchard by the river.")
    counts = following(docs, llama_folder).sync().counts
    assert (counts.changed, counts.unchanged, counts.returned) == (1, 2, ["a.md"])


def test_passages_that_the_model_cuts_are_counted_and_told_whenever_the_index_is_written(
    docs: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index, loads, loaded = docs.parent / "index", [], following_module._loaded
    monkeypatch.setattr(following_module, "_loaded", lambda *given: loads.append(given) or loaded(*given))
    for name in ("long.md", "longer.md"):
        (docs / name).write_text(f"{name} tells of a stone bridge that crosses the wide river. " * 400)
        os.utime(docs / name, (10**9, 10**9))

    def told(**options: object) -> tuple[int, str]:
        caplog.clear()
        following(docs, llama_folder, **options).sync()
        return VectorStore.open(index / "store").cut, caplog.text

    cut, text = told(settings=SyncSettings(passages=PassageSettings(split="never")))
    assert cut == 2
    assert f"{docs}: the model reads only the beginning of 2 of 5 passages (40 %)" in text
    assert "split them with --set passages.split=auto" in text
    assert told() == (2, "")  # Nothing changed, and nothing is written
    (docs / "b.md").unlink()
    cut, text = told()
    assert (cut, "2 of 4 passages" in text) == (2, True)
    # A removal cannot tell which passages are cut; the next sync can, without the weights of the model.
    Library(index).remove(["long.md"])
    assert VectorStore.open(index / "store").cut == 2
    (docs / "c.md").unlink()
    cut, text = told()
    assert (cut, "1 of 2 passages" in text, len(loads)) == (1, True, 1)
    (docs / "new.md").write_text("A new bridge. " * 2000)
    assert told()[0] == len(loads) == 2
    cut, text = told(settings=SyncSettings(passages=PassageSettings(split="auto")))
    assert (cut, "only the beginning" in text) == (0, False)


def test_an_unusable_device_is_refused_before_anything_is_indexed(docs: Path, llama_folder: Path) -> None:
    spec = ModelSpec.of_source(resolve_model(str(llama_folder)))
    with pytest.raises(ConfigError, match="device banana: not usable here"):
        Following(docs, docs.parent / "index", spec, ModelSettings(device="banana")).sync()
    assert not (docs.parent / "index").exists()


def test_another_model_encodes_everything_again_and_says_so(
    docs: Path, llama_folder: Path, tied_llama_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    following(docs, llama_folder).sync()
    assert "the model changes" not in caplog.text
    assert following(docs, tied_llama_folder).sync().encoded == 3
    changes = (
        f"the model changes from {llama_folder.name} to {tied_llama_folder.name}, so all passages are encoded again"
    )
    assert changes in caplog.text
    assert following(docs, None).sync().encoded == 0


def test_a_model_trained_again_in_its_place_encodes_everything_and_says_so_and_a_copy_does_not(
    docs: Path, llama_folder: Path, tied_llama_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, moved = tmp_path / "model", tmp_path / "moved"
    Encoder.load(llama_folder, settings=FLOAT32).save(model)
    following(docs, model).sync()
    shutil.copytree(model, moved)
    assert following(docs, moved).sync().encoded == 0
    assert "encoded again" not in caplog.text
    shutil.rmtree(moved)
    Encoder.load(tied_llama_folder, settings=FLOAT32).save(moved)
    assert following(docs, None).sync().encoded == 3
    assert "the model moved has changed, so all passages are encoded again" in caplog.text


def test_a_model_that_changed_in_place_is_noticed(docs: Path, llama_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    Encoder.load(llama_folder, settings=FLOAT32).save(model)
    following(docs, model).sync()
    assert following(docs, None).sync().encoded == 0
    raw = following(docs, llama_folder)
    raw.sync()
    lazy = following_module._LoadedWhenNeeded(
        Retriever.open(docs.parent / "index").store, ModelSpec.of_source(resolve_model(str(model))), FLOAT32
    )
    lazy.contract_hash = "another"
    with pytest.raises(StoreError, match="is not the model that encoded the index"):
        lazy.encode_passages(Retriever.open(docs.parent / "index").store.passages([0]))


def test_words_of_another_version_are_counted_again_and_keep_their_vectors(
    docs: Path, llama_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = docs.parent / "index"
    following(docs, llama_folder).sync()
    (facts,) = index.glob("index/bm25/corpus.json")
    as_before = facts.read_text(encoding="utf-8")
    write_json(facts, {**json.loads(as_before), "words": 1})
    report = following(docs, None).sync()
    assert (report.is_new, report.encoded, report.counts.unchanged) == (True, 0, 3)
    assert facts.read_text(encoding="utf-8") == as_before
    assert [hit.passage.id for hit in Retriever.open(index).hits("market", "bm25")] == ["b.md"]
    assert not following(docs, None).sync().is_new


def test_settings_of_the_last_time_stay_unless_they_are_given(docs: Path) -> None:
    german = SyncSettings(index=LibrarySettings(language="de"))
    following(docs, None, settings=german).sync()
    following(docs, None, settings=SyncSettings(index=LibrarySettings(half=True))).sync()
    kept = following_module.Library(docs.parent / "index").inventory.settings
    assert (kept["language"], kept["half"]) == ("de", True)


def test_one_language_is_kept_for_words_and_sentence_ends(docs: Path) -> None:
    index = following(docs, None, settings=SyncSettings.model_validate({"language": "de"})).index
    for settings, (words, ends) in (
        (SyncSettings.model_validate({"language": "de"}), ("de", "de")),
        (SyncSettings(), ("de", "de")),
        (SyncSettings(index=LibrarySettings(language="fr")), ("fr", "de")),
        (SyncSettings.model_validate({"language": "it"}), ("it", "it")),
    ):
        following(docs, None, settings=settings).sync()
        kept = Library(index).inventory
        assert (kept.settings["language"], kept.source["passages"]["language"]) == (words, ends)


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


def test_an_index_whose_swap_a_kill_cut_in_two_keeps_its_vectors_and_settings(docs: Path, llama_folder: Path) -> None:
    german = SyncSettings(index=LibrarySettings(language="de"))
    following(docs, llama_folder, settings=german).sync()
    index = docs.parent / "index"
    for look in (lambda: following(docs, None).sync(), lambda: Library(index).remove(["a.md"])):
        index.rename(docs.parent / ".old-index")  # where two folders cannot trade places in one step
        look()
        assert Library(index).inventory.settings["language"] == "de"
        index.rename(docs.parent / ".old-index")
        assert Retriever.open(index).store.has_vectors
        assert not (docs.parent / ".old-index").exists()


def test_watching_goes_on_after_an_error_that_passes(
    docs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rounds: list[float] = []
    changes = following(docs, None).changes()
    assert next(changes).counts.added == 3
    (docs / "d.md").write_text("A copper lantern.")
    with ExitStack() as busy:
        busy.enter_context(owned(docs.parent / "index"))

        def wait(seconds: float) -> None:
            rounds.append(seconds)
            if len(rounds) == 3:
                busy.close()

        monkeypatch.setattr(time, "sleep", wait)
        assert next(changes).counts.added == 1
    assert len(rounds) == 3
    [told] = [line for line in caplog.messages if "is writing it; wait for it" in line]
    assert told.endswith("; the index stays as it is until a sync succeeds")


@pytest.mark.parametrize("strict", [True, False])
def test_an_error_that_stays_is_met_more_and_more_rarely_and_a_folder_without_text_waits_for_a_change(
    docs: Path, monkeypatch: pytest.MonkeyPatch, strict: bool
) -> None:
    syncs, waits, sync = 0, list[float](), Following.sync

    def counted(self: Following) -> SyncReport:
        nonlocal syncs
        syncs += 1
        return sync(self)

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 12:
            raise KeyboardInterrupt

    changes = following(docs, None, strict=strict).changes()
    next(changes)
    for name in ("a.md", "b.md", "c.md"):
        (docs / name).write_text(" " if not strict else "\0")
    monkeypatch.setattr(following_module, "_WALKS_PER_WAIT", 0)
    monkeypatch.setattr(time, "sleep", wait)
    monkeypatch.setattr(Following, "sync", counted)
    assert list(changes) == []
    assert syncs == (11 if strict else 1)
    assert [round(seconds) for seconds in waits[1:10]] == ([2, 4, 8, 16, 32, 64, 128, 256, 512] if strict else [2] * 9)


def test_ctrl_c_ends_watching_while_it_waits_and_not_unnoticed_while_it_syncs(
    docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> SyncReport:
        raise KeyboardInterrupt

    changes = following(docs, None).changes()
    with monkeypatch.context() as during:
        during.setattr(Following, "sync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(changes)
    changes = following(docs, None).changes()
    next(changes)
    (docs / "d.md").write_text("A copper lantern.")
    with monkeypatch.context() as during:
        during.setattr(time, "sleep", lambda seconds: None)
        during.setattr(Following, "sync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(changes)
    changes = following(docs, None).changes()
    next(changes)
    monkeypatch.setattr(time, "sleep", interrupted)
    assert list(changes) == []


@pytest.mark.parametrize("told", [True, False])
def test_watching_tries_a_file_again_that_could_not_be_read(
    docs: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    closed, clock = [True], [0.0]
    read = folder_source.file_bytes

    def opened(file: SourceFile, settings: object) -> bytes:
        if closed[0] and file.name == "b.md":
            raise UnreadableError("cannot be read (Permission denied)")
        return read(file, settings)  # type: ignore[arg-type]

    def wait(seconds: float) -> None:
        clock[0] += seconds
        if clock[0] > 4:  # not at the first look
            closed[0] = False
            if told:
                (docs / "b.md").chmod(0o600)

    monkeypatch.setattr(folder_source, "file_bytes", opened)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", wait)
    changes = following(docs, None).changes()
    assert next(changes).passages == 2
    assert next(changes).passages == 3
    assert (clock[0] < 10) == told


def test_an_error_of_the_system_does_not_end_watching(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, sync = following(docs, None).changes(), Following.sync
    next(changes)

    def broken(self: Following) -> SyncReport:
        monkeypatch.setattr(Following, "sync", sync)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Following, "sync", broken)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    (docs / "d.md").write_text("A copper lantern.")
    assert next(changes).counts.added == 1


def test_an_error_of_the_first_sync_ends_watching(docs: Path) -> None:
    (docs / "d.pdf").write_bytes(b"%PDF broken")
    with pytest.raises(Llama2VecError, match=r"d\.pdf"):
        next(following(docs, None, strict=True).changes())


def test_a_machine_with_another_number_format_adds_to_the_index_and_says_so_once(
    docs: Path, llama_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Encoder.load(llama_folder, settings=FLOAT32).save(tmp_path / "model")
    following(docs, tmp_path / "model").sync()
    store = docs.parent / "index" / "store"
    assert VectorStore.open(store).compute_dtype == "float32"
    elsewhere = Following(docs, docs.parent / "index", None, ModelSettings(dtype="bfloat16", device="cpu"))
    (docs / "c.md").unlink()
    elsewhere.sync()
    assert VectorStore.open(store).compute_dtype == "float32"  # Nothing new was encoded
    told = f"{store}: its vectors were computed in float32, and those of new passages are computed in bfloat16"
    for number in range(2):
        (docs / f"new{number}.md").write_text(f"Text {number} of a harbour.")
        assert elsewhere.sync().encoded == 1
        assert VectorStore.open(store).compute_dtype == ""
    assert sum(message.startswith(told) for message in caplog.messages) == 1


def test_a_kept_pattern_that_matches_nothing_is_told_of_when_it_is_first_kept(
    docs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def sync(*exclude: str) -> list[str]:
        monkeypatch.setattr(folder_module, "_warn_once", logging.getLogger("llama2vec").warning)  # As a new process
        caplog.clear()
        given = {"reading": {"exclude": exclude}} if exclude else {}
        following(docs, None, settings=SyncSettings.model_validate(given)).sync()
        return caplog.messages

    told = "the exclude pattern 'drafs/' leaves nothing out; check its spelling"
    assert [message.partition(": ")[2] for message in sync("drafs/", "c.md")] == [told]
    (docs / "c.md").unlink()
    assert sync() == []
    (docs / "new.md").write_text("A harbour.")
    assert sync() == []
    assert [message.partition(": ")[2] for message in sync("drafs/", "note/")] == [told.replace("drafs", "note")]


def test_words_alone_never_load_the_model(
    docs: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> object:
        raise KeyboardInterrupt

    loaded = following_module._loaded
    monkeypatch.setattr(following_module, "_loaded", refuse)
    with pytest.raises(KeyboardInterrupt):
        following(docs, llama_folder).sync()  # Its words are there, and it knows the model
    (docs / "new.md").write_text("A harbour.")
    report = following(docs, None, words_only=True).sync()
    assert (report.passages, report.counts.added, report.has_vectors) == (4, 1, False)
    monkeypatch.setattr(following_module, "_loaded", loaded)
    assert following(docs, None).sync().encoded == 4
    monkeypatch.setattr(following_module, "_loaded", refuse)
    (docs / "a.md").write_text("Another river.")
    (docs / "b.md").unlink()
    for _ in range(2):
        caplog.clear()
        report = following(docs, None, words_only=True).sync()
        assert (report.passages, report.is_new, report.has_vectors) == (4, False, True)
        assert [message.partition(" since")[0] for message in caplog.messages] == ["2 files changed"]
    monkeypatch.setattr(following_module, "_loaded", loaded)
    assert following(docs, None).sync().encoded == 1
    caplog.clear()
    following(docs, None, words_only=True).sync()
    assert caplog.messages == []
    monkeypatch.setattr(folder_source, "_READERS", folder_source._READERS + 1)
    assert not following(docs, None, words_only=True).sync().is_new
    (told,) = caplog.messages
    assert told.startswith("the files were read by another version of llama2vec")
    assert told.endswith("leave out --words")
