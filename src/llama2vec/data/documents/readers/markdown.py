"""Markdown: the file's own text, with front matter as fields, and headings, code and tables as blocks."""

from __future__ import annotations

import datetime
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers.building import INSTALL, Part, line_blocks
from llama2vec.data.documents.readers.encodings import decoded
from llama2vec.data.documents.readers.values import typed
from llama2vec.data.settings import ReadingSettings
from llama2vec.records import Value

_FRONT = re.compile(r"\A(---|\+\+\+)[ \t]*\n(.*?\n)?\1[ \t]*(?:\n|\Z)", re.DOTALL)
_SETTING = re.compile(r"[\w\"'][\w .\"'-]*[:=](\s|\Z)")
_MORE_OF_IT = re.compile(r"[\s#\-\[\]}]")
_CODE = re.compile(r"(`{1,3})([^`]+)\1")
_MARKUP = re.compile(
    r"!?\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])"
    # Emphasis of whole words: the marks within max_file_bytes, and those around __init__, are letters of the name.
    r"|(?<!\w)(\*{1,3})([^\s*](?:[^*]*[^\s*])?)\2(?!\w)"
    r"|(?<!\w)(?!__\w+__(?!\w))(_{1,3})([^\s_](?:[^_]*[^\s_])?)\4(?!\w)"
    # Tags of HTML, but not Vec<T>.
    r"|</?(?:a|abbr|b|big|br|center|cite|code|del|div|em|font|h[1-6]|i|img|ins|kbd|mark|p|picture|q|s|samp|small|source"
    r"|span|strike|strong|sub|sup|svg|tt|u|var)(?:\s[^<>]*)?/?>|<!--.*?-->|<(https?://[^<>\s]+)>|\{#[^}]*\}"
)
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
_CODE_SIGNS = 0xF0000
"""Code within a heading is one sign from here on, of private use, while markup is taken out around it."""
_MOST_NESTED = 4
_KINDS = {"fence": "code", "code_block": "code", "table_open": "table", "heading_open": "heading"}
_MOST_LINES = 200_000
_MOST_TITLE = 1000
"""Characters of a heading that become a title; the text keeps all."""


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document]:
    """Yield the file as one document whose title is that of its front matter, else its first heading."""
    text = decoded(data, settings.encoding)
    front = _FRONT.match(text)
    problems: tuple[str, ...] = ()
    found: dict[str, Value] | None = None
    try:
        found = front_matter(front[2] or "", front[1]) if front else None
    except ImportError:
        found = {}
        problems = (f"front matter {INSTALL}",)
    is_damaged = front is not None and found is None and _is_like_front_matter(front[2] or "")
    if is_damaged:
        problems = ("its front matter is damaged, so it has no fields",)
    begin = front.end() if front and (found is not None or is_damaged) else 0
    parts = list(markdown_parts(text[begin:], text.count("\n", 0, begin)))
    text, fields = text if is_damaged else _blanked(text, begin), found or {}
    title = str(fields.pop("title", "")) or next((part.headings[-1] for part in parts if part.headings), "")
    yield Document(name, text, title, line_blocks(text, parts), fields=fields, problems=problems)


def _blanked(text: str, end: int) -> str:
    """Take front matter out of a text and keep its lines, so that line numbers stay the file's."""
    return "\n" * text.count("\n", 0, end) + text[end:]


def _is_like_front_matter(source: str) -> bool:
    """Tell whether every line between two rules looks like a setting, or like more of the one before it.

    >>> _is_like_front_matter("title: Pumps: a guide\\ntags:\\n- wells"), _is_like_front_matter("One day,\\nit rained.")
    (True, False)
    """
    lines = [line for line in source.splitlines() if line.strip()]
    return bool(lines and _SETTING.match(lines[0])) and all(
        _SETTING.match(line) or _MORE_OF_IT.match(line) for line in lines
    )


def front_matter(source: str, mark: str) -> dict[str, Value] | None:
    """Return the scalars of YAML (``---``) or TOML (``+++``), lists joined by commas; None where it is neither."""
    load = _yaml() if mark == "---" else lambda text: tomllib.loads(text, parse_float=typed)
    try:
        found: Any = load(source)
    except Exception:  # A text between two rules
        return None
    return scalars(found or {}) if isinstance(found or {}, Mapping) else None


def _yaml() -> Callable[[str], Any]:
    """Return what reads YAML without losing how a value is written: version 1.10, +49 40, 012 and NO are texts."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        pass

    for kind in ("int", "float", "bool"):
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", lambda loader, node: typed(loader.construct_scalar(node)))
    return lambda source: yaml.load(source, Loader)  # noqa: S506 - a SafeLoader


def scalars(values: Mapping[Any, Any]) -> dict[str, Value]:
    """Return the values that can be fields: text, numbers, dates as ISO text, and lists of these as text.

    >>> scalars({"tags": ["a", "b"], "year": 2020, "nested": {"x": 1}, "empty": None})
    {'tags': 'a, b', 'year': 2020}
    """
    found: dict[str, Value] = {}
    for key, value in values.items():
        if isinstance(value, list | tuple) and all(isinstance(one, str | int | float) for one in value):
            value = ", ".join(map(str, value))
        if isinstance(value, datetime.date | datetime.time):
            value = value.isoformat()
        is_number = not isinstance(value, float) or math.isfinite(value)  # Data frames write what is missing as NaN
        if isinstance(value, str | int | float) and value != "" and is_number:
            found[str(key)] = value
    return found


@cache
def _parser() -> Any:
    from markdown_it import MarkdownIt

    # Blocks only: the text inside them stays as it is.
    return MarkdownIt("commonmark").enable("table").disable("inline")


def markdown_parts(text: str, first_line: int = 0) -> Iterator[Part]:
    """Yield where the blocks of a Markdown text begin, ``first_line`` lines further down."""
    stack: list[tuple[int, str]] = []
    tokens = _parser().parse(text) if text.count("\n") < _MOST_LINES else []
    covered = -1
    after_block = True
    for place, token in enumerate(tokens):
        if token.map is None or token.nesting < 0 or token.map[0] < covered:
            continue
        kind = _KINDS.get(token.type)
        if kind is None:
            if after_block and token.level == 0:
                yield Part(first_line + token.map[0], "text", tuple(name for _, name in stack))
                after_block = False
            continue
        if kind == "heading":
            level, words = int(token.tag[1:]), plain_words(tokens[place + 1].content)
            stack = [(above, name) for above, name in stack if above < level] + ([(level, words)] if words else [])
        yield Part(first_line + token.map[0], kind, tuple(name for _, name in stack))  # type: ignore[arg-type]
        covered, after_block = token.map[1], True


def plain_words(markup: str) -> str:
    """Return a heading without links, emphasis and code marks.

    >>> plain_words("The *llama* and [its `wool`](wool.md) {#llama}"), plain_words("`Vec<T>` in max_file_bytes")
    ('The llama and its wool', 'Vec<T> in max_file_bytes')
    """
    codes: list[str] = []

    def hidden(match: re.Match[str]) -> str:
        codes.append(match[2].strip())
        return chr(_CODE_SIGNS + len(codes) - 1)

    markup = _CODE.sub(hidden, markup[:_MOST_TITLE])
    for _ in range(_MOST_NESTED):
        markup = _MARKUP.sub(lambda match: match[match.lastindex] if match.lastindex else "", markup)
    markup = _ESCAPED.sub(r"\1", markup)
    return " ".join(markup.translate(dict(enumerate(codes, _CODE_SIGNS))).split())
