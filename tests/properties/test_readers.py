"""Whatever bytes a file holds, its reader gives documents or one reason, in bounded time, and opens nothing else."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import signal
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_files import docx_bytes, docx_paragraph, epub_bytes, odf_bytes, pdf_bytes, pptx_bytes, xlsx_bytes, zip_bytes
from reading import assert_covered

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers import FORMATS, read_bytes
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import UnreadableError

MOST_SECONDS = 30
EXAMPLES = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

TEXT = "---\ntitle: A\n---\n# One\n\nWords *here*.\n\n```\ncode\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n- x\n"
RST = "=====\nTitle\n=====\n\nText::\n\n    code\n\n=== ===\na   b\n=== ===\n1   2\n=== ===\n\nNext\n----\nEnd.\n"
ROFF = (
    '.TH A 1 "x y"\n.SH NAME\na \\- b\n.TP\n.B \\-x\nText \\fIi\\fR \\(em \\[u2014].\n.nf\ncode\n.fi\n.Op Fl f Ar g\n'
)
HTML = (
    '<html><head><title>T</title><meta charset="utf-8"></head><body><nav>m</nav><main><h1>A</h1><p>x<br>y</p>'
    "<ul><li>1</li></ul><table><tr><td>a</td><td>b</td></tr></table><pre>c</pre></main></body></html>"
)
MAIL = (
    b"From a Thu Feb 29 12:00:00 2024\nSubject: =?utf-8?b?w6Q=?=\nFrom: a@x\nDate: Thu, 29 Feb 2024 12:00:00 +0100\n"
    b'Content-Type: multipart/mixed; boundary="b"\n\n--b\nContent-Type: text/plain; charset=latin-1\n\nHi \xe4.\n--b\n'
    b'Content-Type: text/html\nContent-Disposition: attachment; filename="a.html"\n\n<p>x</p>\n--b--\n'
)
ARCHIVE = (
    b'Subject: x\nMIME-Version: 1.0\nContent-Type: multipart/related; boundary="b"\n\n--b\nContent-Type: text/html\n'
    b"Content-Location: https://x.org/\n\n<h1>A</h1><p>b</p>\n--b--\n"
)
SHEETS = (
    b'<?xml version="1.0"?>\n<Workbook xmlns="urn:schemas-microsoft-com:office:spreadsheet" '
    b'xmlns:ss="urn:schemas-microsoft-com:office:spreadsheet"><Worksheet ss:Name="A"><Table><Row><Cell ss:Index="2">'
    b'<Data ss:Type="Number">1.5</Data><Comment><Data>c</Data></Comment></Cell></Row></Table></Worksheet></Workbook>'
)
CELLS = {
    "cells": [{"cell_type": "markdown", "source": ["# A\n", "b"]}, {"cell_type": "code", "source": "x", "outputs": []}]
}
CHAPTERS = {"a.xhtml": "<h1>A</h1><p>b</p>"}


@cache
def samples() -> dict[str, bytes]:
    """Return one valid file for each suffix that stands for a kind of content."""
    return {
        "a.md": TEXT.encode(),
        "a.rst": RST.encode(),
        "a.txt": TEXT.encode("utf-16"),
        "a.py": b"import os\n\n\ndef a():\n    pass\n\n\nclass B: ...\n",
        "a.1": ROFF.encode(),
        "a.html": HTML.encode(),
        "a.pdf": pdf_bytes([["One inter-", "national"], None, ["Two"]], title="T", bookmarks=[("One", 1), ("Two", 3)]),
        "a.docx": docx_bytes(docx_paragraph("A", "Heading1") + docx_paragraph("b"), title="T"),
        "a.pptx": pptx_bytes(),
        "a.xlsx": xlsx_bytes([["name", "about"], ["A", "one two three four five"], [1.5, None]]),
        "a.epub": epub_bytes(CHAPTERS, ["a.xhtml"]),
        "a.odt": odf_bytes("<office:text><text:h>A</text:h><text:p>b<text:s text:c='3'/></text:p></office:text>"),
        "a.ods": odf_bytes(
            "<office:spreadsheet><table:table table:name='A'><table:table-row><table:table-cell><text:p>one</text:p>"
            "</table:table-cell><table:table-cell table:number-columns-repeated='3'/></table:table-row>"
            "</table:table></office:spreadsheet>"
        ),
        "a.rtf": rb"{\rtf1\ansi{\fonttbl{\f0 A;}}\b One\b0\par caf\'e9 \u8211? {\*\x y}two\par}",
        "a.doc": rb"{\rtf1 One\par}",  # LibreOffice itself is not started here: see its reader's own tests
        "a.xml": b"<?xml version='1.0'?><book><title>A</title><p>b <i>c</i> d</p><screen>x</screen></book>",
        "a.ipynb": json.dumps(CELLS).encode(),
        "a.csv": b'id,text,n\n1,"one two three\nfour, five six",2\n2,x,3\n',
        "a.tsv": b"id\ttext\n1\tone two three four five\n",
        "a.json": b'{"items": [{"id": 1, "text": "x"}, {"id": 2, "text": "y", "tags": ["a"]}]}',
        "a.jsonl": b'{"id": 1, "text": "x"}\n{"_id": "b", "text": "y", "n": 1.5}\n',
        "a.eml": MAIL.partition(b"\n")[2],
        "a.mbox": MAIL + b"\n" + MAIL,
        "a.mhtml": ARCHIVE,
        "Inbox": MAIL + b"\n" + MAIL,
        "a.xls": SHEETS,
        "a.zip": zip_bytes({"a.md": TEXT, "b.html": HTML, "c/d.txt": "x"}),
        "a.txt.gz": gzip.compress(TEXT.encode()),
    }


class HangingError(BaseException):
    """Passes every ``except Exception``."""


@contextmanager
def time_limit() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise HangingError(f"more than {MOST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Opened:
    """What the process opens or connects to, while it is watched; packages' own files do not count."""

    def __init__(self) -> None:
        self.watching = False
        self.found: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.watching or event not in ("open", "socket.connect", "socket.getaddrinfo", "subprocess.Popen"):
            return
        name = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else ""
        own = tuple({sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), os.path.dirname(__file__)})
        if event != "open" or (
            name and not name.startswith(own) and "site-packages" not in name and "/src/" not in name
        ):
            self.found.append(f"{event} {name}")


