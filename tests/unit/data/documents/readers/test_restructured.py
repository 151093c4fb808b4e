"""reStructuredText: titles by the order of their styles, literal blocks, tables; the text is the file's own."""

from __future__ import annotations

from reading import blocks, only_document

GUIDE = """=====
Guide
=====

Intro to :mod:`re`.

Using ``make``
--------------

Example::

    $ make

    $ make install

Then go on.

=====  ====
a      b
=====  ====
1      2
=====  ====

.. code-block:: python

   x = 1

+---+---+
| a | b |
+---+---+

Notes
=====
Done.
"""


def test_titles_code_and_tables_are_blocks_and_lines_stay_the_files() -> None:
    document = only_document("guide.rst", GUIDE)
    assert (document.title, document.lines, document.text) == ("Guide", "file", GUIDE)
    make = ("Guide", "Using make")
    assert blocks(document) == [
        ("heading", ("Guide",), "=====\nGuide\n====="),
        ("text", ("Guide",), "\nIntro to :mod:`re`.".strip("\n")),
        ("heading", make, "Using ``make``\n--------------"),
        ("text", make, "Example::"),
        ("code", make, "    $ make\n\n    $ make install"),
        ("text", make, "Then go on."),
        ("table", make, "=====  ====\na      b\n=====  ====\n1      2\n=====  ===="),
        ("code", make, ".. code-block:: python\n\n   x = 1"),
        ("table", make, "+---+---+\n| a | b |\n+---+---+"),
        ("heading", ("Guide", "Using make", "Notes"), "Notes\n====="),
        ("text", ("Guide", "Using make", "Notes"), "Done."),
    ]


def test_a_file_without_titles_is_one_block_of_text() -> None:
    document = only_document("a.rst", "Just text.\n")
    assert (document.title, blocks(document)) == ("", [("text", (), "Just text.")])
