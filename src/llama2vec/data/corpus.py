"""Passages and queries in the usual shapes, streamed: BEIR, JSONL, TSV, text folders, Hugging Face, ir_datasets."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import reprlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar, cast
from urllib.parse import quote

from llama2vec.errors import (
    ConfigError,
    CorpusFormatError,
    DataError,
    EmptyCorpusError,
    Llama2VecError,
    MissingDependencyError,
)
from llama2vec.records import Passage, Query

ItemT = TypeVar("ItemT")

_KINDS = "a BEIR folder, .jsonl, .tsv (either also .gz), .txt, .md, a folder of those two, hf:NAME or ir:ID"
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(?P<title>.*?)(?:[ \t]+#+)?[ \t]*$")
_CODE_FENCE = re.compile(r"^ {0,3}(```|~~~)")


def read_passages(source: str | Path, *, limit: int | None = None) -> Iterator[Passage]:
    """Stream the passages of a corpus, in the order of the source.

    Sources, and where id, title and text come from:

    - a BEIR folder: its ``corpus.jsonl`` or ``corpus.jsonl.gz``;
    - ``.jsonl``, ``.jsonl.gz``: objects with ``_id`` (or ``id``), ``text`` and optionally ``title``;
    - ``.tsv``, ``.tsv.gz``: id, text or id, title, text between tabs; no header, no quoting;
    - a folder of ``.txt`` and ``.md`` files, at any depth, hidden ones left out: one passage a file, sorted by path.
      The id is the relative path without its suffix, white space percent-encoded because TREC files cannot hold it.
      A Markdown file's title is its first heading, which leaves the text where the text opens with it;
    - one ``.txt`` or ``.md`` file: one passage;
    - ``hf:NAME[:CONFIG][:SPLIT]``: a Hugging Face dataset, streamed; columns ``text``, ``_id``, ``id`` or ``docid``
      (else the row number) and ``title``. The split is ``train``, or the only one, where none is given;
    - ``ir:DATASET_ID``: the documents of an ir_datasets data set.

    Lines end at ``\\n`` only; blank lines are skipped. An empty text is allowed: some corpora have them.

    Args:
        source: One of the above.
        limit: Stop after this many passages; None = all.

    Returns:
        A generator that holds one passage at a time, plus eight bytes per id already seen.

    Raises:
        ConfigError: ``limit`` is below 1.
        CorpusFormatError: No such source, or a faulty row: the message names file and line.
        EmptyCorpusError: The source holds no passage.
        MissingDependencyError: ``hf:`` or ``ir:`` without its package.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; ask for at least 1 passage")
    where = str(source)
    if where.startswith("hf:"):
        rows = _hub_rows(open_hub_dataset(where), where)
    elif where.startswith("ir:"):
        rows = _ir_rows(_ir_documents(open_ir_dataset(where), where), where)
    else:
        rows = _local_rows(_locate(where, "corpus"))
    return islice(_distinct(rows, where), limit)


def read_queries(source: str | Path) -> list[Query]:
    """Return the queries of a BEIR folder, a ``.jsonl[.gz]`` file or a ``.tsv[.gz]`` file (id, text; no header).

    Raises:
        CorpusFormatError: No such file, or a faulty row: the message names file and line.
        EmptyCorpusError: The file holds no query.
    """
    where = str(source)
    files = _locate(where, "queries")
    if files.layout == "text":
        raise CorpusFormatError(f"{where} holds no queries; give a BEIR folder, a .jsonl or a .tsv file")
    rows = _jsonl_rows(files.paths[0]) if files.layout == "jsonl" else _tsv_rows(files.paths[0], most_columns=2)
    return [Query(row.id, row.text) for row in _distinct(rows, where)]


def count_passages(source: str | Path) -> int | None:
    """Return how many rows a local source has, without reading them; None for ``hf:`` and ``ir:``.

    Raises:
        CorpusFormatError: No such source, or a truncated gzip file.
    """
    where = str(source)
    if where.startswith(("hf:", "ir:")):
        return None
    files = _locate(where, "corpus")
    if files.layout == "text":
        return len(files.paths)
    return sum(1 for _, raw in raw_lines(files.paths[0], CorpusFormatError) if raw.strip())


def corpus_fingerprint(source: str | Path) -> str:
    """Return a sha256 over the names and bytes of a local source's files; for ``hf:`` and ``ir:`` the source itself.

    Names count relative to the source, so a corpus keeps its fingerprint when its folder moves.

    Raises:
        CorpusFormatError: No such source, or an unreadable file.
    """
    where = str(source)
    if where.startswith(("hf:", "ir:")):
        return where
    files = _locate(where, "corpus")
    return files_fingerprint(files.root, files.paths)


