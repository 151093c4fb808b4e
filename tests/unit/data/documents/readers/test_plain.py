"""Plain text: the file's own text, whatever its encoding and line ends."""

from __future__ import annotations

import pytest
from reading import only_document, refusal


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
def test_marks_and_line_ends_are_understood(encoding: str) -> None:
    text = "Größe\r\nzwei\r\n"
    data = ("\ufeff" + text if encoding == "utf-16-le" else text).encode(encoding)
    document = only_document("a.txt", data)
    assert (document.text, document.lines, document.first_line) == ("Größe\nzwei\n", "file", 1)


def test_text_in_an_old_encoding_is_recognized() -> None:
    text = (
        "Die Größe der Lamas überrascht häufig: größere Tiere wiegen über hundert Kilogramm und können Lasten tragen."
    )
    assert only_document("a.txt", text.encode("cp1252")).text == text
    russian = "Ламы живут в Андах и дают людям шерсть, мясо и молоко уже много тысяч лет, говорят учёные. " * 5
    assert only_document("a.txt", russian.encode("koi8-r")).text == russian


def test_a_given_encoding_is_used_and_its_fault_named() -> None:
    assert only_document("a.txt", "é".encode("latin-1"), encoding="latin-1").text == "é"
    assert refusal("a.txt", "aé".encode("latin-1"), encoding="utf-8") == "is not utf-8 at byte 1"


@pytest.mark.parametrize("data", [b"MZ\x90\0\x03\0\0\0", bytes(range(32)) * 9])
def test_binary_data_is_refused_whatever_its_name(data: bytes) -> None:
    assert refusal("a.txt", data) == "holds binary data, not text"


def test_a_file_without_a_known_suffix_is_text_where_its_bytes_are() -> None:
    assert only_document("LICENSE", "Free.\n").text == "Free.\n"
    assert refusal("blob.xyz", b"\0\1\2") == "unknown kind of file (.xyz)"
    assert refusal("a.png", b"\x89PNG") == "a picture"
    assert refusal("empty.txt", b"") == "empty"
    assert refusal("blank.txt", b" \n") == "holds no text"
