"""Files are written whole, and read only where reading ends."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from made_stores import TableEncoder, clustered

from llama2vec import files
from llama2vec.data.examples.msmarco import Collection, _temporary_folder
from llama2vec.data.examples.spool import SpooledRow, write_spool
from llama2vec.errors import DataError, OutputExistsError
from llama2vec.files import (
    FileKind,
    check_inputs,
    check_new,
    disk_errors,
    file_sha256,
    open_regular,
    read_text,
    write_atomic,
    write_output,
)
from llama2vec.records import Passage
from llama2vec.retrieve.export.faiss_folder import export_faiss
from llama2vec.retrieve.store.writer import write_store

NOTES = FileKind("notes of ours", rb"# Notes .*\n")


def test_overwrite_replaces_only_an_empty_file_or_one_of_the_kind(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    check_new(path, overwrite=False, kind=NOTES)
    for content in (b"", b"# Notes of May\n"):
        path.write_bytes(content)
        check_new(path, overwrite=True, kind=NOTES)
        with pytest.raises(OutputExistsError, match="exists already; choose another path or --overwrite"):
            check_new(path, overwrite=False, kind=NOTES)
    for content in (b"My # Notes of May\n", b"\x00\xff"):
        path.write_bytes(content)
        with pytest.raises(OutputExistsError, match=r"does not hold notes of ours; .*\(nothing was changed\)"):
            check_new(path, overwrite=True, kind=NOTES)


def test_an_output_may_neither_be_an_input_nor_lie_inside_one(tmp_path: Path) -> None:
    folder, file = tmp_path / "model", tmp_path / "notes.md"
    folder.mkdir()
    file.write_bytes(b"# Notes of May\n")
    (tmp_path / "link.md").symlink_to(file)
    for name in (file, tmp_path / "link.md", folder / ".." / "notes.md"):
        with pytest.raises(OutputExistsError, match="is the output itself"):
            check_new(name, overwrite=True, inputs=[file], kind=NOTES)
    with pytest.raises(OutputExistsError, match="lies inside the input"):
        check_new(folder / "new" / "notes.md", overwrite=True, inputs=[None, "hf:some/data", folder], kind=NOTES)
    check_new(folder / ".cache" / "notes.md", overwrite=True, inputs=[folder], kind=NOTES)  # Never read
    check_new(tmp_path / "model-notes.md", overwrite=True, inputs=[folder, file, "gone"], kind=NOTES)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes by name")
@pytest.mark.parametrize("read", [open_regular, read_text, file_sha256])
def test_a_pipe_is_refused_and_not_waited_for(read: object, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        read(tmp_path / "pipe")  # type: ignore[operator]


@pytest.mark.parametrize("place", ["/dev/zero", "."])
def test_a_device_or_folder_is_refused(place: str) -> None:
    with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
        open_regular(Path(place))


def test_a_text_is_read_as_utf8(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("橋\n".encode())
    assert read_text(tmp_path / "a") == "橋\n"


def test_two_processes_that_write_one_new_file_do_not_replace_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, kind = tmp_path / "a.txt", FileKind("a letter", b"Dear ")
    monkeypatch.setattr(files, "check_new", lambda *_, **__: path.write_text("Dear first"))  # between check and write
    with pytest.raises(OutputExistsError, match="exists already"):
        write_output(path, "Dear second", kind)
    assert path.read_text() == "Dear first"
    write_output(path, "Dear second", kind, overwrite=True)
    assert path.read_text() == "Dear second"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_without_hard_links_a_file_that_is_there_stays_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "not here")

    monkeypatch.setattr(os, "link", refuse)
    write_atomic(tmp_path / "a", b"1", replace=False)
    with pytest.raises(FileExistsError):
        write_atomic(tmp_path / "a", b"2", replace=False)
    assert (tmp_path / "a").read_bytes() == b"1"


def test_overwrite_replaces_only_its_own_kind_even_if_it_appears_late(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("years of work")
    with pytest.raises(OutputExistsError, match=r"a\.txt does not hold a letter"):
        write_output(path, "Dear all", FileKind("a letter", b"Dear "), overwrite=True)
    assert path.read_text() == "years of work"


def test_halves_of_killed_writers_go_and_those_of_live_ones_stay(tmp_path: Path) -> None:
    live, dead = (tmp_path / f"run.trec.tmp-{number * 32}" for number in "ab")
    other = tmp_path / f"other.trec.tmp-{'c' * 32}"
    hold = "import fcntl, sys; file = open(sys.argv[1], 'wb'); fcntl.lockf(file, fcntl.LOCK_EX); "
    hold += "print('locked', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(live)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "locked\n"
        dead.touch()
        other.touch()
        write_output(tmp_path / "run.trec", "q Q0 d 1 2.0 x\n", FileKind("a run", rb"\S+ Q0"))
        assert {path.name for path in tmp_path.iterdir()} == {"run.trec", live.name, other.name}
        writer.communicate()


def test_a_half_of_another_thread_of_this_process_stays(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"outer"
        write_atomic(tmp_path / "x", b"inner", sweep=True)

    write_atomic(tmp_path / "x", chunks())
    assert (tmp_path / "x").read_bytes() == b"outer"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


class FullDisk(sqlite3.Connection):
    """A database for which the disk has room for one page."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.execute("PRAGMA max_page_count = 1")


