"""Build a retrieval task from the documentation inside every Python interpreter.

Passages are the docstrings of the standard library and of the built-in modules, and the topics of ``help()``, without
their first sentence; the first sentence is the query. No download, no labels by hand.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_LEFT_OUT = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "site-packages",
    "turtledemo",
    "ensurepip",
    "__pycache__",
    "pydoc_data",
}
_FIRST_SENTENCE = re.compile(r"^(.+?[.!?])(?:\s+(?=[A-Z`*'\"(>-])|\s*\n)|^(.+?)\n\s*\n", re.DOTALL)
_MIN_QUERY_WORDS, _MAX_QUERY_WORDS, _MIN_PASSAGE_WORDS, _MAX_PASSAGE_WORDS = 5, 30, 20, 400


def docstrings() -> Iterator[tuple[str, str]]:
    """Yield (dotted name, docstring) of the standard library, source files first, in a fixed order."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for file in sorted(library.rglob("*.py")):
        inside = file.relative_to(library)
        if _LEFT_OUT & set(inside.parts):
            continue
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        module = ".".join(inside.with_suffix("").parts).removesuffix(".__init__")
        yield from _tree_docstrings(tree, module)
    for name in sorted(sys.builtin_module_names):
        if name.startswith("_") and name not in ("_io", "_thread", "_collections"):
            continue
        module = importlib.import_module(name)
        for attribute, value in sorted(vars(module).items()):
            text = inspect.getdoc(value) if callable(value) else None
            if text and not attribute.startswith("_"):
                yield f"{name}.{attribute}", text
    topics = importlib.import_module("pydoc_data.topics").topics
    for topic, text in sorted(topics.items()):
        yield f"help.{topic}", text


def _tree_docstrings(tree: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(tree)
        if text:
            yield name, text
    for child in ast.iter_child_nodes(tree):
        inner = getattr(child, "name", None)
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and inner:
            yield from _tree_docstrings(child, f"{name}.{inner}")


def split_query(text: str) -> tuple[str, str] | None:
    """Cut a docstring into its first sentence and the rest; None where either does not suit.

    >>> split_query("Return the sum of all of the numbers. " + "word " * 20)[0]
    'Return the sum of all of the numbers.'
    """
    match = _FIRST_SENTENCE.match(text.strip() + "\n")
    if not match:
        return None
    query = " ".join((match[1] or match[2]).split())
    rest = " ".join(text.strip()[match.end() :].split()[:_MAX_PASSAGE_WORDS])
    words = len(query.split())
    if not _MIN_QUERY_WORDS <= words <= _MAX_QUERY_WORDS or len(rest.split()) < _MIN_PASSAGE_WORDS:
        return None
    return query, rest


def write_task(folder: Path) -> tuple[int, int]:
    """Write the task as a BEIR folder, deterministic for one Python version.

    Returns:
        Number of passages and their words in all.
    """
    passages: dict[str, tuple[str, str]] = {}
    seen: set[str] = set()
    for name, text in docstrings():
        parts = split_query(text)
        # The same text twice (aliases, overrides) would make one of two right answers count as wrong.
        if parts is None or name in passages or parts[0] in seen or parts[1] in seen:
            continue
        seen.update(parts)
        passages[name] = parts
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as corpus:
        for name, (_, rest) in passages.items():
            corpus.write(json.dumps({"_id": name, "title": "", "text": rest}) + "\n")
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as queries:
        for name, (query, _) in passages.items():
            queries.write(json.dumps({"_id": f"q-{name}", "text": query}) + "\n")
    lines = [f"q-{name}\t{name}\t1" for name in passages]
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "\n".join(lines) + "\n", encoding="utf-8"
    )
    return len(passages), sum(len(rest.split()) for _, rest in passages.values())


if __name__ == "__main__":
    count, words = write_task(Path(sys.argv[1]))
    print(f"{count:,} passages, {words:,} words: {sys.argv[1]}")
