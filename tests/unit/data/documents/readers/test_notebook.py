"""Notebooks: text and code cells in order, and what the code printed."""

from __future__ import annotations

import json

from reading import blocks, only_document, refusal

CELLS = [
    {"cell_type": "markdown", "source": ["# Wool\n", "\n", "Soft."]},
    {
        "cell_type": "code",
        "source": "print(1)\n",
        "outputs": [{"text": ["1\n"]}, {"data": {"text/plain": "<Figure>", "image/png": "iVBOR"}}],
    },
    {"cell_type": "markdown", "source": "## Deep"},
    {"cell_type": "code", "source": "x", "outputs": [{"text": "y" * 3000}]},
]


def test_cells_stand_under_the_headings_before_them() -> None:
    document = only_document("a.ipynb", json.dumps({"cells": CELLS}))
    assert (document.title, document.lines, document.problems) == (
        "Wool",
        "none",
        ("1 output beyond 2,000 characters",),
    )
    assert blocks(document) == [
        ("heading", ("Wool",), "# Wool"),
        ("text", ("Wool",), "Soft."),
        ("code", ("Wool",), "print(1)"),
        ("code", ("Wool",), "1\n<Figure>"),
        ("heading", ("Wool", "Deep"), "## Deep"),
        ("code", ("Wool", "Deep"), "x"),
        ("code", ("Wool", "Deep"), "y" * 2000),
    ]


def test_the_cells_of_old_notebooks_are_found() -> None:
    old = {"worksheets": [{"cells": [{"cell_type": "code", "input": "x = 1", "outputs": []}]}]}
    assert only_document("a.ipynb", json.dumps(old)).text == "x = 1"


def test_a_file_that_is_not_a_notebook_says_so() -> None:
    assert refusal("a.ipynb", "{") == "its JSON is damaged or cut"
    assert refusal("a.ipynb", "[1]") == "is not a notebook: it holds no list of cells"


def test_headings_keep_their_words_and_underlined_ones_their_level() -> None:
    cells = [{"cell_type": "markdown", "source": "Wool\n====\n\nThe `max_len`\n-------------\nSoft."}]
    assert blocks(only_document("a.ipynb", json.dumps({"cells": cells}))) == [
        ("heading", ("Wool",), "Wool\n===="),
        ("heading", ("Wool", "The max_len"), "The `max_len`\n-------------"),
        ("text", ("Wool", "The max_len"), "Soft."),
    ]