def files_fingerprint(root: Path, paths: Iterable[Path], fault: type[DataError] = CorpusFormatError) -> str:
    """Return a sha256 over the bytes of files and their names relative to ``root``.

    Raises:
        DataError: As ``fault``: an unreadable file.
    """
    total = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").digest()
        except OSError as error:
            raise fault(f"{path} cannot be read ({error.strerror}); check the path") from None
        # Hashing the name first gives each part a fixed length, so no two lists of files can run into each other.
        total.update(hashlib.sha256(os.fsencode(path.relative_to(root).as_posix())).digest() + content)
    return total.hexdigest()


def numbered_lines(path: Path, fault: type[DataError] = CorpusFormatError) -> Iterator[tuple[int, str]]:
    """Yield (line number, text without its line end) of a UTF-8 file, plain or gzip, skipping blank lines.

    Lines end at ``\\n`` only: texts may hold other Unicode line separators. A byte order mark at the start and a
    ``\\r`` in front of ``\\n`` are dropped.

    Args:
        path: The file; gzip where the name ends in ``.gz``.
        fault: The error class that fits the kind of file.

    Raises:
        DataError: As ``fault``: no such file, truncated gzip, or a byte that is not UTF-8, with its line number.
    """
    for number, raw in raw_lines(path, fault):
        line = decode_line(raw, path, number, fault)
        if line and not line.isspace():
            yield number, line


def raw_lines(path: Path, fault: type[DataError] = CorpusFormatError) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, bytes with their line end) of a file, plain or gzip.

    Raises:
        DataError: As ``fault``: no such file, or truncated gzip.
    """
    number = 0
    try:
        with _open(path) as stream:
            for raw in stream:
                number += 1
                yield number, raw
    except (EOFError, zlib.error):
        raise fault(f"{path}:{number + 1} ends in the middle of its gzip data; copy the file again") from None
    except gzip.BadGzipFile:
        raise fault(f"{path} is not a gzip file; rename it without .gz, or compress it again") from None
    except OSError as error:
        raise fault(f"{path} cannot be read ({error.strerror}); check the path") from None


def decode_line(raw: bytes, path: Path, number: int, fault: type[DataError] = CorpusFormatError) -> str:
    """Return a line's text without its line end, on the first line without a byte order mark.

    Raises:
        DataError: As ``fault``: a byte that is not UTF-8.
    """
    try:
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        raise fault(f"{path}:{number} is not UTF-8 (byte 0x{byte:02x}); convert the file to UTF-8") from None
    return line.removesuffix("\n").removesuffix("\r")


def json_object(line: str, where: str, such_as: str, fault: type[DataError] = CorpusFormatError) -> dict[str, object]:
    """Return the JSON object that a line holds.

    Args:
        line: The text.
        where: File and line, for the message.
        such_as: What a right line looks like, for the message.
        fault: The error class that fits the kind of file.

    Raises:
        DataError: As ``fault``: no JSON, or no object.
    """
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        problem = f"{error.msg} at column {error.colno}"
        raise fault(f"{where} is not JSON ({problem}); write one object a line") from None
    except (ValueError, RecursionError) as error:
        raise fault(f"{where} is not JSON that Python can read ({error}); shorten the line") from None
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise fault(f"{where} is a JSON {kind}; write an object such as {such_as}")
    return values


# ------------------------------------------------------------------------------------------------ local sources


@dataclass(frozen=True, slots=True)
class _LocalFiles:
    root: Path
    paths: tuple[Path, ...]
    layout: Literal["jsonl", "tsv", "text"]


@dataclass(frozen=True, slots=True)
class _Row:
    where: str
    id: str
    text: str
    title: str = ""


def _locate(where: str, stem: str) -> _LocalFiles:
    """Find the files of a local source; ``stem`` is the BEIR file that is wanted: ``corpus`` or ``queries``."""
    source = Path(where)
    if source.is_dir():
        for name in (f"{stem}.jsonl", f"{stem}.jsonl.gz"):
            if (source / name).is_file():
                return _LocalFiles(source, (source / name,), "jsonl")
        texts = _text_files(source) if stem == "corpus" else ()
        if not texts:
            wanted = f"no {stem}.jsonl" + (" and no .txt or .md file" if stem == "corpus" else "")
            raise EmptyCorpusError(f"{where} holds {wanted}; give {_KINDS}")
        return _LocalFiles(source, texts, "text")
    if not source.exists():
        raise CorpusFormatError(f"{where}: no such file or folder; give {_KINDS}")
    name = source.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz")):
        return _LocalFiles(source.parent, (source,), "jsonl")
    if name.endswith((".tsv", ".tsv.gz")):
        return _LocalFiles(source.parent, (source,), "tsv")
    if name.endswith((".txt", ".md")):
        return _LocalFiles(source.parent, (source,), "text")
    raise CorpusFormatError(f"{where}: unknown kind of file; give {_KINDS}")


def _text_files(folder: Path) -> tuple[Path, ...]:
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent, name) for name in names if name.lower().endswith((".txt", ".md")) and not name.startswith(".")
        ]
    return tuple(sorted(found, key=lambda path: path.relative_to(folder).as_posix()))


def _local_rows(files: _LocalFiles) -> Iterator[_Row]:
    if files.layout == "jsonl":
        return _jsonl_rows(files.paths[0])
    if files.layout == "tsv":
        return _tsv_rows(files.paths[0], most_columns=3)
    return (_text_row(path, files.root) for path in files.paths)


def _jsonl_rows(path: Path) -> Iterator[_Row]:
    for number, line in numbered_lines(path):
        where = f"{path}:{number}"
        values = json_object(line, where, '{"_id": "1", "text": "…"}')
        row = _row(values, where, ("_id", "id"))
        # Only an escape can smuggle half a surrogate pair into a decoded line.
        if "\\u" in line:
            _check_unicode(row)
        yield row


def _row(values: Mapping[str, object], where: str, id_names: tuple[str, ...], number: int | None = None) -> _Row:
    """Check one row's fields; ``number`` stands in for a missing id where it is given."""
    id_name = next((name for name in id_names if name in values), None)
    if id_name is None and number is None:
        raise CorpusFormatError(f'{where} has no "{id_names[0]}"; give each row an id')
    row_id = number if id_name is None else values[id_name]
    if isinstance(row_id, int) and not isinstance(row_id, bool):
        row_id = str(row_id)
    if not isinstance(row_id, str) or not row_id.strip():
        problem = f"has the {id_name} {reprlib.repr(row_id)}"
        raise CorpusFormatError(f"{where} {problem}; an id is a string that is not empty, or a whole number")
    if "text" not in values:
        known = ", ".join(map(str, list(values)[:6]))
        raise CorpusFormatError(f'{where} has no "text" (only {known}); put the passage or query there')
    text, title = values["text"], values.get("title")
    if not isinstance(text, str):
        raise CorpusFormatError(f"{where} has the text {reprlib.repr(text)}; a text is a string")
    if title is not None and not isinstance(title, str):
        raise CorpusFormatError(f"{where} has the title {reprlib.repr(title)}; a title is a string")
    return _Row(where, row_id, text, title or "")


