"""Passages and queries, streamed: BEIR, JSONL, TSV, documents of any format, Hugging Face, ir_datasets."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

from llama2vec.data.corpus.distinct import DistinctIds
from llama2vec.data.corpus.document_ids import DocumentIds, numbered, why_numbered
from llama2vec.data.corpus.parsing import (
    IR_FIELDS,
    Row,
    hub_rows,
    jsonl_rows,
    parsed_row,
    passage_fields,
    query_fields,
    tsv_rows,
)
from llama2vec.data.corpus.sources import KINDS, LocalFiles, ir_rows, is_remote, locate, open_hub_dataset
from llama2vec.data.documents.folder import ReadingReport, Skipped, Walk, read_documents
from llama2vec.data.documents.splitting import Splitter, whole_passage
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import ConfigError, CorpusFormatError, DataError, EmptyCorpusError
from llama2vec.files import file_sha256, open_regular
from llama2vec.records import Passage, Query
from llama2vec.terminal import counted

logger = logging.getLogger(__name__)

MOST_BYTES = 2**30
"""A larger corpus is not kept in memory: each stage streams it again."""
_BYTES_A_PASSAGE = 250
"""Python's own share of a passage: three strings and the object that holds them."""


# What was read: (paths, sizes, times and inodes of the files) → their hash or passages. A changed file is read again.
_memory: ContextVar[dict[object, Any] | None] = ContextVar("read_once", default=None)
_flat: ContextVar[bool] = ContextVar("read_flat", default=False)


@contextmanager
def read_once(memory: dict[object, Any] | None = None) -> Iterator[dict[object, Any]]:
    """Keep hashes and passages of local files in this memory, else in memory until the block, or an outer one, ends."""
    known = _memory.get() if memory is None else memory
    token = _memory.set(known := {} if known is None else known)
    try:
        yield known
    finally:
        _memory.reset(token)


@contextmanager
def read_flat() -> Iterator[None]:
    """Keep nothing of the rows that are read in the block, neither for later stages nor to find ids that repeat."""
    memory, flat = _memory.set(None), _flat.set(True)
    try:
        yield
    finally:
        _memory.reset(memory)
        _flat.reset(flat)


def _identity(what: str, paths: Iterable[Path]) -> object:
    found: list[object] = [what]
    for path in paths:
        # Whoever opens a missing file reports it.
        status = path.stat() if path.exists() else None
        found.append((path.resolve(), status and (status.st_size, status.st_mtime_ns, status.st_ino)))
    return tuple(found)


def _kept_passages(
    how: str, paths: Sequence[Path], read: Callable[[ReadingReport], Iterator[Passage]], report: ReadingReport | None
) -> Iterator[Passage]:
    memory, own = _memory.get(), report if report is not None else ReadingReport()
    if memory is None:
        return read(own)
    files = _identity(how, paths)
    if files not in memory:
        return _keeping(memory, files, read(own), paths[0], own)
    passages, known = memory[files]
    own.add(known)
    return iter(passages)


def _keeping(
    memory: dict[object, Any], files: object, rows: Iterable[Passage], first: Path, report: ReadingReport
) -> Iterator[Passage]:
    kept: list[Passage] | None = []
    size = 0
    for passage in rows:
        if kept is not None:
            kept.append(passage)
            size += len(passage.text) + len(passage.title) + _BYTES_A_PASSAGE
            if size > MOST_BYTES:
                kept = None
                logger.info("%s: larger than 1 GiB in memory; each stage reads it again", first)
        yield passage
    if kept is not None:
        memory[files] = kept, report


