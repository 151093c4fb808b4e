"""Archives: members are read like files, and bombs, nests and damaged members are named."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile

import pytest
from made_files import without_utf8_flag, zip_bytes
from reading import documents, only_document, refusal


def tar_bytes(members: dict[str, bytes], mode: str = "w") -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode) as opened:  # type: ignore[call-overload]
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            opened.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        opened.addfile(link)
    return target.getvalue()


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_a_compressed_file_is_read_under_its_own_name(suffix: str, pack: object) -> None:
    assert callable(pack)
    document = only_document(f"a/guide.md{suffix}", pack(b"# Llamas\nHum.\n"))
    assert (document.id, document.title, document.lines) == (f"a/guide.md{suffix}", "Llamas", "file")


def test_a_zip_file_is_read_member_by_member_without_hidden_ones() -> None:
    data = zip_bytes({"a.md": "# A", "sub/b.txt": "B", ".hidden/c.txt": "C", "__MACOSX/d.txt": "D"})
    assert [one.id for one in documents("x.zip", data)] == ["x.zip!a.md", "x.zip!sub/b.txt"]


def test_members_whose_names_climb_out_are_read_within_the_archive() -> None:
    members = {"./a.txt": b"A", "../b.txt": b"B", "/c/./d.txt": b"D", "e/../.git/f.txt": b"F"}
    for name, data in (("x.zip", zip_bytes(members)), ("x.tar", tar_bytes(members))):
        assert [one.id for one in documents(name, data)] == [f"{name}!a.txt", f"{name}!b.txt", f"{name}!c/d.txt"]


def test_members_that_cannot_be_read_are_named_and_the_others_read() -> None:
    found = documents("x.zip", zip_bytes({"a.txt": "A", "b.png": b"\x89PNG", "c.txt": b"\0\0"}))
    assert [one.text for one in found] == ["A"]
    assert found[-1].problems == ("b.png: a picture", "c.txt: holds binary data, not text")


@pytest.mark.parametrize("fault", ["damaged or cut", "encrypted"])
def test_a_damaged_or_encrypted_member_is_named_and_all_others_are_read(fault: str) -> None:
    data = bytearray(zip_bytes({name: f"Text of {name}" for name in ("a.txt", "b.txt", "c/d.txt", "e.txt")}))
    if fault == "encrypted":
        data[data.index(b"PK\1\2", data.index(b"PK\1\2") + 1) + 8] |= 1
    else:
        place = data.index(b"b.txt") + len("b.txt")
        data[place : place + 4] = b"\xff" * 4
    found = documents("x.zip", bytes(data))
    assert [one.text for one in found] == ["Text of a.txt", "Text of c/d.txt", "Text of e.txt"]
    assert found[-1].problems == (f"b.txt: {fault}",)


@pytest.mark.parametrize(
    ("name", "mode"), [("x.tar", "w"), ("x.tar.gz", "w:gz"), ("x.tgz", "w:gz"), ("x.tar.xz", "w:xz")]
)
def test_a_tar_file_is_read_and_its_links_lead_nowhere(name: str, mode: str) -> None:
    found = documents(name, tar_bytes({"./d/a.txt": b"A", "b.txt": b"B"}, mode))
    assert [(one.id, one.text) for one in found] == [(f"{name}!d/a.txt", "A"), (f"{name}!b.txt", "B")]


def test_bombs_are_refused_before_they_unfold() -> None:
    zeros = b"0" * 50_000_000
    assert refusal("a.txt.gz", gzip.compress(zeros)) == "unfolds to more than 300 times its size (a bomb?)"
    assert refusal("a.zip", zip_bytes({"a.txt": zeros})) == "unfolds to more than 300 times its size (a bomb?)"
    noise = b"".join(b"%d " % number for number in range(20_000))
    assert refusal("a.txt.gz", gzip.compress(noise), max_file_bytes=50_000).startswith("unfolds to more than max_file")
    assert refusal("a.zip", zip_bytes({"a": noise}), max_file_bytes=50_000).startswith("unfolds to more than max_file")


def test_archives_within_archives_end_at_the_limit() -> None:
    data: bytes = b"deep"
    for _ in range(4):
        data = zip_bytes({"x.zip" if data != b"deep" else "x.txt": data})
    assert documents("a.zip", data)[0].id == "a.zip!x.zip!x.zip!x.zip!x.txt"
    data = zip_bytes({"x.zip": data})
    assert "more than 4 archives within each other" in refusal("a.zip", data)


def test_a_cut_or_encrypted_archive_says_so() -> None:
    whole = gzip.compress(b"text " * 99)
    assert refusal("a.txt.gz", whole[:-9]) == "its gz data is damaged or cut"
    assert refusal("a.zip", zip_bytes({"a.txt": "A"})[:-9]) == "its zip data is damaged or cut"
    assert refusal("a.tar", b"x" * 2000) == "its tar data is damaged or cut"
    locked = bytearray(zip_bytes({"a.txt": "A"}))
    locked[locked.index(b"PK\1\2") + 8] |= 1
    assert refusal("a.zip", bytes(locked)) == "a.txt: encrypted"


def test_members_without_text_are_counted_and_named() -> None:
    [found] = documents(
        "a.zip", zip_bytes({"a.txt": "A", "b/blank.md": "\n", "c.txt": " ", "d.txt": " ", "e.txt": " "})
    )
    assert found.problems == ("4 of 5 documents in it hold no text (!b/blank.md, !c.txt, !d.txt, …)",)


def test_names_that_macos_wrote_as_utf_8_without_saying_so_are_read() -> None:
    data = without_utf8_flag(zip_bytes({"Über uns/naïve café.md": "A", "日本.txt": "B", "plain.txt": "C"}))
    assert [one.id for one in documents("x.zip", data)] == [
        "x.zip!Über uns/naïve café.md", "x.zip!日本.txt", "x.zip!plain.txt",
    ]  # fmt: skip


def test_names_in_the_encoding_of_zip_itself_stay() -> None:
    data = without_utf8_flag(zip_bytes({"Xber.txt": "A"})).replace(b"Xber", b"\x9aber")
    assert [one.id for one in documents("x.zip", data)] == ["x.zip!Über.txt"]
