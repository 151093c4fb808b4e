"""EPUB: chapters in reading order, title and author, and chapters that are missing."""

from __future__ import annotations

from made_files import epub_bytes, without_utf8_flag, zip_bytes
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


def encryption(path: str) -> dict[str, str]:
    return {"META-INF/encryption.xml": f'<encryption><CipherReference URI="{path}"/></encryption>'}


def test_a_book_with_obfuscated_fonts_is_read_and_one_with_encrypted_chapters_says_so() -> None:
    chapters = {"one.xhtml": "<p>It was a dark night.</p>"}
    data = epub_bytes(chapters, order=["one.xhtml"], more=encryption("OPS/font.otf"))
    assert only_document("a.epub", data).text == "It was a dark night."
    assert refusal("a.epub", epub_bytes(chapters, order=["one.xhtml"], more=encryption("OPS/one.xhtml"))) == "encrypted"
    two = epub_bytes(CHAPTERS, order=["one.xhtml", "two.xhtml"], more=encryption("OPS/one.xhtml"))
    assert only_document("a.epub", two).problems == ("OPS/one.xhtml: encrypted",)


def test_notes_beside_a_chapter_are_read() -> None:
    page = '<section><article><p>Pressure<a href="#n">1</a></p></article></section><aside id="n"><p>In bar.</p></aside>'
    assert only_document("a.epub", epub_bytes({"a.xhtml": page}, order=["a.xhtml"])).text == "Pressure1\n\nIn bar."


def test_a_book_of_pictures_holds_no_text() -> None:
    assert refusal("a.epub", epub_bytes({"a.xhtml": "<img src='a.png'/>"}, order=["a.xhtml"])) == "holds no text"


def test_chapters_whose_names_macos_wrote_are_found() -> None:
    for name in ("Über.xhtml", "U\u0308ber.xhtml"):
        data = epub_bytes({name: "<p>It was a dark night.</p>"}, order=["Über.xhtml"])
        assert only_document("a.epub", without_utf8_flag(data)).text == "It was a dark night."
