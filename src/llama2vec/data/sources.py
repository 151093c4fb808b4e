"""Where data come from: files and folders, ``hf:`` and ``ir:``. What cannot be found or read is a CorpusFormatError."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from llama2vec.errors import CorpusFormatError, EmptyCorpusError, MissingDependencyError

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
    """The files of a local source."""

    root: Path  # The folder that ids and fingerprints count from
    paths: tuple[Path, ...]  # The files, in the order in which they are read
    layout: Layout  # How they are read
    skipped: str = ""  # What else is in the folder, in words; "" = nothing


def locate(where: str, stem: Literal["corpus", "queries"]) -> LocalFiles:
    """Find the files of a local source; in a BEIR folder, ``<stem>.jsonl``."""
    source = Path(where)
    if not where.strip():
        raise CorpusFormatError(f"the name of the {stem} is empty; give {KINDS}")
    if source.is_dir():
        if path := beir_file(source, stem):
            return LocalFiles(source, (path,), "jsonl")
        if stem == "queries":
            raise EmptyCorpusError(f"{where} holds no queries.jsonl; give a BEIR folder, a .jsonl or a .tsv file")
        return _parts(source) or _texts(source)
    if not source.exists():
        raise CorpusFormatError(f"{where}: no such file or folder; give {KINDS}")
    for endings, layout in _LAYOUTS:
        if source.name.lower().endswith(endings):
            return LocalFiles(source.parent, (source,), layout)
    raise CorpusFormatError(f"{where}: unknown kind of file; give {KINDS}")


def beir_file(folder: str | Path, stem: Literal["corpus", "queries"]) -> Path | None:
    """Return the corpus or the queries of a BEIR folder, None where there are none."""
    files = (Path(folder, f"{stem}{suffix}") for suffix in (".jsonl", ".jsonl.gz"))
    return next((path for path in files if path.is_file()), None)


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


ItemT = TypeVar("ItemT")


def is_remote(source: str) -> bool:
    """Tell whether a source is a data set's name and not a path."""
    return source.startswith(("hf:", "ir:"))


def open_hub_dataset(where: str, default_split: str = "train") -> Iterable[Mapping[str, object]]:
    """Open ``hf:NAME[:CONFIG][:SPLIT]`` for streaming; the default ``train`` also means the only split."""
    try:
        import datasets
    except ImportError:
        raise MissingDependencyError(f"{where} needs the package datasets; pip install 'llama2vec[hub]'") from None
    name, *rest = where.removeprefix("hf:").split(":")
    if not name or len(rest) > 2:
        raise CorpusFormatError(f"{where} names no dataset; write hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT")
    config, split = [*(part or None for part in rest), None, None][:2]
    try:
        # One word after the name is a configuration if there is one so called, else a split.
        if config and len(rest) == 1 and config not in datasets.get_dataset_config_names(name):
            config, split = None, config
        opened: Any = datasets.load_dataset(name, config, split=split, streaming=True)
    except Exception as error:
        raise _unreachable(where, error) from error
    if not isinstance(opened, Mapping):
        return cast("Iterable[Mapping[str, object]]", opened)
    splits = list(opened)
    only = len(splits) == 1 and default_split == "train"
    if default_split not in splits and not only:
        known = ", ".join(splits)
        raise CorpusFormatError(f"{where} has the splits {known}; choose one: hf:{name}:{config or ''}:SPLIT")
    return cast("Iterable[Mapping[str, object]]", opened[splits[0] if only else default_split])


def open_ir_dataset(where: str) -> Any:
    """Return the data set of ``ir:ID``; nothing is downloaded before its rows are asked for."""
    try:
        import ir_datasets
    except ImportError:
        raise MissingDependencyError(f"{where} needs the package ir_datasets; pip install 'llama2vec[hub]'") from None
    return _reached(where, lambda: ir_datasets.load(where.removeprefix("ir:")))


def ir_rows(where: str) -> Iterator[dict[str, object]]:
    """Stream the documents of ``ir:ID`` as objects with ``_id``, ``text`` and, where they have one, ``title``."""
    dataset = open_ir_dataset(where)
    if not _reached(where, dataset.has_docs):
        raise CorpusFormatError(f"{where} has no documents of its own; name the data set that holds them")
    return map(_ir_object, reported(_reached(where, dataset.docs_iter), where))


def _ir_object(document: Any) -> dict[str, object]:
    # MS MARCO documents call their text the body.
    text = getattr(document, "text", getattr(document, "body", None))
    if hasattr(document, "title") and text is not None:
        return {"_id": document.doc_id, "title": document.title, "text": text}
    return {"_id": document.doc_id, "text": document.default_text()}


def _reached(where: str, ask: Callable[[], Any]) -> Any:
    """Return an answer from outside; a failure of any kind becomes one line."""
    try:
        return ask()
    except Exception as error:
        raise _unreachable(where, error) from error


def reported(items: Iterable[ItemT], where: str) -> Iterator[ItemT]:
    """Pass items on; a failure of their source (network, broken archive) becomes one line."""
    try:
        yield from items
    except Exception as error:
        raise _unreachable(where, error) from error


def _unreachable(where: str, error: Exception) -> CorpusFormatError:
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return CorpusFormatError(f"{where} cannot be read ({reason}); check the name and the network")
