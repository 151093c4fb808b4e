"""Documents of an index as the service gives them out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llama2vec.errors import ConfigError
from llama2vec.records import Passage, Place
from llama2vec.serve.files import CorpusFiles, headers_of, pieces, size_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("secret")
    inside = tmp_path / "corpus"
    (inside / "guide").mkdir(parents=True)
    (inside / "guide" / "set up.md").write_text("# Setup\n" * 100_000)
    (inside / "empty.txt").write_text("")
    (inside / "link.txt").symlink_to(tmp_path / "secret.txt")
    (inside / "inner.md").symlink_to(inside / "guide" / "set up.md")
    (inside / "out").symlink_to(tmp_path)
    os.mkfifo(inside / "pipe")
    return inside


def content(files: CorpusFiles, path: str) -> bytes | None:
    opened = files.open(path)
    return None if opened is None else b"".join(pieces(opened, size_of(opened)))


@pytest.mark.parametrize("by_folder", [True, False])
def test_only_regular_files_of_the_folder_are_opened_and_never_through_a_link(
    folder: Path, monkeypatch: pytest.MonkeyPatch, by_folder: bool
) -> None:
    monkeypatch.setattr("llama2vec.serve.files._BY_FOLDER", by_folder)
    files = CorpusFiles(folder)
    assert content(files, "guide/set up.md") == b"# Setup\n" * 100_000
    assert content(files, "empty.txt") == b""
    for path in (
        "", ".", "..", "/etc/passwd", "../secret.txt", "guide/../../secret.txt", "./empty.txt", "guide/./set up.md",
        "link.txt", "inner.md", "out/secret.txt", "guide", "guide/", "pipe", "gone.txt", "empty.txt\0",
        str(folder / "empty.txt"), "x" * 5000, "empty.txt/x",
    ):  # fmt: skip
        assert files.open(path) is None, path
    descriptors = Path("/proc/self/fd")
    if descriptors.is_dir():
        before = len(list(descriptors.iterdir()))
        for _ in range(20):
            content(files, "guide/set up.md")
            files.open("out/secret.txt")
            files.open("pipe")
        assert len(list(descriptors.iterdir())) == before


@pytest.mark.parametrize(
    ("name", "data", "kind", "shown"),
    [
        ("page.html", b"<script>alert(1)</script>", "text/plain; charset=utf-8", "inline"),
        ("a.svg", b"<svg onload='alert(1)'/>", "text/plain; charset=utf-8", "inline"),
        ("a.md", "Übersicht".encode(), "text/plain; charset=utf-8", "inline"),
        ("cut.md", b"x" * 4095 + "Ü".encode(), "text/plain; charset=utf-8", "inline"),
        ("a.pdf", b"%PDF-1.7\n\0\1", "application/pdf", "inline"),
        ("evil.pdf", b"<html>", "text/plain; charset=utf-8", "inline"),
        ("a.docx", b"PK\3\4\0\0", "application/octet-stream", "attachment"),
        ("latin.txt", b"caf\xe9 au lait", "application/octet-stream", "attachment"),
    ],
)
def test_a_browser_shows_text_and_pdf_and_runs_nothing(
    tmp_path: Path, name: str, data: bytes, kind: str, shown: str
) -> None:
    (tmp_path / name).write_bytes(data)
    opened = CorpusFiles(tmp_path).open(name)
    assert opened is not None
    headers = headers_of(opened, name, size_of(opened))
    assert (headers["Content-Type"], headers["Content-Length"]) == (kind, str(len(data)))
    assert headers["Content-Disposition"] == f"{shown}; filename*=UTF-8''{name}"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "script" not in headers["Content-Security-Policy"]
    assert ("sandbox" in headers["Content-Security-Policy"]) == (kind != "application/pdf")
    assert b"".join(pieces(opened, size_of(opened))) == data


def test_a_file_that_grows_is_sent_as_long_as_its_headers_say(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_bytes(b"first")
    opened = CorpusFiles(tmp_path).open("log.txt")
    assert opened is not None
    size = size_of(opened)
    with (tmp_path / "log.txt").open("ab") as file:
        file.write(b" and more")
    assert headers_of(opened, "log.txt", size)["Content-Length"] == "5"
    assert b"".join(pieces(opened, size)) == b"first"


def test_a_name_cannot_add_a_header(tmp_path: Path) -> None:
    name = 'a"\r\nX: y;ü.txt'
    (tmp_path / name).write_text("x")
    opened = CorpusFiles(tmp_path).open(name)
    assert opened is not None
    with opened:
        disposition = headers_of(opened, f"guide/{name}", 1)["Content-Disposition"]
    assert disposition == "inline; filename*=UTF-8''a%22%0D%0AX%3A%20y%3B%C3%BC.txt"


def test_an_address_leads_to_the_file_of_a_passage(folder: Path) -> None:
    files = CorpusFiles(folder)

    def address(document: str | None) -> str | None:
        return files.address(Passage("x", "t", place=Place(document, 0, 1) if document else None))

    assert address("guide/set up.md") == "files/guide/set%20up.md"
    for part in ("#12", "#key", "!a/b.md", "!sheet#7"):
        assert address(f"empty.txt{part}") == "files/empty.txt"
    assert [address(document) for document in ("gone.md", "../secret.txt", None)] == [None] * 3
    # What is never given out has no link to it either.
    assert [address(document) for document in ("link.txt", "inner.md", "out/secret.txt", "inner.md#3")] == [None] * 4


def test_what_is_no_folder_is_refused_at_once(folder: Path) -> None:
    for path in (folder / "empty.txt", folder / "gone"):
        with pytest.raises(ConfigError, match=r"--files .*: is not a folder"):
            CorpusFiles(path)