opened = Opened()


def read(name: str, data: bytes) -> list[Document]:
    """Read bytes as a file of this name; fail if anything but a reason or documents comes of it."""
    opened.found.clear()
    opened.watching = True
    try:
        with time_limit():
            found = read_bytes(data, name, ReadingSettings())
    except UnreadableError as error:
        found, reason = [], str(error)
    else:
        reason = "read"
    finally:
        opened.watching = False
    assert opened.found == []
    assert reason == " ".join(reason.split()) != ""
    for document in found:
        assert_covered(document)
        document.text.encode()
    assert len({document.id for document in found}) == len(found)
    return found


@pytest.fixture(autouse=True, scope="module")
def warm() -> None:
    """Read each sample once: packages open their own tables when they are first used."""
    for name, data in samples().items():
        assert read_bytes(data, name, ReadingSettings()), name


def test_the_watch_sees_what_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    opened.found.clear()
    opened.watching = True
    (tmp_path / "a").open("rb").close()
    opened.watching = False
    assert opened.found == [f"open {tmp_path / 'a'}"]


def test_every_format_has_a_sample() -> None:
    suffixes = {f".{name.rpartition('.')[2]}" for name in samples()}
    assert {one.module for one in FORMATS if not suffixes.intersection(one.suffixes)} == set()


@pytest.mark.parametrize("name", list(samples()))
@given(data=st.binary(max_size=2000))
@EXAMPLES
def test_random_bytes(name: str, data: bytes) -> None:
    read(name, data)
    read(name, samples()[name][:16] + data)


def mutated(data: bytes, drawn: random.Random) -> bytes:
    """Flip, cut, repeat and insert in one to eight places."""
    result = bytearray(data)
    for _ in range(drawn.randint(1, 8)):
        place = drawn.randrange(len(result) + 1)
        kind = drawn.randrange(5)
        if kind == 0 and place < len(result):
            result[place] = drawn.randrange(256)
        elif kind == 1:
            del result[place : place + drawn.randint(1, 40)]
        elif kind == 2:
            result[place:place] = result[place : place + 60] * drawn.randint(1, 30)
        elif kind == 3:
            result[place:place] = drawn.choice(
                [
                    b"\0",
                    b"\xff\xfe",
                    b"9999999999",
                    b"-1",
                    b'"',
                    b"<",
                    b"&x;",
                    b"{",
                    b"[" * 500,
                    b"\r",
                    b"\n\n",
                    b"../../etc/passwd",
                ]
            )
        else:
            del result[place + 1 + drawn.randrange(len(result) + 1) :]
    return bytes(result)


@pytest.mark.parametrize("name", list(samples()))
@given(seed=st.integers(0, 2**32))
@EXAMPLES
def test_damaged_files(name: str, seed: int) -> None:
    read(name, mutated(samples()[name], random.Random(seed)))


