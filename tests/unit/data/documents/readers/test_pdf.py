"""PDF: pages, bookmarks, words that a line's end divides, running headers, and pages without text."""

from __future__ import annotations

import pytest
from made_files import pdf_bytes

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers import read_bytes
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import UnreadableError


def read(data: bytes) -> Document:
    [document] = read_bytes(data, "guide.pdf", ReadingSettings())
    return document


def pages(document: Document) -> dict[int | None, str]:
    found: dict[int | None, str] = {}
    for block in document.blocks:
        found[block.page] = found.get(block.page, "") + document.text[block.begin : block.end]
    return {page: text.strip() for page, text in found.items()}


def test_each_page_is_a_block_with_its_number_and_lines_count_from_its_top() -> None:
    document = read(pdf_bytes([["Llamas hum.", "Often."], ["Alpacas hum too."]], title="Camelids"))
    assert pages(document) == {1: "Llamas hum.\nOften.", 2: "Alpacas hum too."}
    assert document.text == "Llamas hum.\nOften.\n\nAlpacas hum too."
    assert (document.title, document.lines, document.problems) == ("Camelids", "page", ())
    assert dict(document.fields) == {"author": "A. Writer", "date": "2024-02-29"}


def test_bookmarks_are_headings_and_begin_where_the_page_names_them() -> None:
    lines = [["1 Wool", "Soft.", "2 Sound", "They hum."], ["They also cluck."]]
    document = read(pdf_bytes(lines, bookmarks=[("Wool", 1), ("Sound", 1)]))
    found = [(block.page, block.headings, document.text[block.begin : block.end].strip()) for block in document.blocks]
    assert found == [
        (1, ("Wool",), "1 Wool\nSoft."),
        (1, ("Sound",), "2 Sound\nThey hum."),
        (2, ("Sound",), "They also cluck."),
    ]
    assert document.title == "Wool"


def test_a_page_without_text_is_named_and_a_blank_one_is_not() -> None:
    document = read(pdf_bytes([["First."], None, [], None, None, ["Last."]]))
    assert document.problems == ("pages 2, 4–5 have no text (scanned?)",)
    assert pages(document) == {1: "First.", 6: "Last."}
    assert read(pdf_bytes([["First."], None])).problems == ("page 2 has no text (scanned?)",)


def test_a_file_of_pictures_is_skipped() -> None:
    with pytest.raises(UnreadableError, match=r"^no page has text \(scanned\?\)$"):
        read(pdf_bytes([None, None]))


def test_words_divided_at_a_line_end_are_joined_and_compounds_stay() -> None:
    lines = ["The inter-", "national herd is well-", "known. A well-known herd", "came from Peru-", "Bolivia."]
    text = read(pdf_bytes([lines])).text
    assert "The international\nherd is well-known.\nA well-known herd" in text
    assert "Peru-Bolivia." in text


def test_running_headers_and_page_numbers_are_left_out_and_other_lines_stay() -> None:
    lines = [
        ["The Llama Handbook", f"Fact {number} of the day.", f"{number + 4}  Chapter {number}"]
        for number in range(1, 9)
    ]
    document = read(pdf_bytes(lines))
    assert pages(document) == {number: f"Fact {number} of the day." for number in range(1, 9)}
    assert document.problems == ()


def test_ligatures_become_letters() -> None:
    from llama2vec.data.documents.readers.pdf import _cleaned

    assert _cleaned("e\ufb03cient \ufb01bers  \n") == "efficient fibers"


@pytest.mark.parametrize(
    ("data", "reason"), [(pdf_bytes([["x"]], encrypted=True), "encrypted"), (b"%PDF-1.7\nx", "damaged")]
)
def test_an_encrypted_or_damaged_file_says_so(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableError, match=f"^{reason}$"):
        read(data)


def test_headings_and_lines_that_begin_or_end_like_a_page_number_stay() -> None:
    titles = ["Safety", "Oil", "Seals", "Pumps", "Lamps", "Fuses", "Cables", "Shafts"]
    chapters = [[f"{number} {title}", f"About {title}.", "End."] for number, title in enumerate(titles, start=1)]
    found = pages(read(pdf_bytes(chapters)))
    assert [text.split("\n")[0] for text in found.values()] == [lines[0] for lines in chapters]
    lines = [[title, f"About {title}.", f"- {number} -"] for number, title in enumerate(titles, start=1)]
    lines[3][0], lines[6][1] = "4 bolts hold the cover.", "as listed in Table 7"
    assert list(pages(read(pdf_bytes(lines))).values()) == ["\n".join(page[:2]) for page in lines]


def test_what_was_filled_into_a_form_is_read() -> None:
    assert read(pdf_bytes([["Name of the customer:"]], entry="Ann Smith")).text == "Name of the customer:\nAnn Smith"
