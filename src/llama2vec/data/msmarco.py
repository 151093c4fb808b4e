"""MS MARCO's training files: triples of texts, or triples of ids with the queries and the collection beside them."""

from __future__ import annotations

import re
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

import numpy as np

from llama2vec.data.corpus import read_queries
from llama2vec.data.example_rows import ExampleRow, Problem, Problems, source_lines
from llama2vec.data.lines import decode_line, header_columns, raw_lines
from llama2vec.data.text_key import text_key
from llama2vec.errors import ExampleFormatError
from llama2vec.files import open_regular
from llama2vec.records import Passage, TrainingExample

_SPLITS = frozenset({"train", "dev", "validation", "test", "eval"})
_HEADERS = (["query", "positive", "negative"], ["query", "pos", "neg"], ["anchor", "positive", "negative"])
ID_TRIPLES = "qidpidtriples"


@dataclass(frozen=True, slots=True)
class IdTripleFiles:
    """A file of id triples and the two files that the ids refer to."""

    triples: Path
    queries: Path
    collection: Path


def find_id_triples(source: Path, split: str) -> IdTripleFiles:
    """Find ``qidpidtriples*.tsv``, ``queries*.tsv`` and ``collection*.tsv`` (each also ``.gz``) of one split.

    Among several, the one that names the split between dots is meant, such as ``queries.train.tsv``.

    Args:
        source: The folder, or the file of triples.
        split: Name of the split.

    Raises:
        ExampleFormatError: No file, or more than one, fits.
    """
    folder = source if source.is_dir() else source.parent
    triples = _choose(folder, ID_TRIPLES, split) if source.is_dir() else source
    return IdTripleFiles(triples, _choose(folder, "queries", split), _choose(folder, "collection", split))


def _choose(folder: Path, stem: str, split: str) -> Path:
    shape = re.compile(rf"{stem}.*\.tsv(\.gz)?", re.IGNORECASE)
    found = sorted(path for path in folder.iterdir() if path.is_file() and shape.fullmatch(path.name))
    of_split = [path for path in found if split in path.name.lower().split(".")]
    of_any = [path for path in found if _SPLITS.isdisjoint(path.name.lower().split("."))]
    chosen = of_split or of_any
    if len(chosen) == 1:
        return chosen[0]
    wanted = f"{stem}.{split}.tsv or {stem}.tsv"
    names = ", ".join(path.name for path in chosen or found)
    if chosen:
        advice = "give the file itself" if stem == ID_TRIPLES else "keep one of them"
        raise ExampleFormatError(f"{folder} holds {names}; {advice}")
    has = f"only {names}" if names else "no such file"
    raise ExampleFormatError(f"{folder}: {wanted} is needed next to the triples, but there is {has}; put it there")


def text_triple_rows(path: Path) -> Iterator[ExampleRow]:
    """Stream ``query⇥positive⇥negative`` lines, one example each; a header is skipped."""
    for where, line in source_lines(path):
        if isinstance(line, str) and line.lower().split("\t") in _HEADERS:
            continue
        if isinstance(line, Problem):
            yield ExampleRow(where, None, (line,))
            continue
        fields = line.split("\t")
        problems = Problems(where)
        if len(fields) != 3:
            problems.add("unreadable", f"has {len(fields)} columns; write query, positive, negative with tabs between")
            yield ExampleRow(where, None, tuple(problems.found))
            continue
        if all(column.isdecimal() for column in fields):
            problems.add("unreadable", f"contains three ids, not texts; call the file {ID_TRIPLES}.train.tsv")
        yield problems.row(TrainingExample(fields[0], (fields[1],), (fields[2],)))


def id_triple_rows(files: IdTripleFiles) -> Iterator[ExampleRow]:
    """Stream ``query id⇥positive id⇥negative id`` lines, with consecutive lines of one query as one example.

    Queries are kept in memory, the collection is not (see :class:`Collection`).
    """
    queries = {query.id: query.text for query in read_queries(files.queries)}
    with Collection(files.collection) as collection:
        group: _Group | None = None
        for where, line in source_lines(files.triples):
            fields = line.split("\t") if isinstance(line, str) else []
            if isinstance(line, Problem) or len(fields) != 3:
                problems = Problems(where)
                problems.add("unreadable", f"has {len(fields)} columns; write query id, positive id, negative id")
                yield ExampleRow(where, None, (line,) if isinstance(line, Problem) else tuple(problems.found))
                continue
            if group and group.query_id != fields[0]:
                yield group.row(queries, collection, files)
                group = None
            group = group or _Group(where, fields[0], {}, {})
            group.positives.setdefault(fields[1], where)
            group.negatives.setdefault(fields[2], where)
        if group:
            yield group.row(queries, collection, files)


