"""Rich text: paragraphs, other alphabets, and what is no text."""

from __future__ import annotations

from reading import only_document, refusal

TEXT = rb"""{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Times New Roman;}}{\info{\title Not shown}}
{\*\generator Some Program;}\f0\b Wool\b0\par
Soft, warm caf\'e9 wool \u8211? and {\i long}.\par\par
{\pict\pngblip 89504e470d0a1a0a}End.\par}"""


def test_paragraphs_are_read_without_their_markup() -> None:
    document = only_document("a.rtf", TEXT)
    assert [one.strip() for one in document.text.split("\n\n")] == ["Wool", "Soft, warm café wool – and long.", "End."]


def test_a_file_that_is_no_rich_text_says_so() -> None:
    assert refusal("a.rtf", b"\0\1plain") == "damaged (it does not begin as RTF)"
    assert refusal("a.rtf", rb"{\rtf1 }") == "holds no text"


def test_notes_and_boxes_stand_at_the_end() -> None:
    text = (
        rb"{\rtf1\ansi The pressure{\super\chftn}{\footnote {\super\chftn} In \{bar\}.} rises"
        rb"{\*\footnote Slowly.}.\par{\shp{\*\shpinst{\shptxt A box.\par}}}{\moMath{\mr x}}End.\par}"
    )
    document = only_document("a.rtf", text)
    assert [" ".join(one.split()) for one in document.text.split("\n\n")] == [
        "The pressure[1] rises[2].", "End.", "[1] In {bar}.", "[2] Slowly.", "A box.",
    ]  # fmt: skip
    assert document.problems == ("1 equation left out",)
    assert only_document("a.rtf", rb"{\rtf1 One{\footnote two}").text == "One[1]\n\n[1] two"
