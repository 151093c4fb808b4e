"""What `remove` takes out of an index, and how it stays out when the file is read again.

A removed passage is known by its text, and by which of the file's passages with this text it is. So it is found again
where the file is split otherwise, unless the split goes through it. Its text is kept then, for the next split.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from llama2vec.data.documents.splitting import passage_id
from llama2vec.errors import DataError
from llama2vec.records import Passage
from llama2vec.retrieve.index.field_table import composed
from llama2vec.retrieve.store.reader import VectorStore, store_passages
from llama2vec.retrieve.syncing.inventory import FileRecord, Inventory
from llama2vec.terminal import printable_line


def rows_of(ids: Sequence[str], inventory: Inventory, store: VectorStore) -> set[int]:
    """Return the rows that ids of passages, or paths of files and documents, name.

    A name that the index does not spell so names what is the same in another Unicode form, and then what the terminal
    shows so: control characters are escaped there.

    Raises:
        DataError: The index has no such document or passage, nor had it.
    """
    found: list[dict[str, set[int]]] = [{form(name): set() for name in ids} for form in _FORMS]
    # Only names with a backslash can be escaped ones, and every row of the index would be escaped to compare.
    forms = _FORMS if any("\\" in name for name in ids) else _FORMS[:-1]
    files = {record.path for record in inventory.files}
    path_of_row = (record.path for record, span in inventory.spans() for _ in span)
    for row, (path, passage) in enumerate(zip(path_of_row, store_passages(store), strict=True)):
        document, _, part = passage.id.rpartition("#")
        names = {path, passage.id, passage.place.document if passage.place else path}
        for name in names | ({document} if part.isdecimal() else set()):
            if name != path and name in files:  # A file's path may be another one's id
                continue
            for form, rows_named in zip(forms, found, strict=False):
                if (formed := form(name)) in rows_named:
                    rows_named[formed].add(row)
    paths = [record.path for record in inventory.files if record.removed]
    gone = {*paths, *map(passage_id, paths)}
    return set().union(*(_rows_of_one(name, found, gone) for name in ids))


def _exact(name: str) -> str:
    return name


def _shown(name: str) -> str:
    return composed(printable_line(name))


_FORMS: tuple[Callable[[str], str], ...] = (_exact, composed, _shown)
"""How a name may be given, the exact one first."""


def _rows_of_one(name: str, found: Sequence[Mapping[str, set[int]]], gone: Collection[str]) -> set[int]:
    """Return the rows that one name names in the first form that the index has or had."""
    for form, rows in zip(_FORMS, found, strict=True):
        if rows[form(name)] or _was_removed(form(name), set(map(form, gone))):
            return rows[form(name)]
    raise DataError(f"the index has no document or passage {name!r}; give its path or id as search shows it")


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


def still_removed(record: FileRecord, passages: Sequence[Passage], *, same_split: bool = False) -> StillRemoved:
    """Return which of a file's passages stay removed, and what was removed that is not found.

    Args:
        record: Describes the same bytes; not all of them are removed.
        passages: The file as it is split now.
        same_split: Whether it was split under the same settings, so that at most the readers changed the texts.
    """
    hashes = list(map(_hash, passages))
    texts, numbered = set(record.removed_texts), _numbered(hashes)
    if same_split and _in_place(record, hashes):
        places = {place: numbered[place] for place in record.removed if isinstance(place, int)}
        texts = set(record.removed_texts[len(record.removed) :])
        places |= {place: text for place, text in enumerate(numbered) if text in texts}
    else:
        places = {place: text for place, text in enumerate(numbered) if text in texts}
    return StillRemoved(dict(sorted(places.items())), tuple(sorted(texts.difference(numbered))))


def _in_place(record: FileRecord, hashes: Sequence[str]) -> bool:
    """Tell whether a file has as many passages as before, and no removed text stands at another place alone."""
    if record.skipped or record.removed == "all" or len(hashes) != record.passages + len(record.removed):
        return False
    before = zip(record.removed, (text.partition(":")[0] for text in record.removed_texts), strict=False)
    there = set(hashes)
    return all(hashes[place] == text or text not in there for place, text in before)


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
