"""Finding the reader of a file, and formats whose packages are not installed."""

from __future__ import annotations

import sys

import pytest
from made_files import docx_bytes, docx_paragraph, pdf_bytes, zip_bytes
from reading import documents, only_document, refusal

from llama2vec.data.documents.readers import FORMATS, INSTALL, is_document


@pytest.mark.parametrize(
    ("package", "name", "data"),
    [
        ("pypdfium2", "a.pdf", pdf_bytes([["x"]])),
        ("selectolax", "a.html", b"<p>x"),
        ("mammoth", "a.docx", docx_bytes(docx_paragraph("x"))),
        ("openpyxl", "a.xlsx", zip_bytes({"a": "x"})),
        ("lxml", "a.epub", zip_bytes({"a": "x"})),
        ("selectolax.lexbor", "a.eml", b"Content-Type: text/html\n\n<p>x"),
    ],
)
def test_a_format_whose_package_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, package: str, name: str, data: bytes
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert refusal(name, data) == INSTALL == "needs pip install 'llama2vec[documents]'"


def test_front_matter_that_cannot_be_read_without_a_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    document = only_document("a.md", "---\ntitle: T\n---\n# H\n")
    assert (document.title, document.problems) == ("H", (f"front matter {INSTALL}",))


def test_each_suffix_belongs_to_one_format() -> None:
    suffixes = [suffix for one in FORMATS for suffix in one.suffixes]
    assert len(suffixes) == len(set(suffixes))
    assert is_document("a/B.PDF")
    assert not is_document("a.parquet")
    assert is_document("a.zip")
    assert not is_document("a.zip", ("pdf", "html"))


def test_members_of_one_name_get_ids_of_their_own() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = _doubled()
    assert [(one.id, one.text) for one in documents("a.zip", data)] == [("a.zip!x.txt", "1"), ("a.zip!x.txt@2", "2")]


def test_parts_that_share_a_reason_are_counted() -> None:
    pictures = {f"{number}.png": "x" for number in range(300)}
    document = only_document("a.zip", zip_bytes({**pictures, "a.txt": "words", "a.woff": "x"}))
    assert document.problems == ("300 parts: a picture (0.png, 1.png, 2.png, …)", "a.woff: a font")


def _doubled() -> bytes:
    import io
    import zipfile

    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as opened:
        opened.writestr("x.txt", "1")
        opened.writestr("x.txt", "2")
    return target.getvalue()
