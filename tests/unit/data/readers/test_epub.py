"""EPUB: chapters in reading order, title and author, and chapters that are missing."""

from __future__ import annotations

from made_files import epub_bytes, zip_bytes
from reading import blocks, only_document, refusal

CHAPTERS = {
    "one.xhtml": "<html><body><h1>Wool</h1><p>Soft.</p></body></html>",
    "two.xhtml": "<html><body><h1>Sound</h1><h2>Hum</h2><p>Often.</p></body></html>",
}


def test_chapters_come_in_reading_order_without_the_contents_page() -> None:
    document = only_document("a.epub", epub_bytes(CHAPTERS, order=["nav.xhtml", "two.xhtml", "one.xhtml"]))
    assert (document.title, document.lines, document.problems) == ("Camelids", "none", ())
    assert dict(document.fields) == {"author": "A. Writer", "date": "2024", "language": "en"}
    assert blocks(document) == [
        ("heading", ("Sound",), "Sound"),
        ("heading", ("Sound", "Hum"), "Hum"),
        ("text", ("Sound", "Hum"), "Often."),
        ("heading", ("Wool",), "Wool"),
        ("text", ("Wool",), "Soft."),
    ]


def test_a_chapter_that_is_missing_or_outside_is_named() -> None:
    document = only_document("a.epub", epub_bytes(CHAPTERS, order=["one.xhtml", "gone.xhtml", "../../../etc/passwd"]))
    assert document.problems == ("OPS/gone.xhtml: missing", "../../etc/passwd: missing")


def test_a_file_that_is_not_a_book_says_what_it_lacks() -> None:
    assert refusal("a.epub", zip_bytes({"a.txt": "x"})) == "lacks META-INF/container.xml"
    assert refusal("a.epub", b"PK\3\4 cut") == "its zip data is damaged or cut"


def test_entities_of_other_files_stay_unread(tmp_path: object) -> None:
    evil = '<!DOCTYPE package [<!ENTITY x SYSTEM "file:///etc/hostname">]>'
    document = only_document("a.epub", epub_bytes(CHAPTERS, order=["one.xhtml"], before=evil, title="T&x;"))
    assert document.title == "T&x;"