@dataclass(slots=True)
class _Group:
    """Consecutive triples of one query: passage id → the first line that names it."""

    where: str
    query_id: str
    positives: dict[str, str]
    negatives: dict[str, str]

    def row(self, queries: dict[str, str], collection: Collection, files: IdTripleFiles) -> ExampleRow:
        problems = Problems(self.where)
        if self.query_id not in queries:
            problems.add("unknown id", f"names the query {self.query_id!r}, which {files.queries} lacks")
        for passage_id, where in self.negatives.items():
            if passage_id in self.positives:
                what = f"has passage {passage_id!r} as positive and negative of query {self.query_id!r}; keep one"
                problems.add("overlap", what, where)
        positives = self._texts(self.positives, collection, problems)
        known = set(map(text_key, positives.values()))
        # A collection may contain a text under two ids; the other id of a positive is not a negative.
        negatives = {
            passage_id: text
            for passage_id, text in self._texts(self.negatives, collection, problems).items()
            if text_key(text) not in known
        }
        return problems.row(
            TrainingExample(
                query=queries.get(self.query_id, ""),
                positives=tuple(positives.values()),
                negatives=tuple(negatives.values()),
                query_id=self.query_id,
                positive_ids=tuple(positives),
                negative_ids=tuple(negatives),
            )
        )

    @staticmethod
    def _texts(ids: dict[str, str], collection: Collection, problems: Problems) -> dict[str, str]:
        texts: dict[str, str] = {}
        for passage_id, where in ids.items():
            text = collection.get(passage_id)
            if text is None:
                problems.add("unknown id", f"names the passage {passage_id!r}, which {collection.path} lacks", where)
            else:
                texts[passage_id] = text
        return texts


class Collection:
    """The texts of a ``collection.tsv`` by id, read from the file on demand; use as a context manager.

    It takes 24 bytes per passage while it indexes the file and 16 afterwards. Gzip is unpacked into a temporary file.

    Args:
        path: ``id⇥text`` or ``id⇥title⇥text`` lines; gzip where the name ends in ``.gz``.

    Raises:
        ExampleFormatError: No such file, a faulty line, or an id that occurs twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with ExitStack() as opened:
            unpacked: BinaryIO | None = None
            if path.name.lower().endswith(".gz"):
                unpacked = cast(BinaryIO, opened.enter_context(tempfile.TemporaryFile()))
            self._keys, self._offsets = self._index(unpacked)
            self._stream = unpacked or opened.enter_context(open_regular(path))
            self._check_distinct()
            # From here on, __exit__ closes the stream.
            opened.pop_all()

    def __enter__(self) -> Collection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, passage_id: str) -> str | None:
        """Return a passage's title and text as one; None for an unknown id."""
        key = np.uint64(_key(passage_id))
        position = int(np.searchsorted(self._keys, key))
        # Two ids may share a key, so compare the id itself.
        while position < len(self._keys) and self._keys[position] == key:
            found = self._line(position)
            if found[0] == passage_id:
                return Passage(passage_id, *found[1:]).full_text
            position += 1
        return None

    def _index(self, unpacked: BinaryIO | None) -> tuple[np.ndarray, np.ndarray]:
        keys, offsets = array("Q"), array("Q")
        offset = 0
        self._columns: dict[str, int] = {}
        for number, raw in raw_lines(self.path, ExampleFormatError):
            line = decode_line(raw, self.path, number, ExampleFormatError)
            if line and not line.isspace():
                where, fields = f"{self.path}:{number}", line.split("\t")
                if len(fields) not in (2, 3):
                    raise ExampleFormatError(f"{where} has {len(fields)} columns; write id, text with a tab between")
                if not keys and not self._columns and (header := header_columns(fields, where, ExampleFormatError)):
                    self._columns = header
                else:
                    passage_id = self._fields(line)[0]
                    if not passage_id.strip():
                        raise ExampleFormatError(f"{where} has no id; write id, text with a tab between")
                    keys.append(_key(passage_id))
                    offsets.append(offset)
            offset += len(raw)
            if unpacked:
                unpacked.write(raw)
        if not keys:
            raise ExampleFormatError(f"{self.path} is empty; give a collection with at least one passage")
        order = np.argsort(np.frombuffer(keys, dtype=np.uint64), kind="stable")
        return np.frombuffer(keys, dtype=np.uint64)[order], np.frombuffer(offsets, dtype=np.uint64)[order]

    def _line(self, position: int) -> list[str]:
        offset = int(self._offsets[position])
        self._stream.seek(offset)
        return self._fields(decode_line(self._stream.readline(), self.path, 1 if offset == 0 else 2))

    def _fields(self, line: str) -> list[str]:
        """Return id, text and, where there is one, title."""
        fields = line.split("\t")
        columns = self._columns or {"id": 0, "text": len(fields) - 1} | ({"title": 1} if len(fields) == 3 else {})
        return [fields[columns[role]] for role in ("id", "text", "title") if role in columns]

    def _check_distinct(self) -> None:
        for position in np.flatnonzero(self._keys[1:] == self._keys[:-1]).tolist():
            first, second = self._line(position)[0], self._line(position + 1)[0]
            if first == second:
                raise ExampleFormatError(f"{self.path} repeats the id {first!r}; ids must be unique")


def _key(passage_id: str) -> int:
    # Python's hash differs between processes, and this index lives in one.
    return hash(passage_id) & 0xFFFF_FFFF_FFFF_FFFF