def read_passages(
    source: str | Path,
    *,
    limit: int | None = None,
    splitter: Splitter | None = None,
    settings: ReadingSettings | None = None,
    report: ReadingReport | None = None,
) -> Iterator[Passage]:
    r"""Stream the passages of a corpus, in the order of the source.

    Rows, one in memory at a time, and where id, title and text come from:

    - a BEIR folder: its ``corpus.jsonl`` or ``corpus.jsonl.gz``;
    - ``.jsonl``, ``.jsonl.gz``: objects with ``_id`` (or ``id``), ``text`` and optionally ``title``, or what the
      settings name; other texts and numbers are fields; a folder of such files is one corpus, sorted by name. Rows of
      the authors' adaptation data, ``input``, ``output_summarize`` and ``output_predict``, have the text ``input`` and
      keep the others as fields; their ids are file name and line;
    - ``.tsv``, ``.tsv.gz``: id, text or id, title, text between tabs, without quoting, or in the order of a header;
    - ``hf:NAME[:CONFIG][:SPLIT]``: a Hugging Face dataset, streamed; columns ``text``, ``_id``, ``id`` or ``docid``
      (else the row number) and ``title``. The split is ``train``, or the only one, where none is given;
    - ``ir:DATASET_ID``: the documents of an ir_datasets data set.

    Documents, one file in memory at a time, sorted by path: any other folder, at any depth, without hidden files; or a
    file of a known format (docs/documents.md). Ids are paths relative to the folder, white space percent-encoded; of
    two documents with one id, the later one gets ``@2``. Files that cannot be read are skipped; a log line names them.
    An empty text is allowed: some corpora have them.

    Args:
        source: One of the above.
        limit: Stop after this many passages; None = all.
        splitter: Cuts documents, and rows where its settings say ``always``, into passages ``ID#1``, ``ID#2``, …;
            None = one passage a document or row.
        settings: How documents and JSON rows are read; None = the defaults, and the caller offers no others, so that
            no error tells to set one.
        report: An empty one, which takes what of the documents was read and what not; None = a log line names that.

    Raises:
        ConfigError: ``limit`` is below 1.
        CorpusFormatError: No such source, or a faulty row: the message names file and line.
        DataError: ``settings.strict``, and a document was skipped or only partly read.
        EmptyCorpusError: The source holds no passage.
        MissingDependencyError: ``hf:`` or ``ir:`` without its package.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; ask for at least 1 passage")
    where, given = str(source), settings
    settings = settings or ReadingSettings()
    if is_remote(where):
        return islice(_distinct_parts(partial(_remote_rows, where), where, splitter), limit)
    files = locate(where, "corpus", settings)
    if files.skipped:
        _say_once(files.skipped)

    def passages(found: ReadingReport) -> Iterator[Passage]:
        if files.walk is None:
            return _distinct_parts(partial(_local_rows, files, given), where, splitter)
        return _document_passages(files.walk, splitter, settings, found, aloud=report is None)

    how = f"passages {splitter and splitter.plan} {settings!r}"
    return islice(_kept_passages(how, files.paths, passages, report), limit)


def _remote_rows(where: str) -> Iterator[Row]:
    if where.startswith("hf:"):
        return hub_rows(open_hub_dataset(where), where)
    return (parsed_row(values, f"{where}, row {number},", IR_FIELDS) for number, values in enumerate(ir_rows(where)))


def _distinct_parts(read: Callable[[], Iterator[Row]], where: str, splitter: Splitter | None) -> Iterator[Passage]:
    """Yield rows as passages, and their parts where the splitter cuts rows too."""
    rows = _distinct(read(), where)
    if splitter is None or splitter.settings.split != "always":
        return rows
    parts = (part for row in rows for part in splitter.split_row(row))
    # A part may have the id of another row.
    return _distinct((Row(where, one.id, one.text, one.title, one.place, one.fields) for one in parts), where)


def _document_passages(
    found: Walk, splitter: Splitter | None, settings: ReadingSettings, report: ReadingReport, *, aloud: bool
) -> Iterator[Passage]:
    """Yield the passages of documents, each under an id of its own; ``aloud``, say once what was not read."""
    ids = None if _flat.get() else DocumentIds()
    for document in read_documents(found, settings, report=report):
        parts = list(splitter.split(document)) if splitter else [whole_passage(document)]
        if ids is not None and (number := ids.number(parts)) > 1:
            report.noted.append(Skipped(document.id, why_numbered(number)))
            parts = [numbered(one, number) for one in parts]
        yield from parts
    if not report.documents:
        first = report.skipped[0]
        raise EmptyCorpusError(
            f"{found.root}: none of {counted(len(report.skipped), 'file')} can be read, such as {first.name} "
            f"({first.reason}); add a file that can"
        )
    if aloud and report.has_entries:
        _say_once(f"{found.root}: {report.table()}")


def read_queries(source: str | Path, settings: ReadingSettings | None = None, *, labeled: bool = False) -> list[Query]:
    """Return the queries of a BEIR folder, a ``.jsonl[.gz]`` file or a ``.tsv[.gz]`` file (id, text).

    Args:
        source: One of these.
        settings: Names the fields of JSON rows; rows without these have the usual ones, because the queries of a BEIR
            folder need not be called as its passages are. None = the usual names, as in :func:`read_passages`.
        labeled: Take rows of labeled examples too, which have a ``query`` and need no id.

    Raises:
        CorpusFormatError: No such file, or a faulty row: the message names file and line.
        EmptyCorpusError: The file holds no query.
    """
    where = str(source)
    files = locate(where, "queries")
    if files.layout == "documents":
        raise CorpusFormatError(f"{where} holds no queries; give a BEIR folder, a .jsonl or a .tsv file")
    path = files.paths[0]
    names = query_fields(settings, labeled=labeled)
    rows = jsonl_rows(path, names) if files.layout == "jsonl" else tsv_rows(path, most_columns=2)
    return [Query(row.id, row.text) for row in _distinct(rows, where)]


def count_passages(source: str | Path, settings: ReadingSettings | None = None) -> int | None:
    """Return how many passages a local source has, reading it to its end; None for a remote one."""
    return None if is_remote(str(source)) else sum(1 for _ in read_passages(source, settings=settings))


def corpus_fingerprint(source: str | Path, settings: ReadingSettings | None = None) -> str:
    """Return a sha256 over the names and bytes of a local source's files; for ``hf:`` and ``ir:`` the source itself.

    Names count relative to the source, so a corpus keeps its fingerprint when its folder moves. ``settings`` choose
    among documents, as they do in :func:`read_passages`.
    """
    where = str(source)
    if is_remote(where):
        return where
    files = locate(where, "corpus", settings)
    if files.walk:  # A document that cannot be opened is skipped, here as in reading
        return files_fingerprint(files.root, [path for path in files.paths if _opens(path)])
    return files_fingerprint(files.root, files.paths)


def _opens(path: Path) -> bool:
    try:
        open_regular(path).close()
    except OSError:
        return False
    return True


def files_fingerprint(root: Path, paths: Iterable[Path], fault: type[DataError] = CorpusFormatError) -> str:
    """Return a sha256 over the bytes of files and their names relative to ``root``."""
    total = hashlib.sha256()
    for path in paths:
        try:
            content = bytes.fromhex(corpus_sha256(path))
        except OSError as error:
            raise fault(f"{path} cannot be read ({error.strerror}); check the path") from None
        # Hashing the name first gives each part a fixed length, so no two lists of files can run into each other.
        total.update(hashlib.sha256(os.fsencode(path.relative_to(root).as_posix())).digest() + content)
    return total.hexdigest()


def corpus_sha256(path: Path) -> str:
    """Return the hash of one file, taken once within :func:`read_once`."""
    memory = _memory.get()
    if memory is None:
        return file_sha256(path)
    file = _identity("sha256", [path])
    if file not in memory:
        memory[file] = file_sha256(path)
    return cast(str, memory[file])


@cache
def _say_once(message: str) -> None:
    """Log a fact about a source once, however often the process reads it."""
    logger.info("%s", message)


def _local_rows(files: LocalFiles, settings: ReadingSettings | None) -> Iterator[Row]:
    for path in files.paths:
        yield from (
            jsonl_rows(path, passage_fields(settings)) if files.layout == "jsonl" else tsv_rows(path, most_columns=3)
        )


def _distinct(rows: Iterable[Row], source: str) -> Iterator[Passage]:
    seen, empty, flat = DistinctIds(), True, _flat.get()
    for row in rows:
        try:
            row.id.encode()
            repeats = not flat and not seen.add(row.id)
        except UnicodeEncodeError:
            problem = f"the id {row.id!a} is not Unicode"
            raise CorpusFormatError(f"{row.where!a}: {problem}; rename it") from None
        if repeats:
            raise CorpusFormatError(f"{row.where} repeats the id {row.id!r}; ids must be unique")
        empty = False
        yield Passage(row.id, row.text, row.title, row.place, row.fields)
    if empty:
        raise EmptyCorpusError(f"{source} is empty; give {KINDS} with at least one row")
