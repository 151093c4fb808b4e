"""Where data come from: local files and folders, ``hf:`` and ``ir:`` sources.

What cannot be found or read is a CorpusFormatError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from llama2vec.data.documents.folder import Walk, walk
from llama2vec.data.documents.readers import START_BYTES, format_of, is_document
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import CorpusFormatError, EmptyCorpusError, MissingDependencyError, UnreadableError
from llama2vec.files import open_regular
from llama2vec.terminal import counted, first_few

KINDS = (
    "a BEIR folder, .jsonl, .tsv (either also .gz), a folder of .jsonl parts, a folder of documents or one of them "
    "(.pdf, .html, .docx, .md, .txt, …), hf:NAME or ir:ID"
)

Layout = Literal["jsonl", "tsv", "documents"]
_LAYOUTS: tuple[tuple[tuple[str, ...], Layout], ...] = (
    ((".jsonl", ".jsonl.gz"), "jsonl"),
    ((".tsv", ".tsv.gz"), "tsv"),
)
_ABOUT_THE_DATA = frozenset({"readme", "license", "notice", "changelog", "citation"})
"""Texts that come with a folder of ``.jsonl`` parts and are not part of the corpus."""
_WRITTEN = (
    "pdf", "html", "office", "old_office", "rtf", "epub", "opendocument", "markdown", "restructured", "notebook",
    "mail", "plain",
)  # fmt: skip
"""Formats of texts that people write, other than tables and archives, which also come with ``.jsonl`` parts."""


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """The files of a local source."""

    root: Path  # The folder that ids and fingerprints count from
    paths: tuple[Path, ...]  # The files, in the order in which they are read
    layout: Layout  # How they are read
    skipped: str = ""  # What else is in the folder, in words; "" = nothing
    walk: Walk | None = None  # The documents to read, and what the walk skipped; None for rows


def locate(where: str, stem: Literal["corpus", "queries"], settings: ReadingSettings | None = None) -> LocalFiles:
    """Find the files of a local source; in a BEIR folder, ``<stem>.jsonl``; ``settings`` choose among documents."""
    source = Path(where)
    if not where.strip():
        raise CorpusFormatError(f"the name of the {stem} is empty; give {KINDS}")
    if source.is_dir():
        if path := beir_file(source, stem):
            return LocalFiles(source, (path,), "jsonl")
        if stem == "queries":
            raise EmptyCorpusError(f"{where} holds no queries.jsonl; give a BEIR folder, a .jsonl or a .tsv file")
        return _parts(source) or _documents(source, settings)
    if not source.exists():
        raise CorpusFormatError(f"{where}: no such file or folder; give {KINDS}")
    for endings, layout in _LAYOUTS:
        if source.name.lower().endswith(endings):
            return LocalFiles(source.parent, (source,), layout)
    try:
        with suppress(OSError), open_regular(source) as stream:  # The walk says what is wrong with a pipe
            format_of(source.name, stream.read(START_BYTES))
    except UnreadableError as error:
        raise CorpusFormatError(f"{where}: {error}; give {KINDS}") from None
    return _documents(source, settings)


def beir_file(folder: str | Path, stem: Literal["corpus", "queries"]) -> Path | None:
    """Return the corpus or the queries of a BEIR folder, None where there are none."""
    files = (Path(folder, f"{stem}{suffix}") for suffix in (".jsonl", ".jsonl.gz"))
    return next((path for path in files if path.is_file()), None)


def _parts(folder: Path) -> LocalFiles | None:
    """Return the ``.jsonl`` files directly in a folder as parts of one corpus, None where there is none."""
    shown = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in shown if path.is_file()]
    parts = [path for path in files if path.name.lower().endswith((".jsonl", ".jsonl.gz"))]
    if not parts:
        return None
    others = [path for path in shown if path not in parts]
    documents = [path for path in others if path.is_file() and _is_written(path)]
    queries = [path for path in parts if path.name.lower().startswith(("queries", "qrels"))]
    if queries:
        raise CorpusFormatError(
            f"{folder} holds {parts[0].name} and {queries[-1].name}, and no corpus.jsonl says which is the corpus; "
            "give one file"
        )
    if documents:
        return None
    return LocalFiles(folder, tuple(parts), "jsonl", _named(f"{folder}: read {len(parts)} .jsonl parts", others))


def _is_written(path: Path) -> bool:
    """Tell whether a file next to ``.jsonl`` parts makes its folder one of documents: people wrote it to be read."""
    return is_document(path.name, _WRITTEN) and path.stem.lower() not in _ABOUT_THE_DATA


def _documents(source: Path, settings: ReadingSettings | None) -> LocalFiles:
    """Return the documents of a folder at any depth, or one document."""
    found = walk(source, settings)
    if not found.files:
        first = f" (skipped {found.skipped[0].name}: {found.skipped[0].reason})" if found.skipped else ""
        raise EmptyCorpusError(f"{source} holds no file to read{first}; give {KINDS}")
    root = source if source.is_dir() else source.parent
    return LocalFiles(root, tuple(one.path for one in found.files), "documents", walk=found)


def _named(what: str, skipped: list[Path]) -> str:
    """Say how many files were skipped and name up to three.

    >>> _named("docs: read 2 .jsonl parts", [Path("docs/README.md")])
    'docs: read 2 .jsonl parts, skipped 1 other (README.md)'
    """
    if not skipped:
        return ""
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in skipped)
    return f"{what}, skipped {counted(len(names), 'other')} ({first_few(names)})"


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
