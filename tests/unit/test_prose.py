"""Public sentences avoid phrasings that readers of English stumble over."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [ROOT / "src" / "llama2vec", ROOT / "examples", ROOT / "benchmarks", ROOT / "docs"]
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
# From Python 3.12 on, f-strings come in parts.
TEXT = (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING))
UNIDIOMATIC = re.compile(
    r"\b(?:is|are|was|were) no (?!longer\b|more\b)"  # say what it is: "is not valid UTF-8"
    r"|\bnobody\b|\bwho only\b"
    r"|\bleft out ?=|\bin front\b|\b(?:goes|go|went) on (?!to\b)|\banew\b|\bin place of\b"
    r"|^\W*(?:\w+: )?Of (?:the|a|an|what|which)\b"  # a fragment instead of a sentence
)


def python_text(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of comments, docstrings and messages."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type in TEXT:
            yield from enumerate(token.string.splitlines(), start=token.start[0])


def page_text(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a page."""
    yield from enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)


@pytest.mark.parametrize("suffix", [".py", ".md"])
def test_docstrings_messages_and_pages_use_idiomatic_phrases(suffix: str) -> None:
    paths = [path for folder in SOURCES for path in sorted(folder.rglob(f"*{suffix}"))]
    paths += [page for page in PAGES if page.suffix == suffix]
    read = python_text if suffix == ".py" else page_text
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in paths
        for number, line in read(path)
        # "nobody" is the user of a container.
        if UNIDIOMATIC.search(line) and "USER nobody" not in line
    ]
    assert found == []
