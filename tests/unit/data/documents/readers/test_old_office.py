"""Old Office formats: what LibreOffice is asked, what becomes of its answer, and what files without it say."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

import pytest
from made_files import docx_bytes, docx_paragraph, pptx_bytes, xlsx_bytes
from reading import documents, only_document, refusal

from llama2vec.data.documents.readers import old_office
from llama2vec.errors import UnreadableError

OLD = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
HERD = [["name", "about"], ["Ayla", "She leads the herd up the mountain."]]


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a stand-in for LibreOffice, which answers with the file ``converted`` next to it."""
    folder = tmp_path / "programs"
    folder.mkdir()
    script = folder / "soffice"
    script.write_text(
        f"""#!/bin/sh
printf '%s\\n' "$@" > {folder}/called
env > {folder}/environment
for last in "$@"; do :; done
cp "$last" {folder}/given
cp "$HOME/profile/user/registrymodifications.xcu" {folder}/profile
[ -f {folder}/slow ] && sleep 60
while [ "$1" != --convert-to ]; do shift; done
[ -f {folder}/converted ] && mkdir -p "$4" && cp {folder}/converted "$4/document.$2"
exit 0
"""
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    monkeypatch.setattr(old_office, "_without_network", tuple)
    return folder


@pytest.mark.parametrize(
    ("name", "new", "content", "expected"),
    [
        ("a.doc", "docx", docx_bytes(docx_paragraph("Wool", "Heading1") + docx_paragraph("Soft.")), ["a.doc"]),
        ("a.xls", "xlsx", xlsx_bytes(HERD), ["a.xls!Herd#2"]),
        ("A.PPT", "pptx", pptx_bytes(), ["A.PPT"]),
    ],
)
def test_a_file_is_converted_and_read_in_its_place(
    office: Path, name: str, new: str, content: bytes, expected: list[str]
) -> None:
    (office / "converted").write_bytes(content)
    found = documents(name, OLD)
    assert [one.id for one in found] == expected
    assert (office / "given").read_bytes() == OLD
    called = (office / "called").read_text().splitlines()
    assert called[called.index("--convert-to") + 1] == new
    assert {"--headless", "--norestore"} <= set(called)
    assert "DisableMacrosExecution" in (office / "profile").read_text()
    environment = (office / "environment").read_text()
    assert "hidden" not in environment
    assert "http_proxy=http://127.0.0.1:9" in environment
    assert not list(Path(called[-1]).parent.parent.glob(Path(called[-1]).parent.name))


def test_without_libreoffice_the_file_is_skipped_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refusal("a.doc", OLD) == (
        "an old Office format; install LibreOffice to read it, or save it as .docx, .pptx or .xlsx"
    )


def test_what_only_has_the_suffix_needs_no_libreoffice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert only_document("a.doc", rb"{\rtf1 Soft wool.\par}").text.strip() == "Soft wool."
    assert only_document("a.doc", b"<html><body><p>Soft wool.</p></body></html>").text == "Soft wool."
    assert only_document("a.doc", b"Soft wool.\n").text == "Soft wool.\n"
    assert [one.id for one in documents("a.xls", xlsx_bytes(HERD))] == ["a.xls!Herd#2"]
    for encoding in ("utf-8", "utf-16"):
        table = "Sales report\nname\tprice\nPump\t90\nValve\t20\n".encode(encoding)
        assert documents("a.xls", table)[1].fields == {"name": "Pump", "price": 90}
    assert only_document("a.xls", b"A letter, in two lines,\nof prose.\n").text.startswith("A letter")
    assert refusal(
        "a.doc", b"<?xml version='1.0'?><w:d xmlns:w='http://schemas.microsoft.com/office/word/2003/wordml'/>"
    ) == (old_office.MISSING)
    assert refusal("a.doc", b"\0\1\2\3") == "damaged (it does not begin as an Office file)"


def test_a_file_that_cannot_be_converted_or_takes_too_long_is_one_reason(
    office: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal("a.doc", OLD) == "LibreOffice cannot convert it; is it encrypted or damaged?"
    (office / "converted").write_bytes(docx_bytes(docx_paragraph("x" * 50)))
    assert "once it is converted" in refusal("a.doc", OLD, max_file_bytes=700)
    (office / "slow").touch()
    monkeypatch.setattr(old_office, "MOST_SECONDS", 0.5)
    started = time.monotonic()
    assert refusal("a.doc", OLD) == "LibreOffice did not convert it within 0.5 s"
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("seed", range(4))
def test_damaged_answers_are_a_reason_or_documents(office: Path, seed: int) -> None:
    draw = random.Random(seed)
    content = bytearray(docx_bytes(docx_paragraph("Soft wool.")))
    for _ in range(seed):
        content[draw.randrange(len(content))] = draw.randrange(256)
    (office / "converted").write_bytes(bytes(content) if seed else draw.randbytes(300))
    if seed == 0:
        assert "damaged" in refusal("a.doc", OLD)
        return
    with contextlib.suppress(UnreadableError):  # Anything else fails the test
        documents("a.doc", OLD)
