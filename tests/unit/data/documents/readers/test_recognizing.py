"""What files without a telling name are, and texts that only talk about pages and mail."""

from __future__ import annotations

import pytest
from reading import documents, only_document

from llama2vec.data.documents.readers.recognizing import first_letters, recognized

BODY = "<p>Soft wool.</p>"


@pytest.mark.parametrize(
    "page",
    [
        f"<html><body>{BODY}</body></html>",
        f"\ufeff<!DOCTYPE html><html>{BODY}</html>",
        f"<!-- saved from url=(0014)about:internet -->\n<HTML>{BODY}</HTML>",
        f'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "x" "y">\n<html xmlns="http://www.w3.org/1999/xhtml">{BODY}</html>',
        f"<meta charset='utf-8'>{BODY}",
        f"<body class='x'>\n{BODY}</body>",
        "<table border=1>\n<tr><td>Soft wool.</td></tr></table>",
    ],
)
@pytest.mark.parametrize("name", ["page", "page.unknown", "a.doc", "a.xls"])
def test_a_page_is_read_as_one_whatever_its_name(name: str, page: str) -> None:
    assert only_document(name, page).text == "Soft wool."
    assert only_document(name, page.removeprefix("\ufeff").encode("utf-16")).text == "Soft wool."


@pytest.mark.parametrize(
    "text",
    [
        "<table> is the element that holds rows.\n",
        "<body> follows <head>, and both stand in a page.\n",
        "<!-- A comment of Markdown -->\n# Pages begin with <html>\n",
        "<meta> and <link> are void elements.\n",
        "From: Ann\nTo: Bo\nSubject: Wool\n\nA letter that somebody typed.\n",
        "Received: 3 boxes\nDate: May 5\n\nThe delivery.\n",
        "From 12:30 on 5 May 2024 the road is closed.\nNote: take the bridge.\n",
        "The headers are these:\nMIME-Version: 1.0\nReturn-Path: <a@x.org>\nFrom: a@x.org\n",
        "MIME-Version: 1.0\nContent-Type: text/plain\nis what every message says; then come others.\n\nYes.\n",
        f"From {'0123456789' * 4} Mon Sep 17 00:00:00 2001\nFrom: A <a@x.org>\nDate: x\nSubject: [PATCH] y\n\n-a\n",
    ],
)
@pytest.mark.parametrize("name", ["notes", "a.unknown", "a.doc"])
def test_a_text_about_pages_or_mail_stays_a_text(name: str, text: str) -> None:
    assert only_document(name, text).text == text


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py", "1700000000.backup.txt"])
@pytest.mark.parametrize("text", ["<html>\n<p>x\n</html>\n", "MIME-Version: 1.0\nSubject: x\n\ny\n"])
def test_the_suffix_of_a_text_is_believed(name: str, text: str) -> None:
    if name.startswith("17") and text.startswith("MIME"):
        return  # A message of a Maildir
    assert only_document(name, text).text == text


def test_the_first_letters_are_read_in_their_encoding() -> None:
    assert first_letters("ä<".encode("utf-16"))[:3] == "ä<".encode()
    assert first_letters(b"\xef\xbb\xbfx") == b"x"
    assert recognized(b" %PDF-1.7") == ".pdf"
    assert recognized(b"<!-- never closed <html>") == ""


def test_a_text_in_utf_16_without_a_suffix_is_read() -> None:
    assert [one.text for one in documents("notes", "Soft wool.\n".encode("utf-16"))] == ["Soft wool.\n"]