def _check_unicode(row: _Row) -> None:
    for name, value in (("id", row.id), ("title", row.title), ("text", row.text)):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(value[error.start]):04x}"
            problem = f"has half a surrogate pair ({half}) in its {name}"
            raise CorpusFormatError(f"{row.where} {problem}; repair the text") from None


def _tsv_rows(path: Path, most_columns: int) -> Iterator[_Row]:
    expected, first_line = 0, 0
    for number, line in numbered_lines(path):
        where = f"{path}:{number}"
        fields = line.split("\t")
        if not 2 <= len(fields) <= most_columns:
            wanted = "id, text" if most_columns == 2 else "id, text or id, title, text"
            raise CorpusFormatError(f"{where} has {len(fields)} columns; write {wanted} with tabs between")
        if not expected:
            expected, first_line = len(fields), number
        if len(fields) != expected:
            problem = f"has {len(fields)} columns where line {first_line} has {expected}"
            raise CorpusFormatError(f"{where} {problem}; is a tab inside a text?")
        if not fields[0].strip():
            raise CorpusFormatError(f"{where} has no id in its first column; give each row an id")
        yield _Row(where, fields[0], fields[-1], fields[1] if expected == 3 else "")


def _text_row(path: Path, root: Path) -> _Row:
    lines = _text_lines(path)
    title = _take_title(lines) if path.suffix.lower() == ".md" else ""
    name = path.relative_to(root).with_suffix("").as_posix()
    row_id = "".join(quote(letter) if letter.isspace() else letter for letter in name)
    return _Row(str(path), row_id, "\n".join(lines).strip(), title)


def _text_lines(path: Path) -> list[str]:
    """Return every line of a text file, blank ones too: they part the paragraphs."""
    lines: list[str] = []
    for number, line in numbered_lines(path):
        lines += [""] * (number - 1 - len(lines))
        lines.append(line)
    return lines


