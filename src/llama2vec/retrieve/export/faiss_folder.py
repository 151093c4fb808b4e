"""A store as files that any FAISS program opens: the index, and a SQLite table of the passages by their numbers.

collection.json   what made it: the contract's hash, the store's
vectors.faiss     vector n is passage n
passages.sqlite   table ``passages``: number, id, title, text, path, page, place, fields
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from llama2vec.artifact import Found, Kind, bring_back, claim, read_object
from llama2vec.data.corpus.distinct import id_key
from llama2vec.engines.engine import About, encodable, payload, read_about
from llama2vec.errors import EngineError, one_line
from llama2vec.files import disk_errors, write_json
from llama2vec.retrieve.export.collection import check_gone
from llama2vec.retrieve.index.faiss import import_faiss, write_faiss_index
from llama2vec.retrieve.store.reader import VectorStore, store_passages, store_sha256

_ABOUT, _VECTORS, _PASSAGES = "collection.json", "vectors.faiss", "passages.sqlite"
_COLUMNS = ("id", "title", "text", "path", "page", "place", "fields")

SNIPPET = """\
import json
import sqlite3
from pathlib import Path

import faiss
from llama2vec import Encoder

encoder, folder = Encoder.load({model!r}), Path({folder!r})
if json.loads((folder / "collection.json").read_text())["contract_hash"] != encoder.contract_hash:
    raise SystemExit("the folder holds vectors of another model")
index, passages = faiss.read_index(str(folder / "vectors.faiss")), sqlite3.connect(folder / "passages.sqlite")
question = "…"
scores, numbers = index.search(encoder.encode_queries([question]), min(10, index.ntotal))
for score, number in zip(scores[0], numbers[0].tolist()):
    passage_id, title, text = passages.execute(
        "select id, title, text from passages where number = ?", [number]
    ).fetchone()
    print(f"{{score:.3f}}  {{passage_id}}  {{title}}  {{text[:80]!r}}")
"""


def _read(folder: Path) -> Found | None:
    content = read_object(folder / _ABOUT)
    if content is None or content.get("format") != About.model_fields["format"].default:
        return None
    finished = all((folder / name).is_file() for name in (_VECTORS, _PASSAGES))
    return Found(content, finished)


_FOLDER = Kind("FAISS files", _read, resumable=False, entries=(_ABOUT, _VECTORS, _PASSAGES))


def export_faiss(store: VectorStore, folder: Path, *, replace: bool = False) -> bool:
    """Write a store as FAISS files; files of another state of the corpus are replaced once the new ones are whole.

    Args:
        store: A finished store with vectors.
        folder: Where the files go.
        replace: Also replace files of which the store lacks more than half of the passages.

    Returns:
        Whether anything was written; False = the folder held this very store.

    Raises:
        StoreError: The store has no vectors, or is damaged.
        EngineError: The folder holds vectors of another contract, or passages most of which are not in the store.
        OutputExistsError: The folder holds something else.
        MissingDependencyError: FAISS is not installed.
    """
    store.check_vectors()
    import_faiss()
    about = About(contract_hash=store.contract_hash, dimension=store.dimension, mirrors=store_sha256(store))
    bring_back(folder)
    found = _read(folder)
    if found and read_about(dict(found.plan), str(folder)).contract_hash != store.contract_hash:
        theirs, ours = str(found.plan["contract_hash"])[:12], store.contract_hash[:12]
        raise EngineError(
            f"{folder} holds vectors of contract {theirs}, and the store was encoded under {ours}; choose another --at"
        )
    if found and found.finished and found.plan != about.model_dump() and not replace:
        check_gone(*_count_gone(folder / _PASSAGES, store), str(folder), store, "another --at")
    with claim(folder, _FOLDER, about.model_dump(), overwrite=found is not None, inputs=[store.path]) as work:
        # With `overwrite`, a finished one counts as wanted again.
        if found and found.finished and found.plan == about.model_dump():
            return False
        target = work.begin()
        with disk_errors(folder):
            write_faiss_index(store, "faiss-flat", target / _VECTORS)
            _write_passages(store, target / _PASSAGES)
            write_json(target / _ABOUT, about.model_dump())
        work.finish()
    return True


def faiss_snippet(folder: Path, model: str) -> str:
    """Return Python that loads the encoder, checks the contract and searches the files, in any folder."""
    return SNIPPET.format(model=model, folder=str(folder.absolute()))


def _count_gone(file: Path, store: VectorStore) -> tuple[int, int]:
    """Return how many passages of a written table the store lacks, and how many the table holds."""
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT id FROM passages")
            held = np.fromiter((id_key(one) for (one,) in rows), dtype=np.uint64)
    except sqlite3.Error as error:
        raise EngineError(f"{file}: {one_line(error)}; pass --overwrite to write the files again") from error
    known = np.fromiter((id_key(one) for one in store.ids), dtype=np.uint64, count=len(store))
    return int((~np.isin(held, known)).sum()), len(held)


def _write_passages(store: VectorStore, file: Path) -> None:
    def row(number: int, values: dict[str, Any]) -> list[Any]:
        plain = values | {name: json.dumps(values[name], ensure_ascii=False) for name in ("place", "fields")}
        return [number, *(plain[name] for name in _COLUMNS)]

    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute(
            "CREATE TABLE passages (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, "
            "text TEXT NOT NULL, path TEXT, page INTEGER, place TEXT NOT NULL, fields TEXT NOT NULL)"
        )
        database.execute("BEGIN")
        rows = (row(number, payload(encodable(passage))) for number, passage in enumerate(store_passages(store)))
        database.executemany("INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        database.execute("COMMIT")
