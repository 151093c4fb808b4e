"""Documents and blocks are plain values."""

from __future__ import annotations

from llama2vec.data.documents.document import Block, Document


def test_a_document_without_structure_counts_the_lines_of_its_file() -> None:
    document = Document("notes.txt", "A llama hums.")
    assert (document.lines, document.first_line, document.blocks, document.problems) == ("file", 1, (), ())
    assert Block(0, 13).kind == "text"
