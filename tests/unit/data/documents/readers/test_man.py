"""Manual pages: both macro sets as plain words, sections as headings."""

from __future__ import annotations

import gzip

from reading import blocks, only_document, refusal

MAN = r""".\" a comment
.TH HUM 1 "2024" "Herd"
.SH NAME
hum \- make a sound
.SH "SYNOPSIS"
.B hum
.RI [ options ]
.SH OPTIONS
.TP
.BR \-l ", " \-\-loud
Hum \fIloudly\fR.
.PP
See
.BR spit (1).
.nf
  $ hum \-l
.fi
"""

MDOC = r""".Dd January 1, 2024
.Dt SPIT 1
.Os
.Sh NAME
.Nm spit
.Nd throw saliva
.Sh SYNOPSIS
.Nm
.Op Fl f Ar file
.Sh DESCRIPTION
The
.Nm
tool aims; see
.Xr hum 1 .
"""


def test_a_man_page_is_read_without_its_markup() -> None:
    document = only_document("man1/hum.1.gz", gzip.compress(MAN.encode()))
    assert (document.id, document.title, document.lines) == ("man1/hum.1.gz", "HUM(1)", "none")
    assert blocks(document) == [
        ("heading", ("NAME",), "NAME"),
        ("text", ("NAME",), "hum - make a sound"),
        ("heading", ("SYNOPSIS",), "SYNOPSIS"),
        ("text", ("SYNOPSIS",), "hum [options]"),
        ("heading", ("OPTIONS",), "OPTIONS"),
        ("text", ("OPTIONS",), "-l, --loud\nHum loudly.\n\nSee spit(1)."),
        ("code", ("OPTIONS",), "  $ hum -l"),
    ]


def test_an_mdoc_page_is_read_with_the_name_it_stands_for() -> None:
    document = only_document("spit.1", MDOC)
    assert document.title == "SPIT(1)"
    assert [block[2] for block in blocks(document) if block[0] == "text"] == [
        "spit — throw saliva",
        "spit [-f file]",
        "The spit tool aims; see hum 1.",
    ]


def test_other_files_with_such_a_name_are_text_and_aliases_are_named() -> None:
    assert only_document("NEWS.1", "Just news.\n").text == "Just news.\n"
    assert refusal("a.1", ".so man1/hum.1\n") == "only stands for man1/hum.1"
    assert refusal("lib.so.1", b"\x7fELF\0\0") == "holds binary data, not text"
