"""Folders of documents: which files are read, in which order, and that everything skipped is named with its reason."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from made_files import pdf_bytes, zip_bytes

from llama2vec.data.documents.folder import ReadingReport, Skipped, SourceFile, read_documents, read_file, walk
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import CorpusFormatError, DataError


def made(folder: Path, **files: str | bytes) -> Path:
    """Write files; ``__`` in a name is a slash and ``_`` a dot."""
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def names(source: Path, **settings: object) -> tuple[list[str], dict[str, str]]:
    found = walk(source, ReadingSettings.model_validate(settings))
    return [one.name for one in found.files], {one.name: one.reason for one in found.skipped}


def test_files_come_sorted_without_hidden_ones(tmp_path: Path) -> None:
    made(tmp_path, b_txt="b", a__z_md="z", a_txt="a")
    made(tmp_path / ".git", config="x")
    (tmp_path / ".hidden.txt").write_text("x")
    assert names(tmp_path) == (["a.txt", "a/z.md", "b.txt"], {})
    [first, *_] = walk(tmp_path).files
    status = (tmp_path / "a.txt").stat()
    assert first == SourceFile(tmp_path / "a.txt", "a.txt", 1, status.st_mtime_ns)


def test_a_single_file_is_a_walk_of_one(tmp_path: Path) -> None:
    path = made(tmp_path, a_txt="x") / "a.txt"
    assert names(path) == (["a.txt"], {})
    with pytest.raises(CorpusFormatError, match=r"gone: no such file or folder; check the path$"):
        walk(tmp_path / "gone")


def test_links_are_followed_once_and_never_out_of_the_folder(tmp_path: Path) -> None:
    outside = made(tmp_path / "outside", secret_txt="secret")
    docs = made(tmp_path / "docs", a_txt="a", sub__b_txt="b")
    (docs / "circle").symlink_to(docs, target_is_directory=True)
    (docs / "again").symlink_to(docs / "sub", target_is_directory=True)
    made(docs / ".store", c_txt="c")
    (docs / "shown").symlink_to(docs / ".store", target_is_directory=True)
    (docs / "out").symlink_to(outside, target_is_directory=True)
    (docs / "out.txt").symlink_to(outside / "secret.txt")
    (docs / "same.txt").symlink_to(docs / "a.txt")
    (docs / "gone.txt").symlink_to(docs / "nowhere")
    (docs / "loop.txt").symlink_to(docs / "loop.txt")
    read, skipped = names(docs)
    assert read == ["a.txt", "shown/c.txt", "sub/b.txt"]
    assert skipped == {
        "circle/": "a link to a folder that is read already",
        "again/": "a link to a folder that is read already",
        "out/": "a link that leaves the folder",
        "out.txt": "a link that leaves the folder",
        "same.txt": "a link to a file that is read already",
        "gone.txt": "a link that leads nowhere",
        "loop.txt": "a link that leads nowhere",
    }


def test_what_the_caller_leaves_out_is_not_named(tmp_path: Path) -> None:
    made(tmp_path, a_txt="a", index__store_json="{}", run_txt="x")
    found = walk(tmp_path, without=[tmp_path / "index", tmp_path / "run.txt"])
    assert ([one.name for one in found.files], found.skipped) == (["a.txt"], ())


def test_pipes_sockets_and_devices_are_named_and_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, a_txt="a")
    os.mkfifo(tmp_path / "pipe.txt")
    monkeypatch.chdir(tmp_path)  # The name of a socket is short
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("s.txt")
        assert names(tmp_path) == (["a.txt"], {"pipe.txt": "a pipe, not a file", "s.txt": "a socket, not a file"})
    replaced = SourceFile(tmp_path / "pipe.txt", "pipe.txt", 1, 0)
    assert read_file(replaced, ReadingSettings()) == Skipped("pipe.txt", "cannot be read (not a regular file)")
    gone = SourceFile(tmp_path / "gone.txt", "gone.txt", 1, 0)
    assert read_file(gone, ReadingSettings()) == Skipped("gone.txt", "cannot be read (No such file or directory)")


def test_patterns_rule_files_and_folders_in_and_out(tmp_path: Path) -> None:
    made(tmp_path, a_md="x", b_txt="x", old__c_md="x", old__deep__d_md="x", x__node_modules__e_md="x")
    assert names(tmp_path, include=["*.md"], exclude=["old/**"]) == (
        ["a.md", "x/node.modules/e.md"],
        {"b.txt": "not among the included patterns", "old/": "excluded by old/**"},
    )
    (tmp_path / "x" / "node_modules").mkdir()
    (tmp_path / "x" / "node_modules" / "f.js").write_text("x")
    assert names(tmp_path)[1] == {"x/node_modules/": "excluded by **/node_modules/**"}


@pytest.mark.skipif(os.name == "nt", reason="file names are Unicode there")
def test_a_name_that_is_not_unicode_is_skipped(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "wb") as file:
        file.write(b"x")
    assert names(tmp_path) == ([], {"caf?.txt": "its name is not UTF-8; rename it"})


BAD = {
    "bomb.zip": zip_bytes({"a.txt": b"0" * 9_000_000}),
    "cut.zip": zip_bytes({"a.txt": "text"})[:-5],
    "locked.pdf": pdf_bytes([["x"]], encrypted=True),
    "scan.pdf": pdf_bytes([None]),
    "empty.txt": b"",
    "large.txt": b"x" * 300_000,
    "picture.png": b"\x89PNG",
}
REASONS = {
    "bomb.zip": "unfolds to more than 300 times its size (a bomb?)",
    "cut.zip": "its zip data is damaged or cut",
    "locked.pdf": "encrypted",
    "scan.pdf": "no page has text (scanned?)",
    "empty.txt": "empty",
    "large.txt": "larger than max_file_bytes (200,000)",
    "picture.png": "a picture",
}


def test_each_bad_file_is_named_with_its_reason_and_the_rest_is_read(tmp_path: Path) -> None:
    made(tmp_path, a_txt="A", z_md="# Z")
    (tmp_path / "half.pdf").write_bytes(pdf_bytes([["x"], None]))
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    for name, content in BAD.items():
        (tmp_path / name).write_bytes(content)
    report = ReadingReport()
    settings = ReadingSettings(max_file_bytes=200_000)
    found = [one.id for one in read_documents(tmp_path, settings, report=report)]
    assert found == ["a.txt", "half.pdf", "z.md"]
    assert {one.name: one.reason for one in report.skipped} == REASONS | {"gone.txt": "a link that leads nowhere"}
    assert report.partly == [Skipped("half.pdf", "page 2 has no text (scanned?)")]
    assert report.summary() == "read 3 files (3 documents), 1 of them only partly, skipped 8"
    assert "skipped     1  encrypted: locked.pdf" in report.table()
    strict = ReadingSettings(max_file_bytes=200_000, strict=True)
    with pytest.raises(
        DataError, match=r"9 files cannot be read whole, such as gone\.txt \(a link that leads nowhere\)"
    ):
        list(read_documents(tmp_path, strict))


def test_the_table_groups_files_by_reason() -> None:
    skipped = [Skipped(f"{number}.png", "a picture") for number in range(1200)] + [Skipped("b.pdf", "encrypted")]
    report = ReadingReport(files=2, documents=30, skipped=skipped)
    assert report.table() == (
        "read 2 files (30 documents), skipped 1,201\n"
        "  skipped 1,200  a picture: 0.png, 1.png, 2.png, … 1,197 more\n"
        "  skipped     1  encrypted: b.pdf"
    )


def test_each_document_carries_the_day_of_its_files_last_change(tmp_path: Path) -> None:
    path = made(tmp_path, a_txt="a") / "a.txt"
    os.utime(path, (86_400 * 366, 86_400 * 366))
    [document] = read_documents(tmp_path)
    assert dict(document.fields) == {"modified": "1971-01-02"}


def test_a_field_modified_of_a_document_takes_the_place_of_its_files_day(tmp_path: Path) -> None:
    made(tmp_path, a_csv="name,Modified\nAyla,2001-02-03\n")
    [document] = read_documents(tmp_path)
    assert dict(document.fields) == {"name": "Ayla", "Modified": "2001-02-03"}


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, a_txt="a", sub__b_txt="b")
    whole = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert names(tmp_path) == (["a.txt"], {"sub/": "cannot be listed (Permission denied)"})


def test_a_link_is_read_where_the_file_behind_it_is_not(tmp_path: Path) -> None:
    made(tmp_path, data__a_md="a", data__b_md="b", index__c_md="c")
    for link, target in {"guide": "data/a", "second": "data/a", "stored": "index/c"}.items():
        (tmp_path / f"{link}.md").symlink_to(tmp_path / f"{target}.md")
    again = "a link to a file that is read already"
    excluded = {"data/": "excluded by data/**", "index/": "excluded by index/**", "second.md": again}
    assert names(tmp_path, exclude=["data/**", "index/**"]) == (["guide.md", "stored.md"], excluded)
    read, skipped = names(tmp_path, include=["guide.md", "data/b.md"])
    assert (read, skipped["data/a.md"]) == (["data/b.md", "guide.md"], "not among the included patterns")
    read, skipped = names(tmp_path)
    assert read == ["data/a.md", "data/b.md", "index/c.md"]
    assert skipped == {"guide.md": again, "second.md": again, "stored.md": again}
    # What the caller leaves out is not read by another name either.
    found = walk(tmp_path, ReadingSettings(exclude=["data/**"]), without=[tmp_path / "index"])
    assert [one.name for one in found.files] == ["guide.md"]


def test_links_to_one_hidden_file_are_all_read(tmp_path: Path) -> None:
    (tmp_path / ".objects").mkdir()
    (tmp_path / ".objects" / "1").write_text("a", encoding="utf-8")
    for name in ("a.md", "b.md"):
        (tmp_path / name).symlink_to(tmp_path / ".objects" / "1")
    assert names(tmp_path) == (["a.md", "b.md"], {})


def test_a_link_to_a_folder_tells_whether_the_folder_is_read(tmp_path: Path) -> None:
    made(tmp_path, data__a_md="a")
    (tmp_path / "guide").symlink_to(tmp_path / "data", target_is_directory=True)
    assert names(tmp_path)[1]["guide/"] == "a link to a folder that is read already"
    assert names(tmp_path, include=["guide/*"])[1]["guide/"] == "a link to a folder from which no file is read"


def test_strict_counts_files_and_not_their_problems() -> None:
    partly = [Skipped("a.pdf", "page 2 has no text (scanned?)"), Skipped("a.pdf", "page 3 has odd letters")]
    with pytest.raises(DataError, match=r"docs: 1 file cannot be read whole, such as a\.pdf \(page 2"):
        ReadingReport(partly=partly).check("docs")


def test_links_in_a_circle_are_skipped_where_something_is_left_out(tmp_path: Path) -> None:
    made(tmp_path, a_txt="a", index__b_txt="b")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    found = walk(tmp_path, without=[tmp_path / "index"])
    assert [one.name for one in found.files] == ["a.txt"]
    assert {one.reason for one in found.skipped} == {"a link that leads nowhere"}


def test_names_that_are_not_utf_8_can_be_written_whatever_the_reason(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("x")
        (tmp_path / os.fsdecode(b"d\xe9")).mkdir()
    except OSError:
        pytest.skip("the file system takes only UTF-8")
    reasons = {"caf?.txt": "not among the included patterns", "d?/": "excluded by d*/**"}
    assert names(tmp_path, include=["*.pdf"], exclude=["d*/**"]) == ([], reasons)


def test_a_name_with_a_line_break_stays_on_its_line_of_the_table() -> None:
    report = ReadingReport(skipped=[Skipped("a\nb\x1b.png", "a picture")])
    assert report.table().endswith("a picture: a\\nb\\x1b.png")
    with pytest.raises(DataError, match=r"such as a\\nb"):
        report.check("docs")


@pytest.mark.parametrize("seconds", [10**12, -(10**12)])
def test_a_time_outside_the_calendar_gives_its_last_or_first_day(tmp_path: Path, seconds: int) -> None:
    path = made(tmp_path, a_txt="a") / "a.txt"
    day = {"modified": "9999-12-31" if seconds > 0 else "0001-01-01"}
    documents = read_file(SourceFile(path, "a.txt", 1, seconds * 10**9), ReadingSettings())
    assert [dict(one.fields) for one in documents] == [day]  # type: ignore[union-attr]
    os.utime(path, (seconds, seconds))
    if path.stat().st_mtime != seconds:
        pytest.skip("the file system has no such times")
    assert [dict(one.fields) for one in read_documents(tmp_path)] == [day]


def test_a_pattern_that_matches_nothing_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made(tmp_path, a_md="a", drafts__b_md="b")
    for _ in range(2):
        assert names(tmp_path, exclude=["Drafts/", "darfts/"]) == (["a.md"], {"drafts/": "excluded by Drafts/"})
    assert caplog.messages == [f"{tmp_path}: the exclude pattern 'darfts/' leaves nothing out; check its spelling"]


def test_a_folder_around_the_root_leaves_nothing_out(tmp_path: Path) -> None:
    made(tmp_path, docs__data__a_md="a")
    (tmp_path / "docs" / "b.md").symlink_to(tmp_path / "docs" / "data" / "a.md")
    found = walk(tmp_path / "docs", ReadingSettings(include=("b.md",)), without=[tmp_path])
    assert [one.name for one in found.files] == ["b.md"]


def test_what_is_noted_of_a_file_is_shown_and_no_fault() -> None:
    report, more = ReadingReport(), ReadingReport(files=2, documents=2, noted=[Skipped("a.md", "its id was taken")])
    assert not report.has_entries
    report.add(more)
    report.check("docs")
    assert report.has_entries
    assert report.table() == "read 2 files (2 documents)\n  noted     1  its id was taken: a.md"


def test_indexes_and_stores_are_skipped_by_name_also_behind_links(tmp_path: Path) -> None:
    made(tmp_path, a_md="a", index__b_txt="b", old__store__c_txt="c", own__d_txt="d", plain__documents_json="{}")
    for name, kind in {"index/documents.json": "library", "old/store/store.json": "store"}.items():
        (tmp_path / name).write_text('{\n "format": "llama2vec-' + kind + '", "version": 1}')
    (tmp_path / "latest").symlink_to(tmp_path / "own", target_is_directory=True)
    (tmp_path / "other").symlink_to(tmp_path / "index", target_is_directory=True)
    found = walk(tmp_path, without=[tmp_path / "own"])
    assert [one.name for one in found.files] == ["a.md", "plain/documents.json"]
    ours = "an index or a store of llama2vec"
    assert {one.name: one.reason for one in found.skipped} == {"index/": ours, "old/store/": ours, "other/": ours}


def test_what_a_pattern_leaves_out_is_no_fault_to_strict(tmp_path: Path) -> None:
    made(tmp_path, a_md="a", b_pdf="b", drafts__c_md="c")
    settings = ReadingSettings(include=("*.md",), exclude=("drafts/",), strict=True)
    assert [one.id for one in read_documents(tmp_path, settings)] == ["a.md"]
