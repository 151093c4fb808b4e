"""An index that follows a folder: what is read and encoded again, what stays, and what is refused."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import shlex
import shutil
import sqlite3
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from synced_folder import SETTINGS, BlankLineSource, HashEncoder, age, content, sync, write

from llama2vec.data.documents.folder import Skipped, SourceFile, Walk, file_bytes, walk
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import DataError, EmptyCorpusError, OutputExistsError, StoreError, UnreadableError
from llama2vec.locks import Lock
from llama2vec.records import Passage
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.retrieve.settings import LibrarySettings
from llama2vec.retrieve.store.reader import VectorStore
from llama2vec.retrieve.syncing.library import Library, SyncReport, index_in_cache

FILES = {
    "a.txt": "river stone\n\nbridge castle",
    "b/c.txt": "winter market",
    "b/d.txt": "harbor engine\n\nletter garden\n\nforest silver",
    "e.txt": "copper orchard",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "docs", FILES)


def states(index: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in index.rglob("*")}


def anew(folder: Path, index: Path, encoder: HashEncoder | None = None) -> dict[str, bytes]:
    """Return the content of an index made from nothing in the same place."""
    kept = index.with_name("kept")
    index.rename(kept)
    sync(folder, index, encoder)
    made = content(index)
    for path in sorted(index.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    index.rmdir()
    kept.rename(index)
    return made


def test_the_first_sync_reads_and_encodes_everything_in_the_order_of_the_paths(folder: Path, tmp_path: Path) -> None:
    encoder = HashEncoder()
    report = sync(folder, tmp_path / "index", encoder)
    assert (report.passages, report.encoded, report.counts.added, report.has_vectors) == (7, 7, 4, True)
    ids = ["a.txt#1", "a.txt#2", "b/c.txt#1", "b/d.txt#1", "b/d.txt#2", "b/d.txt#3", "e.txt#1"]
    retriever = Retriever.open(tmp_path / "index", encoder)
    assert list(retriever.store.ids) == ids
    assert retriever.modes == ("hybrid", "dense", "bm25")
    assert retriever.hits("letter garden", "bm25")[0].passage.id == "b/d.txt#2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs", "index"]
    assert [record.path for record in Library(tmp_path / "index").inventory.files] == list(FILES)


def test_nothing_is_read_or_written_where_nothing_changed(folder: Path, tmp_path: Path) -> None:
    sync(folder, tmp_path / "index", HashEncoder())
    before = states(tmp_path / "index")
    source, encoder = BlankLineSource(folder), HashEncoder()
    report = sync(folder, tmp_path / "index", encoder, source=source)
    assert (report.is_new, report.encoded, report.counts.unchanged, source.read_paths) == (False, 0, 4, [])
    assert encoder.encoded == []
    assert states(tmp_path / "index") == before


def test_an_index_whose_fields_or_words_are_of_another_version_is_made_again_once(folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    sync(folder, index, HashEncoder())
    made = content(index)
    with closing(sqlite3.connect(index / "index" / "fields.sqlite")) as table:
        table.execute("PRAGMA user_version = 0")
    source, encoder = BlankLineSource(folder), HashEncoder()
    assert sync(folder, index, encoder, source=source).is_new
    assert (source.read_paths, encoder.encoded, content(index)) == ([], [], made)
    assert not sync(folder, index, HashEncoder()).is_new


def test_a_file_is_removed_in_another_unicode_form_of_its_name(folder: Path, tmp_path: Path) -> None:
    composed, apart = "\u00dcbersicht.txt", "U\u0308bersicht.txt"
    index = tmp_path / "index"
    write(folder, {apart: "river stone\n\nbridge"})
    sync(folder, index)
    assert Library(index).remove([f"{composed}#2"]) == 1
    assert Library(index).remove([composed]) == 1
    assert Library(index).remove([composed]) == 0
    write(folder, {apart: "river", composed: "stone\n\nbridge"})
    sync(folder, index)
    assert Library(index).remove([composed]) == 2
    with pytest.raises(DataError, match="no document or passage"):
        Library(index).remove(["\u00dcbersicht.md"])


def test_names_with_control_characters_are_removed_as_the_terminal_shows_them(tmp_path: Path) -> None:
    raw, shown = "esc\x1b[31mr\u00e9d.txt", r"esc\x1b[31mr" + "\u00e9d.txt"
    folder, index = write(tmp_path / "docs", {raw: "river\n\nstone\n\nbridge", "a.txt": "x"}), tmp_path / "index"
    sync(folder, index)
    assert Library(index).remove([f"{shown}#2"]) == 1
    assert Library(index).remove([shown.replace("\u00e9", "e\u0301")]) == 2
    assert Library(index).remove([shown]) == 0
    with pytest.raises(DataError, match="no document or passage"):
        Library(index).remove([r"esc\x1b.txt"])
    write(folder, {shown: "castle", raw: "river\n\nstone"})
    sync(folder, index)
    assert Library(index).remove([shown]) == 1  # The exact name comes first
    assert f"{raw}#1" in ids(index)


def test_only_what_changed_is_read_and_encoded_and_the_result_is_as_if_made_anew(folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    sync(folder, index, HashEncoder())
    write(folder, {"b/d.txt": "harbor engine\n\ntemple village\n\nforest silver", "0.txt": "painter kitchen"})
    (folder / "b" / "c.txt").unlink()
    (folder / "e.txt").rename(folder / "b" / "z.txt")
    source, encoder = BlankLineSource(folder), HashEncoder()
    report = sync(folder, index, encoder, source=source)
    # The title is part of what is encoded, and it holds the path: a renamed file is encoded again here.
    assert encoder.encoded == ["0 painter kitchen", "b/d temple village", "b/z copper orchard"]
    assert source.read_paths == ["0.txt", "b/d.txt", "b/z.txt"]
    counts = report.counts
    assert (counts.added, counts.changed, counts.renamed, counts.deleted, counts.unchanged) == (1, 1, 1, 1, 1)
    assert content(index) == anew(folder, index, HashEncoder())


def test_a_touched_file_is_read_again_for_its_time_and_not_encoded_again(folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    sync(folder, index, HashEncoder())
    age(folder / "a.txt", 1_100_000_000)
    source, encoder = BlankLineSource(folder), HashEncoder()
    counts = sync(folder, index, encoder, source=source).counts
    assert (source.read_paths, encoder.encoded, counts.changed, counts.unchanged) == (["a.txt"], [], 0, 4)
    assert Retriever.open(index, encoder).store.passage(0).fields == {"modified": "1100000000"}
    assert content(index) == anew(folder, index, HashEncoder())


def test_a_file_that_was_just_written_is_compared_by_content_the_next_time(folder: Path, tmp_path: Path) -> None:
    new = folder / "new.txt"
    new.write_text("first words")
    sync(folder, tmp_path / "index")
    status = new.stat()
    new.write_text("other words")
    os.utime(new, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert sync(folder, tmp_path / "index").counts.changed == 1
    assert Retriever.open(tmp_path / "index").hits("other", "bm25")[0].passage.text == "other words"


def test_vectors_are_added_to_an_index_of_words_without_reading_a_file_again(folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    report = sync(folder, index)
    assert (report.has_vectors, Retriever.open(index).modes) == (False, ("bm25",))
    assert f"`llama2vec sync {folder} {index} --model MODEL`" in Retriever.open(index).store.how_to_add_vectors
    source, encoder = BlankLineSource(folder), HashEncoder()
    assert sync(folder, index, encoder, source=source).encoded == 7
    assert (source.read_paths, len(encoder.encoded)) == ([], 7)
    assert content(index) == anew(folder, index, HashEncoder())
    other = HashEncoder("other contract")
    assert sync(folder, index, other).encoded == 7


def test_an_interrupted_sync_keeps_its_vectors_and_leaves_the_index_as_it_was(folder: Path, tmp_path: Path) -> None:
    class Stops(HashEncoder):
        def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
            if self.encoded:
                raise KeyboardInterrupt
            return super().encode_passages(passages)

    index = tmp_path / "index"
    sync(folder, index)
    before = content(index)
    with pytest.raises(KeyboardInterrupt):
        sync(folder, index, Stops())
    assert content(index) == before
    write(folder, {"b/c.txt": "another text"})
    encoder = HashEncoder()
    assert sync(folder, index, encoder).passages == 7
    assert [text.split()[1] for text in encoder.encoded] == ["another", "forest", "copper"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs", "index"]
    assert content(index) == anew(folder, index, HashEncoder())


def test_unreadable_files_are_named_kept_out_and_an_error_if_strict(folder: Path, tmp_path: Path) -> None:
    write(folder, {"f.txt": "unreadable", "g.txt": "a picture"})
    with pytest.raises(
        DataError, match=r"2 files cannot be read whole, such as f\.txt \(encrypted\); exclude or repair"
    ):
        sync(folder, tmp_path / "index", strict=True)
    assert not (tmp_path / "index").exists()
    report = sync(folder, tmp_path / "index")
    reading = report.reading
    assert (reading.files, reading.skipped) == (5, [Skipped("f.txt", "encrypted")])
    assert reading.partly == [Skipped("g.txt", "page 2 is a picture")]
    source = BlankLineSource(folder)
    assert sync(folder, tmp_path / "index", source=source).reading == reading
    assert source.read_paths == []
    write(folder, {"a.txt": "unreadable now"})
    assert sync(folder, tmp_path / "index").passages == report.passages - 2


def test_a_disk_that_is_full_of_the_texts_read_is_named_by_the_folder_of_the_index(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullFile(io.BytesIO):
        def __init__(self, prefix: str, dir: Path) -> None:
            super().__init__()
            assert (prefix[0], dir) == (".", tmp_path)

        def flush(self) -> None:  # as when the last block is written, also while the file is closed
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            self.flush()

    monkeypatch.setattr(tempfile, "TemporaryFile", FullFile)
    with pytest.raises(DataError, match=f"disk full while writing {tmp_path};"):
        sync(folder, tmp_path / "index")


def test_an_empty_folder_does_not_empty_the_index(folder: Path, tmp_path: Path) -> None:
    sync(folder, tmp_path / "index")
    before = content(tmp_path / "index")
    for path in folder.rglob("*.txt"):
        path.unlink()
    with pytest.raises(EmptyCorpusError, match="has no text to index; nothing was changed"):
        sync(folder, tmp_path / "index")
    assert content(tmp_path / "index") == before


def test_an_index_may_lie_in_its_folder_and_is_no_document_of_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AnyFiles(BlankLineSource):
        def walk(self, without: Collection[Path]) -> Walk:
            return walk(self.folder, without=without)

    monkeypatch.setenv("LLAMA2VEC_CACHE", str(folder / "cache"))
    for index in (folder / "index", folder / ".hidden" / "index", index_in_cache(folder, "model")):
        write(folder, {"cache/readers/note.txt": "of the program"})
        assert sync(folder, index, HashEncoder(), source=AnyFiles(folder)).passages == 7
        assert not sync(folder, index, HashEncoder(), source=AnyFiles(folder)).is_new
        write(folder, {"b/c.txt": "summer market"}, seconds=1_000_000_000 + len(str(index)))
        assert sync(folder, index, HashEncoder(), source=AnyFiles(folder)).counts.changed == 1
        assert [record.path for record in Library(index).inventory.files] == list(FILES)
        write(folder, FILES)
        shutil.rmtree(index)


def test_an_index_is_no_place_for_other_files_and_never_its_own_folder(folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    assert sync(folder, index).passages == 7
    write(index, {"note.txt": "not part of the index"})
    with pytest.raises(OutputExistsError, match=r"holds note\.txt, which llama2vec did not write"):
        sync(folder, index)
    (index / "note.txt").unlink()
    for inside in (index / "store", index):
        with pytest.raises(OutputExistsError, match=r"lies inside the output|is the output itself"):
            sync(inside, index)
    assert not sync(folder, index).is_new


def test_another_folder_another_owner_and_foreign_content_are_refused(folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    sync(folder, index)
    other = write(tmp_path / "other", {"a.txt": "zebra"})
    way_out = r"choose another index, or run `llama2vec sync .*other .*index --overwrite`"
    with pytest.raises(OutputExistsError, match=rf"index follows .*docs, not .*other; {way_out}"):
        sync(other, index)
    lock = Lock(tmp_path / ".lock-index")
    (is_taken, taken), (is_over, over) = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        os._exit(0 if lock.acquire() and os.write(taken, b"1") and os.read(is_over, 1) else 1)
    try:
        assert os.read(is_taken, 1)
        with pytest.raises(OutputExistsError, match=f"process {pid} on .* is writing it; wait for it"):
            sync(folder, index)
    finally:
        os.write(over, b"1")
        os.waitpid(pid, 0)
    assert sync(other, index, follow=True).passages == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "documents.json").write_text("{}")
    with pytest.raises(OutputExistsError, match="does not hold an index that follows a folder"):
        sync(folder, tmp_path / "mine")


def test_removed_documents_and_passages_stay_away_until_their_file_changes(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index, encoder = tmp_path / "index", HashEncoder()
    sync(folder, index, encoder)
    assert Library(index).remove(["b/d.txt#2", "a.txt"]) == 3
    assert Library(index).remove(["b/d.txt#1"]) == 1
    assert Library(index).remove(["b/d.txt#1", "a.txt"]) == 0  # as when a kill came right after the removal
    kept = ["b/c.txt#1", "b/d.txt#3", "e.txt#1"]
    assert list(Retriever.open(index, encoder).store.ids) == kept
    assert not sync(folder, index, encoder).is_new
    (folder / "a.txt").rename(folder / "b" / "a.txt")
    assert sync(folder, index, encoder).passages == 3
    write(folder, {"b/d.txt": FILES["b/d.txt"] + "\n\nwinter"})
    with caplog.at_level(logging.WARNING):
        assert sync(folder, index, encoder).passages == 6
    assert caplog.messages == ["b/d.txt changed, so its removed passages are back"]
    assert len(encoder.encoded) == 7 + 3
    with pytest.raises(DataError, match="no document or passage 'b/d'"):
        Library(index).remove(["b/d.txt", "b/d"])
    with pytest.raises(EmptyCorpusError, match="would be empty"):
        Library(index).remove(["b/c.txt", "b/d.txt", "e.txt"])
    with pytest.raises(StoreError, match="make one with `llama2vec sync`"):
        Library(tmp_path / "nowhere").remove(["a.txt"])


class ReadsLess(BlankLineSource):
    """Skips by other settings of reading, or because of what a file holds."""

    def __init__(self, folder: Path, without: str = "", plan: dict[str, Any] | None = None, **reading: Any) -> None:
        super().__init__(folder, **plan or {})
        self.reading, self.without = ReadingSettings(include=("*.txt",), **reading), without

    def walk(self, without: Collection[Path]) -> Walk:
        return walk(self.folder, self.reading, without=without)

    def content(self, file: SourceFile) -> bytes:
        return file_bytes(file, self.reading)

    def read(self, file: SourceFile, content: bytes) -> tuple[Sequence[Passage], Sequence[str]]:
        if self.without and self.without in content.decode():
            raise UnreadableError("needs a package")
        return super().read(file, content)


KEPT = ["b/c.txt#1", "b/d.txt#1", "b/d.txt#3", "e.txt#1"]
"""What is left without the second passage of b/d.txt, and without a.txt."""


@pytest.fixture
def removed(folder: Path, tmp_path: Path) -> Path:
    sync(folder, tmp_path / "index")
    Library(tmp_path / "index").remove(["b/d.txt#2", "a.txt"])
    return tmp_path / "index"


def ids(index: Path) -> list[str]:
    return list(Retriever.open(index).store.ids)


@pytest.mark.parametrize(
    ("reading", "passages", "deleted"),
    [
        ({"exclude": ("b/d.txt", "a.txt")}, 2, 1),
        ({"exclude": ("b/**", "a.txt")}, 1, 2),
        ({"max_file_bytes": 16}, 2, 1),
    ],
)
def test_what_was_removed_stays_away_while_its_file_is_skipped_and_afterwards(
    folder: Path, removed: Path, reading: dict[str, Any], passages: int, deleted: int, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.txt", "b/d.txt"):
        age(folder / name, 1_100_000_000)  # otherwise their bytes would not be asked for
    less = sync(folder, removed, source=ReadsLess(folder, **reading))
    assert (less.passages, less.counts.deleted) == (passages, deleted)
    again = sync(folder, removed, source=ReadsLess(folder, **reading))
    assert (again.is_new, again.counts.deleted) == (False, 0)
    counts = sync(folder, removed).counts
    assert ids(removed) == KEPT
    # What comes back is added; a.txt, of which nothing does, is as it was.
    assert (counts.added, counts.unchanged, counts.renamed, counts.changed) == (deleted, 4 - deleted, 0, 0)
    assert (counts.deleted, counts.returned, caplog.text) == (0, [], "")
    assert not sync(folder, removed).is_new


def test_a_skipped_file_stays_removed_under_another_name_and_comes_back_when_it_changes(
    folder: Path, removed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sync(folder, removed, source=ReadsLess(folder, exclude=("b/**", "a.txt")))
    (folder / "a.txt").rename(folder / "z.txt")
    (folder / "b" / "d.txt").rename(folder / "f.txt")
    counts = sync(folder, removed, source=ReadsLess(folder, exclude=("b/**",))).counts
    assert ids(removed) == ["e.txt#1", "f.txt#1", "f.txt#3"]
    assert (counts.renamed, counts.deleted, caplog.text) == (0, 0, "")
    sync(folder, removed, source=ReadsLess(folder, exclude=("b/**", "f.txt")))
    write(folder, {"f.txt": "painter kitchen"})
    assert sync(folder, removed).counts.returned == ["f.txt"]
    assert caplog.messages == ["f.txt changed, so its removed passages are back"]
    (folder / "z.txt").unlink()
    assert sync(folder, removed).counts.deleted == 1


class SplitsAtLines(ReadsLess):
    """Splits at ``between`` instead of blank lines."""

    between = "\n"

    def _parts(self, path: str, text: str) -> Iterator[Passage]:
        yield from super()._parts(path, "\n\n".join(text.split(self.between)))


def test_removed_passages_stay_away_while_other_settings_keep_them_whole(
    folder: Path, removed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = {"words": 3}
    sync(folder, removed, source=ReadsLess(folder, plan=plan))
    assert ids(removed) == KEPT
    sync(folder, removed, source=SplitsAtLines(folder, plan={"at": "lines"}))  # The same passages
    assert ids(removed) == KEPT
    # Two syncs under another plan: in the first one the file cannot be read.
    sync(folder, removed, source=ReadsLess(folder, "harbor", plan))
    age(folder / "b" / "d.txt", 1_100_000_000)
    sync(folder, removed, source=ReadsLess(folder, plan=plan))
    assert (ids(removed), caplog.text) == (KEPT, "")
    Library(removed).remove(["b/d.txt#1"])
    sync(folder, removed)
    assert (ids(removed), caplog.text) == (["b/c.txt#1", "b/d.txt#3", "e.txt#1"], "")


class EndsWithCells(BlankLineSource):
    """Newer readers, which end each text with more."""

    def _parts(self, path: str, text: str) -> Iterator[Passage]:
        yield from (replace(part, text=f"{part.text}\ncolor: red") for part in super()._parts(path, text))


def test_removed_passages_stay_away_where_an_upgrade_gives_them_other_texts(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index, now = tmp_path / "index", EndsWithCells(folder, readers=6, packages={"pypdfium2": "5"})
    sync(folder, index, source=BlankLineSource(folder, readers=5, packages={"pypdfium2": "4"}))
    Library(index).remove(["b/d.txt#2", "a.txt"])
    (folder / "b" / "d.txt").rename(folder / "f.txt")
    kept = ["b/c.txt#1", "e.txt#1", "f.txt#1", "f.txt#3"]
    sync(folder, index, source=now)
    assert (ids(index), caplog.text) == (kept, "")
    sync(folder, index, source=EndsWithCells(folder, readers=6, packages={}))
    assert (ids(index), caplog.text) == (kept, "")


def test_of_equal_passages_the_removed_one_stays_away_under_other_settings(tmp_path: Path) -> None:
    folder, index = write(tmp_path / "docs", {"a.txt": "one\n\nsame\n\ntwo\n\nsame\n\nsame"}), tmp_path / "index"
    sync(folder, index)
    Library(index).remove(["a.txt#2"])
    Library(index).remove(["a.txt#5"])
    sync(folder, index, source=BlankLineSource(folder, words=50))
    assert ids(index) == ["a.txt#1", "a.txt#3", "a.txt#4"]


def test_removed_passages_that_are_split_otherwise_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, index = write(tmp_path / "docs", {"g.txt": "one\ntwo\n\nthree\n\nfour", "h.txt": "x"}), tmp_path / "index"
    sync(folder, index)
    Library(index).remove(["g.txt#1", "g.txt#2"])
    sync(folder, index, source=SplitsAtLines(folder, plan={"at": "lines"}))
    assert ids(index) == ["g.txt#1", "g.txt#2", "g.txt#4", "h.txt#1"]
    assert caplog.messages == [
        "g.txt is read or split differently now: 1 of its 2 removed passages has no counterpart, and the text may be "
        "back in others"
    ]
    assert Library(index).remove(["g.txt#1", "g.txt#2", "g.txt#4"]) == 3
    assert sync(folder, index).passages == 1  # Every passage was removed, so the file is


def test_removed_passages_without_a_counterpart_stay_away_once_the_file_is_split_as_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, index = write(tmp_path / "docs", {"a.txt": "one\n\ntwo\n\ntwo\n\nfive", "h.txt": "x"}), tmp_path / "index"
    sync(folder, index)
    Library(index).remove(["a.txt#2", "a.txt#3"])
    (folder / "a.txt").rename(folder / "z.txt")
    sync(folder, index)

    class Whole(SplitsAtLines):
        between = "no such text"

        def _parts(self, path: str, text: str) -> Iterator[Passage]:
            yield from super()._parts(path, text.replace("\n\n", "\n"))

    whole = Whole(folder, plan={"at": "files"})
    sync(folder, index, source=whole)
    assert ids(index) == ["h.txt#1", "z.txt#1"]
    assert caplog.messages == [
        "z.txt is read or split differently now: 2 of its 2 removed passages have no counterpart, and the text may be "
        "back in others"
    ]
    caplog.clear()
    (folder / "z.txt").rename(folder / "y.txt")  # It is read again, and split as before
    sync(folder, index, source=whole)
    sync(folder, index)
    assert (ids(index), caplog.text) == (["h.txt#1", "y.txt#1", "y.txt#4"], "")
    sync(folder, index, source=whole)
    write(folder, {"y.txt": "one\n\ntwo"})
    assert sync(folder, index, source=whole).counts.returned == ["y.txt"]


class FirstPassages(BlankLineSource):
    """Reads the first two passages of a file."""

    def _parts(self, path: str, text: str) -> Iterator[Passage]:
        yield from list(super()._parts(path, text))[:2]


def test_a_file_that_shows_only_its_removed_passages_under_other_settings_has_its_others_back_afterwards(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = tmp_path / "index"
    sync(folder, index)
    Library(index).remove(["b/d.txt#1", "b/d.txt#2"])
    sync(folder, index, source=FirstPassages(folder, words=2))
    assert ids(index) == ["a.txt#1", "a.txt#2", "b/c.txt#1", "e.txt#1"]
    assert not sync(folder, index, source=FirstPassages(folder, words=2)).is_new
    sync(folder, index)
    assert (ids(index), caplog.text) == (["a.txt#1", "a.txt#2", "b/c.txt#1", "b/d.txt#3", "e.txt#1"], "")


def test_a_file_that_becomes_unreadable_and_is_restored_stays_removed(
    folder: Path, removed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(folder, {"a.txt": "unreadable", "b/d.txt": "unreadable"})
    assert sync(folder, removed).passages == 2
    assert not sync(folder, removed).is_new
    write(folder, {name: FILES[name] for name in ("a.txt", "b/d.txt")})
    sync(folder, removed)
    assert (ids(removed), caplog.text) == (KEPT, "")
    write(folder, {"a.txt": "unreadable"})
    sync(folder, removed)
    write(folder, {"a.txt": "painter"})
    assert sync(folder, removed).counts.returned == ["a.txt"]


def test_the_removed_passages_of_a_file_renamed_while_the_settings_change_stay_away(
    folder: Path, removed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "b" / "d.txt").rename(folder / "f.txt")
    assert sync(folder, removed, source=BlankLineSource(folder, words=50)).passages == 4
    assert (ids(removed), caplog.text) == (["b/c.txt#1", "e.txt#1", "f.txt#1", "f.txt#3"], "")


def test_other_settings_or_another_splitter_make_what_they_decide_anew(folder: Path, tmp_path: Path) -> None:
    index, encoder = tmp_path / "index", HashEncoder()
    sync(folder, index, encoder)
    Library(index).remove(["a.txt"])
    source = BlankLineSource(folder, words=50)
    assert sync(folder, index, encoder, source=source).passages == 5
    assert source.read_paths == list(FILES)
    assert len(encoder.encoded) == 7
    half = LibrarySettings(shard_size=3, half=True, language="de")
    assert sync(folder, index, encoder, source=source, settings=half).is_new
    assert Retriever.open(index, encoder).store.dtype == "float16"
    assert not sync(folder, index, encoder, source=source, settings=None).is_new
    assert Library(index).inventory.settings["language"] == "de"


def test_vectors_in_int8_survive_a_change_and_a_removal(folder: Path, tmp_path: Path) -> None:
    index, encoder, settings = tmp_path / "index", HashEncoder(), LibrarySettings(int8=True)
    sync(folder, index, encoder, settings=settings)
    before = Retriever.open(index, encoder).store
    kept = {name: before.vectors([row])[0] for row, name in enumerate(before.ids)}
    made = len(encoder.encoded)
    write(folder, {"b/d.txt": FILES["b/d.txt"] + "\n\nwinter"})
    sync(folder, index, encoder, settings=settings)
    Library(index).remove(["a.txt"])
    after = Retriever.open(index, encoder).store
    assert (before.dtype, after.dtype, len(encoder.encoded) - made) == ("int8", "int8", 1)
    same = [(row, kept[name]) for row, name in enumerate(after.ids) if name in kept]
    assert len(same) > 2
    for row, vector in same:
        np.testing.assert_array_equal(after.vectors([row])[0], vector)


def test_vectors_are_rounded_without_the_model_and_made_again_only_where_rounding_lost_something(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = tmp_path / "index"
    sync(folder, index, HashEncoder())
    for format in ("half", "int8"):
        encoder, settings = HashEncoder(), LibrarySettings(shard_size=5, **{format: True})
        assert sync(folder, index, encoder, settings=settings).is_new
        assert encoder.encoded == []
    assert (VectorStore.open(index / "store").dtype, caplog.text) == ("int8", "")
    warned = []
    encoder = HashEncoder()
    encoder.encode_passages = lambda passages: (
        warned.append(caplog.text)
        or encoder._vectors(  # type: ignore
            [passage.full_text for passage in passages]
        )
    )
    sync(folder, index, encoder)
    assert "the vectors are stored as int8, which is less exact than float32, so all passages are encoded" in warned[0]
    assert "to keep the vectors, interrupt and set index.int8=true" in warned[0]
    exact = content(index)
    assert exact == anew(folder, index, HashEncoder())


def test_an_index_that_follows_another_folder_takes_nothing_from_size_and_time(folder: Path, tmp_path: Path) -> None:
    index, encoder = tmp_path / "index", HashEncoder()
    sync(folder, index, encoder)
    other = write(tmp_path / "other", {**FILES, "e.txt": "silver orchard"})  # As long, and as old
    encoder.encoded.clear()
    counts = sync(other, index, encoder, follow=True).counts
    assert (counts.changed, counts.unchanged, encoder.encoded) == (1, 3, ["e silver orchard"])
    assert "silver orchard" in [passage.text for passage in Retriever.open(index, encoder).store.passages(range(7))]
    assert not sync(other, index, encoder).is_new


def test_a_mistaken_model_does_not_lose_the_vectors_of_an_interrupted_sync(folder: Path, tmp_path: Path) -> None:
    class Killed(HashEncoder):
        def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
            if self.encoded:
                raise KeyboardInterrupt
            return super().encode_passages(passages)

    index = tmp_path / "index"
    for encoder in (Killed(), Killed("mistaken")):
        with pytest.raises(KeyboardInterrupt):
            sync(folder, index, encoder, settings=LibrarySettings(shard_size=2))
    assert len(list(tmp_path.glob(".vectors-index*"))) == 2
    right = HashEncoder()
    sync(folder, index, right, settings=LibrarySettings(shard_size=2))
    assert len(right.encoded) == 7 - 2
    assert not list(tmp_path.glob(".vectors-index*"))


def test_a_damaged_index_is_made_anew_and_what_was_removed_stays_away(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = tmp_path / "index"
    sync(folder, index, HashEncoder())
    Library(index).remove(["e.txt"])
    whole = content(index)
    for name in ("shard-00000.passages.jsonl", "shard-00000.vectors.npy"):
        file = index / "store" / name
        damaged = bytearray(file.read_bytes())
        damaged[-9] ^= 1
        file.write_bytes(damaged)
        write(folder, {"new.txt": f"words {name}"})
        sync(folder, index, HashEncoder())
        (folder / "new.txt").unlink()
        sync(folder, index, HashEncoder())
        assert content(index) == whole
    (index / "store" / "shard-00001.offsets.npy").unlink()
    sync(folder, index, HashEncoder())
    assert content(index) == whole
    assert "rebuilding it" in caplog.text


def test_files_that_give_one_id_are_numbered(folder: Path, tmp_path: Path) -> None:
    class SameIds(BlankLineSource):
        def read(self, file, content):  # type: ignore[no-untyped-def]
            return [Passage("same", "text")], []

    report = sync(folder, tmp_path / "index", source=SameIds(folder))
    assert ids(tmp_path / "index") == ["same", "same@2", "same@3", "same@4"]
    assert [one.reason for one in report.reading.noted] == [
        f"its id was taken, so @{number} was added" for number in (2, 3, 4)
    ]


class EscapedIds(BlankLineSource):
    """Ids as the splitter makes them: white space is percent-encoded."""

    def _parts(self, path: str, text: str) -> Iterator[Passage]:
        for one in super()._parts(path, text):
            yield replace(one, id=one.id.replace(" ", "%20"))


def test_of_two_files_with_one_id_the_one_that_came_later_is_numbered_and_stays_so(tmp_path: Path) -> None:
    folder, index = write(tmp_path / "docs", {"a%20b.txt": "one\n\ntwo", "c.txt": "three"}), tmp_path / "index"

    def synced(**plan: Any) -> tuple[list[str], SyncReport]:
        report = sync(folder, index, HashEncoder(), source=EscapedIds(folder, **plan), strict=True)
        return ids(index), report

    plain, both = ["a%20b.txt#1", "a%20b.txt#2"], ["a%20b.txt@2#1", "a%20b.txt#1", "a%20b.txt#2", "c.txt#1"]
    assert synced()[0] == [*plain, "c.txt#1"]
    fingerprint = Library(index).inventory.fingerprint
    write(folder, {"a b.txt": "four"})  # Sorts before the other
    found, report = synced()
    assert found == both
    assert [(one.name, one.reason) for one in report.reading.noted] == [
        ("a b.txt", "its id was taken, so @2 was added")
    ]
    found, report = synced()
    assert (found, report.is_new, len(report.reading.noted)) == (both, False, 1)
    assert synced(tokens=9)[0] == both  # All files are read again
    age(folder / "a%20b.txt", 1_100_000_000)
    assert synced(tokens=9)[0] == both
    (folder / "a%20b.txt").unlink()
    assert synced(tokens=9)[0] == ["a%20b.txt@2#1", "c.txt#1"]  # What did not change keeps its id
    write(folder, {"a b.txt": "five"}, 1_200_000_000)
    assert synced(tokens=9)[0] == ["a%20b.txt#1", "c.txt#1"]
    assert Library(index).inventory.fingerprint != fingerprint


def test_the_path_of_a_file_removes_that_file_where_another_one_has_the_id(tmp_path: Path) -> None:
    folder, index = (
        write(tmp_path / "docs", {"a b.txt": "one\n\ntwo", "a%20b.txt": "three\n\nfour"}),
        tmp_path / "index",
    )
    sync(folder, index, source=EscapedIds(folder))
    assert Library(index).remove(["a%20b.txt"]) == 2
    assert ids(index) == ["a%20b.txt#1", "a%20b.txt#2"]
    assert Library(index).remove(["a%20b.txt#2"]) == 1


def test_a_moved_index_says_how_it_gets_vectors_from_where_it_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sync(folder, Path("index"))
    (tmp_path / "index").rename(tmp_path / "my index")
    monkeypatch.chdir(folder)
    for store in (VectorStore.open("../my index/store"), Retriever.open("../my index").store):
        place = shlex.split(store.how_to_add_vectors.strip("`"))[3]
        assert (Path(place).resolve(), Path(place).is_absolute()) == (tmp_path / "my index", True)
    Library("../my index").sync(BlankLineSource(folder), None, SETTINGS, model={"name": "someone/model"})
    assert "--model" not in VectorStore.open("../my index/store").how_to_add_vectors


def test_the_index_names_its_store_by_the_place_where_it_lies(folder: Path, tmp_path: Path) -> None:
    sync(folder, tmp_path / "index", HashEncoder())
    place = json.loads((tmp_path / "index" / "index" / "index.json").read_text())["store"]
    assert (place["absolute"], place["relative"]) == (str(tmp_path / "index" / "store"), "../store")
    assert SETTINGS.kind == "exact"