def test_a_full_disk_is_one_line_from_every_writer_of_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path / "temporary"))
    opened = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda file, **options: opened(file, factory=FullDisk, **options))
    encoder = TableEncoder(clustered(3, 8))
    passages = [Passage(str(number), "text") for number in range(3)]
    store = write_store(lambda: passages, encoder, tmp_path / "store", source={})
    (tmp_path / "collection.tsv").write_text("1\ta text\n", encoding="utf-8")
    again = "free space and run the same command again"
    with pytest.raises(DataError, match=rf"disk full while writing .*rows\.sqlite; {again}"):
        write_spool(tmp_path / "rows.sqlite", [SpooledRow(["text"])])
    with pytest.raises(DataError, match=rf"disk full while writing .*files; {again}"):
        export_faiss(store, tmp_path / "files")
    with pytest.raises(DataError, match=f"disk full while writing {tmp_path / 'temporary'}; {again}"):
        Collection(tmp_path / "collection.tsv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["collection.tsv", "store", "temporary"]


def test_a_temporary_database_lies_where_the_message_says() -> None:
    with closing(sqlite3.connect("")) as database:
        built = {name for (name,) in database.execute("PRAGMA compile_options")}
        if built & {"TEMP_STORE=2", "TEMP_STORE=3"}:
            pytest.skip("this SQLite keeps temporary databases in memory")
        database.execute("CREATE TABLE texts (text TEXT)")
        database.execute("INSERT INTO texts VALUES (?)", ("x" * 10_000_000,))
        if not Path("/proc/self/fd").is_dir():
            pytest.skip("the system does not list open files")
        opened = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if os.path.lexists(link)]
    folder = str(_temporary_folder().resolve())
    assert [path for path in opened if os.path.dirname(path) == folder and "etilqs" in path]


def test_a_database_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing.rows\.sqlite cannot be written \(unable to open database file\)"):
        write_spool(tmp_path / "missing" / "rows.sqlite", [])
    with pytest.raises(sqlite3.OperationalError, match="no such table"):  # noqa: SIM117
        with disk_errors(tmp_path / "out"), closing(sqlite3.connect(":memory:")) as database:
            database.execute("SELECT * FROM missing")


@pytest.mark.parametrize(
    "problem", [OSError(errno.EFBIG, "File too large"), RuntimeError("I/O error: File too large (os error 27)")]
)
def test_a_file_beyond_the_systems_limit_is_one_line(tmp_path: Path, problem: Exception) -> None:
    with pytest.raises(DataError, match=r"larger than the file system or `ulimit -f` allows\)"):  # noqa: SIM117
        with disk_errors(tmp_path / "out", only_full=True):
            raise problem


def test_an_output_that_its_reader_leaves_out_may_lie_inside_an_input(tmp_path: Path) -> None:
    (tmp_path / "docs" / "index").mkdir(parents=True)
    (tmp_path / "docs" / "index" / "a.md").write_text("x")
    check_inputs(tmp_path / "docs" / "index", [tmp_path / "docs"], may_lie_inside=True)
    for name in (tmp_path / "docs" / "index", tmp_path / "docs" / "index" / "a.md"):
        with pytest.raises(OutputExistsError, match=r"is the output itself|lies inside the output"):
            check_inputs(tmp_path / "docs" / "index", [name], may_lie_inside=True)
