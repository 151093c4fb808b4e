"""The files of a local corpus or query source, and which other files of its folder are skipped."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llama2vec.errors import CorpusFormatError, EmptyCorpusError

KINDS = (
    "a BEIR folder, .jsonl, .tsv (either also .gz), .txt, .md, a folder of .jsonl parts or of .txt and .md files, "
    "hf:NAME or ir:ID"
)

Layout = Literal["jsonl", "tsv", "text"]
_LAYOUTS: tuple[tuple[tuple[str, ...], Layout], ...] = (
    ((".jsonl", ".jsonl.gz"), "jsonl"),
    ((".tsv", ".tsv.gz"), "tsv"),
    ((".txt", ".md"), "text"),
)
_ABOUT_THE_DATA = frozenset({"readme", "license", "notice", "changelog", "citation"})
"""Texts that come with a folder of ``.jsonl`` parts and are not part of the corpus."""


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """The files of a local source.

    Attributes:
        root: The folder that ids and fingerprints count from.
        paths: The files, in the order in which they are read.
        layout: How they are read.
        skipped: What else is in the folder, in words; "" = nothing.
    """

    root: Path
    paths: tuple[Path, ...]
    layout: Layout
    skipped: str = ""


def locate(where: str, stem: Literal["corpus", "queries"]) -> LocalFiles:
    """Find the files of a local source; in a BEIR folder, ``<stem>.jsonl``.

    Raises:
        CorpusFormatError: No such source, or one of an unknown kind.
        EmptyCorpusError: A folder without a file that can be read.
    """
    source = Path(where)
    if not where.strip():
        raise CorpusFormatError(f"the name of the {stem} is empty; give {KINDS}")
    if source.is_dir():
        for name in (f"{stem}.jsonl", f"{stem}.jsonl.gz"):
            if (source / name).is_file():
                return LocalFiles(source, (source / name,), "jsonl")
        if stem == "queries":
            raise EmptyCorpusError(f"{where} holds no queries.jsonl; give a BEIR folder, a .jsonl or a .tsv file")
        return _parts(source) or _texts(source)
    if not source.exists():
        raise CorpusFormatError(f"{where}: no such file or folder; give {KINDS}")
    for endings, layout in _LAYOUTS:
        if source.name.lower().endswith(endings):
            return LocalFiles(source.parent, (source,), layout)
    raise CorpusFormatError(f"{where}: unknown kind of file; give {KINDS}")


def _parts(folder: Path) -> LocalFiles | None:
    """Return the ``.jsonl`` files directly in a folder as parts of one corpus, None where there is none."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    parts = [path for path in files if path.name.lower().endswith((".jsonl", ".jsonl.gz"))]
    if not parts:
        return None
    others = [path for path in files if path not in parts]
    texts = [path for path in others if path.suffix in (".txt", ".md") and path.stem.lower() not in _ABOUT_THE_DATA]
    queries = [path for path in parts if path.name.lower().startswith(("queries", "qrels"))]
    if texts or queries:
        mixed = (texts or queries)[0].name
        raise CorpusFormatError(
            f"{folder} holds {parts[0].name} and {mixed}, and no corpus.jsonl says which is the corpus; "
            "give one file, or a folder of one kind"
        )
    return LocalFiles(folder, tuple(parts), "jsonl", _named(f"{folder}: read {len(parts)} .jsonl parts", others))


def _texts(folder: Path) -> LocalFiles:
    """Return the ``.txt`` and ``.md`` files of a folder at any depth; links to folders are followed."""
    texts: list[Path] = []
    others: list[Path] = []
    walked = {folder.resolve()}
    for parent, folders, names in os.walk(folder, followlinks=True):
        shown = sorted(name for name in folders if not name.startswith("."))
        # A folder that a second path leads to would give its passages twice, or without end.
        folders[:] = [name for name in shown if Path(parent, name).resolve() not in walked]
        walked.update(Path(parent, name).resolve() for name in folders)
        others += [Path(parent, name) for name in {*shown} - {*folders}]
        for name in names:
            is_text = name.lower().endswith((".txt", ".md")) and not name.startswith(".")
            (texts if is_text else others).append(Path(parent, name))
    if not texts:
        raise EmptyCorpusError(
            f"{folder} holds no corpus.jsonl, no other .jsonl file and no .txt or .md file; give {KINDS}"
        )
    found = sorted(texts, key=lambda path: path.relative_to(folder).as_posix())
    return LocalFiles(folder, tuple(found), "text", _named(f"{folder}: read {len(found)} .txt and .md files", others))


def _named(what: str, skipped: list[Path]) -> str:
    """Say how many files were skipped and name up to three.

    >>> _named("docs: read 2 .txt and .md files", [Path("docs/b.pdf")])
    'docs: read 2 .txt and .md files, skipped 1 other (b.pdf)'
    """
    if not skipped:
        return ""
    names = sorted(path.name for path in skipped)
    more = ", …" if len(names) > 3 else ""
    return f"{what}, skipped {len(names)} other{'s' if len(names) > 1 else ''} ({', '.join(names[:3])}{more})"
