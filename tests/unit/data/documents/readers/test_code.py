"""Source code: definitions at the left margin are blocks, named by what they define; lines are the file's."""

from __future__ import annotations

from reading import blocks, only_document, refusal

PYTHON = '''"""Module."""

import os

# The herd.
@cached
def herd(size):
    x = size

    return x

class Llama:
    def hum(self): ...
'''


def test_each_definition_is_a_block_with_its_name() -> None:
    document = only_document("src/herd.py", PYTHON)
    assert (document.title, document.lines, document.text) == ("herd.py", "file", PYTHON)
    assert blocks(document) == [
        ("code", (), '"""Module."""'),
        ("code", (), "import os"),
        ("code", ("herd",), "# The herd.\n@cached\ndef herd(size):\n    x = size\n\n    return x"),
        ("code", ("Llama",), "class Llama:\n    def hum(self): ..."),
    ]


def test_other_languages_follow_the_same_rule() -> None:
    document = only_document("a.go", "package a\n\nfunc (h *Herd) Hum(n int) {\n\n}\n\ntype Wool struct {}\n")
    assert [block[1] for block in blocks(document)] == [(), ("Hum",), ("Wool",)]


def test_a_blank_file_holds_no_text() -> None:
    assert refusal("a.py", " \n\n") == "holds no text"


def test_escapes_of_properties_are_letters() -> None:
    assert only_document("a.properties", "greeting=Gr\\u00fc\\u00dfe\n").text == "greeting=Grüße\n"
    assert only_document("a.py", 'x = "\\u00fc"\n').text == 'x = "\\u00fc"\n'
