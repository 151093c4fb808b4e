"""Building blocks of readers: blocks cover the text, and tight paragraphs follow without a blank line."""

from __future__ import annotations

from reading import assert_covered, blocks

from llama2vec.data.documents.readers.building import Part, TextBuilder, line_blocks


def test_a_built_text_is_covered_by_its_blocks() -> None:
    builder = TextBuilder()
    builder.add("Before.")
    builder.heading(1, "Wool")
    builder.add("- one")
    builder.add("- two", tight=True)
    builder.add("Later.")
    builder.add(" ")
    builder.heading(2, "Deep")
    builder.add("x\n  y", "code")
    builder.heading(1, "Sound")
    document = builder.document("a")
    assert_covered(document)
    assert document.title == "Wool"
    assert document.text == "Before.\n\nWool\n\n- one\n- two\n\nLater.\n\nDeep\n\nx\n  y\n\nSound"
    assert [block[:2] for block in blocks(document)] == [
        ("text", ()), ("heading", ("Wool",)), ("text", ("Wool",)), ("heading", ("Wool", "Deep")),
        ("code", ("Wool", "Deep")), ("heading", ("Sound",)),
    ]  # fmt: skip
    assert blocks(document)[2][2] == "- one\n- two\n\nLater."


def test_nothing_built_is_an_empty_document() -> None:
    document = TextBuilder().document("a")
    assert (document.text, document.blocks) == ("", ())


def test_parts_at_one_line_or_past_the_end_leave_the_text_covered() -> None:
    found = line_blocks("a\nb", [Part(0), Part(0, "code"), Part(1), Part(9)])
    assert [(block.begin, block.end, block.kind) for block in found] == [(0, 2, "code"), (2, 3, "text")]