def _take_title(lines: list[str]) -> str:
    """Return the first heading; take it out of ``lines`` if nothing stands before it, or it would be read twice.

    >>> lines = ["", "# Llamas #", "They hum."]
    >>> _take_title(lines), lines
    ('Llamas', ['', '', 'They hum.'])
    """
    in_code = False
    for number, line in enumerate(lines):
        if _CODE_FENCE.match(line):
            in_code = not in_code
        match = None if in_code else _HEADING.match(line)
        if match and match["title"]:
            if not any(lines[:number]):
                lines[number] = ""
            return match["title"]
    return ""


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(path)) if path.name.lower().endswith(".gz") else path.open("rb")


def _distinct(rows: Iterable[_Row], source: str) -> Iterator[Passage]:
    # Eight-byte digests: a false alarm among ten million ids has a chance of about 3 in a million.
    seen: set[int] = set()
    for row in rows:
        try:
            digest = hashlib.blake2b(row.id.encode(), digest_size=8).digest()
        except UnicodeEncodeError:
            problem = f"the id {row.id!a} is not Unicode"
            raise CorpusFormatError(f"{row.where!a}: {problem}; rename it") from None
        key = int.from_bytes(digest, "big")
        if key in seen:
            raise CorpusFormatError(f"{row.where} repeats the id {row.id!r}; ids must be unique")
        seen.add(key)
        yield Passage(row.id, row.text, row.title)
    if not seen:
        raise EmptyCorpusError(f"{source} is empty; give {_KINDS} with at least one row")


# ----------------------------------------------------------------------------------------------- remote sources


def open_hub_dataset(where: str, default_split: str = "train") -> Iterable[Mapping[str, object]]:
    """Open ``hf:NAME[:CONFIG][:SPLIT]`` for streaming.

    Args:
        where: The source; a split that it names goes before ``default_split``.
        default_split: Taken where the source names none; ``train`` stands for the only split, too.

    Raises:
        CorpusFormatError: No such data set, configuration or split.
        MissingDependencyError: The package datasets is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise MissingDependencyError(f"{where} needs the package datasets; pip install 'llama2vec[hub]'") from None
    name, *rest = where.removeprefix("hf:").split(":")
    if not name or len(rest) > 2:
        raise CorpusFormatError(f"{where} names no dataset; write hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT")
    config, split = [*(part or None for part in rest), None, None][:2]
    try:
        # One word behind the name is a configuration if there is one so called, else a split.
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


def _hub_rows(dataset: Iterable[Mapping[str, object]], where: str) -> Iterator[_Row]:
    for number, values in enumerate(reported(dataset, where)):
        yield _row(values, f"{where}, row {number},", ("_id", "id", "docid"), number)


def open_ir_dataset(where: str) -> Any:
    """Return the data set of ``ir:ID``; nothing is downloaded before its rows are asked for.

    Raises:
        CorpusFormatError: No such data set.
        MissingDependencyError: The package ir_datasets is not installed.
    """
    try:
        import ir_datasets
    except ImportError:
        raise MissingDependencyError(f"{where} needs the package ir_datasets; pip install 'llama2vec[hub]'") from None
    try:
        return ir_datasets.load(where.removeprefix("ir:"))
    except Exception as error:
        raise _unreachable(where, error) from error


def _ir_documents(dataset: Any, where: str) -> Iterable[Any]:
    try:
        if not dataset.has_docs():
            raise CorpusFormatError(f"{where} has no documents of its own; name the data set that holds them")
        return cast("Iterable[Any]", dataset.docs_iter())
    except Llama2VecError:
        raise
    except Exception as error:
        raise _unreachable(where, error) from error


def _ir_rows(documents: Iterable[Any], where: str) -> Iterator[_Row]:
    for number, document in enumerate(reported(documents, where)):
        # MS MARCO documents call their text the body.
        text = getattr(document, "text", getattr(document, "body", None))
        if hasattr(document, "title") and text is not None:
            values = {"_id": document.doc_id, "title": document.title, "text": text}
        else:
            values = {"_id": document.doc_id, "text": document.default_text()}
        yield _row(values, f"{where}, row {number},", ("_id",))


def reported(items: Iterable[ItemT], where: str) -> Iterator[ItemT]:
    """Pass items on; a failure of their source (network, broken archive) becomes one line."""
    try:
        yield from items
    except Exception as error:
        raise _unreachable(where, error) from error


def _unreachable(where: str, error: Exception) -> CorpusFormatError:
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return CorpusFormatError(f"{where} cannot be read ({reason}); check the name and the network")
