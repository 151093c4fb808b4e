"""Markdown: front matter, headings, code and tables; the text and its lines are the file's own."""

from __future__ import annotations

import pytest
from reading import blocks, only_document

GUIDE = """---
title: The guide
year: 2021
date: 2021-03-04
tags: [wool, sound]
nested: {x: 1}
---
Intro.

# Wool

Soft.
Very soft.

```python
# not a heading

x = 1
```
After.

## Colors *and* [shades](x.md) #

| a | b |
|---|---|
| 1 | 2 |

Sound
-----
- one

- two
"""


def test_headings_code_and_tables_are_blocks_and_lines_stay_the_files() -> None:
    document = only_document("guide.md", GUIDE.replace("\n", "\r\n"))
    assert document.title == "The guide"
    assert dict(document.fields) == {"year": 2021, "date": "2021-03-04", "tags": "wool, sound"}
    assert document.lines == "file"
    assert document.text.split("\n")[7:] == GUIDE.split("\n")[7:]
    assert document.text.startswith("\n" * 7 + "Intro.")
    assert blocks(document) == [
        ("text", (), "Intro."),
        ("heading", ("Wool",), "# Wool"),
        ("text", ("Wool",), "Soft.\nVery soft."),
        ("code", ("Wool",), "```python\n# not a heading\n\nx = 1\n```"),
        ("text", ("Wool",), "After."),
        ("heading", ("Wool", "Colors and shades"), "## Colors *and* [shades](x.md) #"),
        ("table", ("Wool", "Colors and shades"), "| a | b |\n|---|---|\n| 1 | 2 |"),
        ("heading", ("Wool", "Sound"), "Sound\n-----"),
        ("text", ("Wool", "Sound"), "- one\n\n- two"),
    ]


def test_the_first_heading_is_the_title_without_front_matter() -> None:
    assert only_document("a.md", "Hello\n\n## Llamas\n").title == "Llamas"
    assert only_document("a.md", "Hello\n").title == ""


@pytest.mark.parametrize("front", ["---\n: : [\n---\n", "---\nonly text\n\n---\n", "---\n- a list\n---\n"])
def test_a_text_between_rules_that_is_not_front_matter_stays(front: str) -> None:
    document = only_document("a.md", f"{front}Text.\n")
    assert (dict(document.fields), document.text) == ({}, f"{front}Text.\n")


@pytest.mark.parametrize(
    "front",
    ["---\ntitle: Pumps: a guide\nyear: 2020\n---\n", "---\ndate: 2024-02-30\n---\n", "+++\ntitle = Pumps\n+++\n"],
)
def test_damaged_front_matter_is_named_and_gives_no_title(front: str) -> None:
    document = only_document("a.md", f"{front}# Wells\n\nText.\n")
    assert (document.title, dict(document.fields)) == ("Wells", {})
    assert document.text == f"{front}# Wells\n\nText.\n"
    assert document.problems == ("its front matter is damaged, so it has no fields",)
    assert [block.kind for block in document.blocks] == ["text", "heading", "text"]


def test_toml_front_matter_is_read() -> None:
    document = only_document("a.md", '+++\ntitle = "T"\ndraft = true\n+++\nText.\n')
    assert (document.title, dict(document.fields), document.text) == ("T", {"draft": True}, "\n\n\n\nText.\n")


def test_a_rule_between_paragraphs_is_not_front_matter() -> None:
    assert only_document("a.md", "One.\n\n---\n\nTwo.\n").text == "One.\n\n---\n\nTwo.\n"


@pytest.mark.parametrize(
    ("heading", "words"),
    [
        ("The max_file_bytes setting", "The max_file_bytes setting"),
        ("`Vec<T>` and Map<String, Integer> in __init__", "Vec<T> and Map<String, Integer> in __init__"),
        ("**Very** _soft_ *max_tokens* __wool here__", "Very soft max_tokens wool here"),
        ("[![Build](b.svg)](x) C# <br> <https://a.org> 2*3", "Build C# https://a.org 2*3"),
        (r"max\_tokens `a_b` *_both_*", "max_tokens a_b both"),
    ],
)
def test_headings_lose_their_markup_and_no_signs_of_code(heading: str, words: str) -> None:
    assert only_document("a.md", f"# {heading}\n\nText.\n").title == words


def test_front_matter_keeps_what_yaml_would_write_otherwise() -> None:
    front = (
        "version: 1.10\nphone: +49\nzip: 012\ntime: 12:30\ncountry: NO\nyear: 2020\nsize: 1.5\ndraft: true\nid: '7'\n"
    )
    document = only_document("a.md", f"---\n{front}---\nText.\n")
    assert dict(document.fields) == {
        "version": "1.10", "phone": "+49", "zip": "012", "time": "12:30", "country": "NO", "year": 2020, "size": 1.5,
        "draft": True, "id": "7",
    }  # fmt: skip
    toml = only_document("a.md", "+++\nversion = 1.10\nsize = 1.5\nall = inf\n+++\nText.\n")
    assert dict(toml.fields) == {"version": "1.10", "size": 1.5, "all": "inf"}
