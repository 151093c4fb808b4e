"""MS MARCO's training files: triples of texts, or triples of ids with queries and collection in the same folder."""

from __future__ import annotations

import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from llama2vec.data.corpus.passages import read_passages, read_queries
from llama2vec.data.examples.rows import ExampleRow, Problems
from llama2vec.data.text.lines import columns_in, numbered_lines
from llama2vec.data.text.words import text_key
from llama2vec.errors import ExampleFormatError
from llama2vec.files import disk_errors
from llama2vec.records import TrainingExample

_SPLITS = frozenset({"train", "dev", "validation", "test", "eval"})
HEADERS = (["query", "positive", "negative"], ["query", "pos", "neg"], ["anchor", "positive", "negative"])
ID_TRIPLES = "qidpidtriples"


class IdTripleFiles(NamedTuple):
    """A file of id triples and the two files that the ids refer to."""

    triples: Path
    queries: Path
    collection: Path


def find_id_triples(source: Path, split: str) -> IdTripleFiles:
    """Find ``qidpidtriples*.tsv``, ``queries*.tsv`` and ``collection*.tsv`` (each also ``.gz``) of one split.

    Among several, the one that names the split between dots is meant, such as ``queries.train.tsv``.
    """
    folder = source if source.is_dir() else source.parent
    triples = _choose(folder, ID_TRIPLES, split) if source.is_dir() else source
    return IdTripleFiles(triples, _choose(folder, "queries", split), _choose(folder, "collection", split))


def _choose(folder: Path, stem: str, split: str) -> Path:
    shape = re.compile(rf"{stem}.*\.tsv(\.gz)?", re.IGNORECASE)
    found = sorted(path for path in folder.iterdir() if path.is_file() and shape.fullmatch(path.name))
    of_split = [path for path in found if split in path.name.lower().split(".")]
    of_any = [path for path in found if _SPLITS.isdisjoint(path.name.lower().split("."))]
    if len(chosen := of_split or of_any) == 1:
        return chosen[0]
    names = ", ".join(path.name for path in chosen or found) or "no such file"
    raise ExampleFormatError(
        f"{folder}: one {stem}.{split}.tsv or {stem}.tsv is needed next to the triples, and there is {names}; "
        "keep one, or give the file itself"
    )


def text_triple_rows(path: Path) -> Iterator[ExampleRow]:
    """Stream ``query⇥positive⇥negative`` lines, one example each; a header is skipped."""
    for number, line in numbered_lines(path, ExampleFormatError):
        where, fields = f"{path}:{number}", line.split("\t")
        if line.lower().split("\t") in HEADERS:
            continue
        problems = Problems(where)
        if len(fields) != 3:
            problems.add("unreadable", f"has {columns_in(fields)}; write query, positive, negative with tabs between")
            yield problems.row()
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
        for number, line in numbered_lines(files.triples, ExampleFormatError):
            where, fields = f"{files.triples}:{number}", line.split("\t")
            if len(fields) != 3:
                problems = Problems(where)
                problems.add("unreadable", f"has {columns_in(fields)}; write query id, positive id, negative id")
                yield problems.row()
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
    """The texts of a ``collection.tsv`` by id, in a temporary database on disk; use as a context manager.

    Args:
        path: ``id⇥text`` or ``id⇥title⇥text`` lines, plain or gzip (``.gz``).

    Raises:
        DataError: The file has a faulty line, or the disk of the temporary database is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        rows = ((passage.id, passage.full_text) for passage in read_passages(path))
        # An empty name is a database that SQLite keeps in a temporary file and deletes when it is closed.
        self._folder = _temporary_folder()
        with ExitStack() as opened, disk_errors(self._folder):
            self._database = opened.enter_context(closing(sqlite3.connect("")))
            self._database.execute("CREATE TABLE passages (id TEXT PRIMARY KEY, text TEXT) WITHOUT ROWID")
            self._count = self._database.executemany("INSERT INTO passages VALUES (?, ?)", rows).rowcount
            # From here on, __exit__ closes the database.
            opened.pop_all()

    def __enter__(self) -> Collection:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def __len__(self) -> int:
        return self._count

    def get(self, passage_id: str) -> str | None:
        """Return a passage's title and text as one; None for an unknown id."""
        with disk_errors(self._folder):  # Looking up may write what has waited in memory
            found = self._database.execute("SELECT text FROM passages WHERE id = ?", (passage_id,)).fetchone()
        return found[0] if found else None


def _temporary_folder() -> Path:
    """Return where SQLite puts temporary files, which need not be where Python does."""
    named = [*map(os.environ.get, ("SQLITE_TMPDIR", "TMPDIR")), "/var/tmp", "/usr/tmp", tempfile.gettempdir()]  # noqa: S108
    return Path(next(one for one in named if one and os.access(one, os.W_OK | os.X_OK)))
