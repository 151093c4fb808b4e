"""What `remove` takes out of an index, and how it stays out when the file is read again.

A removed passage is known by its text, and by which of the file's passages with this text it is. So it is found again
where the file is split otherwise, unless the split goes through it. Its text is kept then, for the next split.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from llama2vec.data.documents.splitting import passage_id
from llama2vec.errors import DataError
from llama2vec.records import Passage
from llama2vec.retrieve.index.field_table import composed
from llama2vec.retrieve.store.reader import VectorStore, store_passages
from llama2vec.retrieve.syncing.inventory import FileRecord, Inventory


def rows_of(ids: Sequence[str], inventory: Inventory, store: VectorStore) -> set[int]:
    """Return the rows that ids of passages, or paths of files and documents, name.

    A name that the index does not spell so names what is the same in another Unicode form.

    Raises:
        DataError: The index has no such document or passage, nor had it.
    """
    found: dict[str, set[int]] = {name: set() for name in ids}
    alike: dict[str, set[int]] = {composed(name): set() for name in ids}
    files = {record.path for record in inventory.files}
    path_of_row = (record.path for record, span in inventory.spans() for _ in span)
    for row, (path, passage) in enumerate(zip(path_of_row, store_passages(store), strict=True)):
        document, _, part = passage.id.rpartition("#")
        names = {path, passage.id, passage.place.document if passage.place else path}
        for name in names | ({document} if part.isdecimal() else set()):
            if name != path and name in files:  # A file's path may be another one's id
                continue
            if name in found:
                found[name].add(row)
            if (form := composed(name)) in alike:
                alike[form].add(row)
    paths = [record.path for record in inventory.files if record.removed]
    gone = {*paths, *map(passage_id, paths)}
    for name, rows in found.items():
        if rows or _was_removed(name, gone):
            continue
        rows |= alike[composed(name)]
        if not rows and not _was_removed(composed(name), set(map(composed, gone))):
            raise DataError(f"the index has no document or passage {name!r}; give its path or id as search shows it")
    return set().union(*found.values())


def _was_removed(name: str, gone: Collection[str]) -> bool:
    """Tell whether an id names a file of which something was removed before, or a part of it."""
    return name in gone or name.rpartition("#")[0] in gone


def without(record: FileRecord, offsets: Sequence[int], passages: Sequence[Passage]) -> FileRecord:
    """Return a file's record after some of its passages are removed.

    Args:
        record: Before.
        offsets: Which of the file's passages in the store.
        passages: All of the file's passages in the store.
    """
    left = record.passages - len(offsets)
    if left == 0:
        return record.model_copy(update={"passages": 0, "removed": "all", "removed_texts": ()})
    before = record.removed if record.removed != "all" else ()
    known, waiting = record.removed_texts[: len(before)], record.removed_texts[len(before) :]
    there = [place for place in range(record.passages + len(before)) if place not in set(before)]
    removed = tuple(sorted({*before, *(there[offset] for offset in offsets)}))
    hashes = dict(zip(there, map(_hash, passages), strict=True))
    hashes |= {place: text.partition(":")[0] for place, text in zip(before, known, strict=True)}
    numbered = _numbered(hashes[place] for place in sorted(hashes))
    texts = (*(numbered[place] for place in removed), *waiting)
    return record.model_copy(update={"passages": left, "removed": removed, "removed_texts": texts})


@dataclass(frozen=True, slots=True)
class StillRemoved:
    """What of a file's removed passages is known again in the file as it is split now."""

    places: dict[int, str] = field(default_factory=dict)  # Place of one that stays away → its text in a record
    missing: tuple[str, ...] = ()  # Texts that no passage has


def still_removed(record: FileRecord, passages: Sequence[Passage]) -> StillRemoved:
    """Return which of a file's passages stay removed, and what was removed that is not found.

    Args:
        record: Describes the same bytes; not all of them are removed.
        passages: The file as it is split now.
    """
    texts, numbered = set(record.removed_texts), _numbered(map(_hash, passages))
    places = {place: text for place, text in enumerate(numbered) if text in texts}
    return StillRemoved(places, tuple(sorted(texts.difference(numbered))))


def _hash(passage: Passage) -> str:
    return hashlib.blake2b(passage.text.encode(errors="surrogatepass"), digest_size=12).hexdigest()


def _numbered(hashes: Iterable[str]) -> list[str]:
    """Return each hash with how many equal ones stand before it."""
    seen: Counter[str] = Counter()
    numbered = []
    for one in hashes:
        numbered.append(f"{one}:{seen[one]}")
        seen[one] += 1
    return numbered