ZIPPED = [name for name in samples() if samples()[name].startswith(b"PK")]


@pytest.mark.parametrize("name", ZIPPED)
@given(seed=st.integers(0, 2**32))
@EXAMPLES
def test_archives_whose_members_are_damaged(name: str, seed: int) -> None:
    drawn = random.Random(seed)
    with zipfile.ZipFile(io.BytesIO(samples()[name])) as whole:
        members = {one: whole.read(one) for one in whole.namelist()}
    for chosen in drawn.sample(sorted(members), min(len(members), drawn.randint(1, 3))):
        if drawn.random() < 0.1:
            del members[chosen]
        else:
            members[chosen] = mutated(members[chosen], drawn)
    read(name, zip_bytes(members))


ENTITY = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname"><!ENTITY f SYSTEM "http://127.0.0.1:9/x">]>'


def test_entities_of_an_xml_file_are_not_opened() -> None:
    assert read("a.xml", f"{ENTITY}<a><p>x &e;&f;</p></a>".encode())[0].text == "x &e;&f;"


@pytest.mark.parametrize("name", [name for name in ZIPPED if name != "a.zip"])
def test_entities_of_other_files_are_not_opened(name: str) -> None:
    with zipfile.ZipFile(io.BytesIO(samples()[name])) as whole:
        members = {one: whole.read(one).decode("utf-8", "replace") for one in whole.namelist()}
    for one, content in members.items():
        if one.endswith((".xml", ".opf", ".rels", ".xhtml")):
            start, _, rest = content.rpartition("?>")
            head = f"{start}?>" if start else ""
            text = rest.replace("</", "&e;&f;</")
            read(name, zip_bytes({**members, one: head + ENTITY + text}))


ALIASES = b"---\na: &a0 [b]\n%s---\nx" % b"".join(
    b"a%d: &a%d [*a%d, *a%d]\n" % (number, number, number - 1, number - 1) for number in range(1, 60)
)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.html", b"<div>" * 300_000),
        ("a.html", b"<table><tr><td>" * 30_000),
        ("a.html", b"<p" + b" a=b" * 200_000),
        ("a.md", b"> " * 50_000 + b"x"),
        ("a.md", b"- " * 20_000 + b"x"),
        ("a.md", b"# " + b"[" * 100_000),
        ("a.md", b"# " + b"*" * 100_000),
        ("a.md", b"| a |\n|---|\n" + b"| x |\n" * 3_000),
("a.md", ALIASES),
        ("a.rst", b"=" * 500_000),
        ("a.rst", b"a::\n\n b\n" * 5_000),
        ("a.rst", b"=== ===\n" * 30_000),
        ("a.rst", (b"= =\n" + b"x x\n" * 20) * 500),
        ("a.xml", b"<a>" * 300_000),
        ("a.xml", b"<a><!DOCTYPE x [" + b"<!ENTITY a '&b;'>" * 20_000),
        ("a.json", b"[" * 500_000),
        ("a.jsonl", b'{"a":' * 100_000),
        ("a.ipynb", b'{"cells":' + b"[" * 500_000),
        ("a.csv", b'"' * 500_000),
        ("a.csv", b"," * 500_000 + b"\n1"),
        ("a.1", b".TH a 1\n" + b'.B "' * 50_000),
        ("a.1", b".TH a 1\n" + b"\\[" * 200_000),
        ("a.1", b".TH a 1\n" + b"\\f[" * 200_000),
        ("a.rtf", b"{\\rtf1 " + b"{" * 100_000),
        ("a.rtf", b"{\\rtf1 " + b"\\" * 100_000),
        ("a.rtf", b"{\\rtf1 " + b"\\'" * 100_000 + b"\\u" * 100_000),
        ("a.py", b"public static " * 50_000),
        ("a.py", b"\n\nx" * 10_000),
        ("a.eml", b"Subject: " + b"=?utf-8?q?" * 20_000 + b"\n\nx"),
        ("a.eml", b"To: " + b"a <" * 20_000 + b"\n\nx"),
        ("a.eml", b"Content-Type: multipart/mixed; boundary=b\n\n--b\n" * 20_000),
        ("a.mbox", b"From a 2024\n\n" * 2_000),
        ("a.txt", b"\xe9" * 300_000),
        ("a.txt", "é".encode() * 300_000 + b"\xff"),
    ],
    ids=range(34),
)  # fmt: skip
def test_files_made_to_take_long_end_in_time(name: str, data: bytes) -> None:
    read(name, data)
