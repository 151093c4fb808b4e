"""Ids of documents that no other document of a folder has: of two with one id, the later one is numbered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count, groupby

from llama2vec.data.corpus.distinct import DistinctIds
from llama2vec.data.documents.splitting import passage_id
from llama2vec.records import Passage


class DocumentIds:
    """The ids that the passages of a folder have so far.

    ``a b.md`` and ``a%20b.md`` would both be ``a%20b.md``, and the second part of ``a.md`` is called ``a.md#2``, as a
    file may be.
    """

    def __init__(self) -> None:
        self._taken = DistinctIds()

    def take(self, ids: Iterable[str]) -> bool:
        """Take in ids that cannot change; return whether all of them were new."""
        repeated = [one for one in ids if not self._taken.add(one)]
        return not repeated

    def number(self, passages: Sequence[Passage]) -> int:
        """Return the number that sets a document apart from those before it, and take the ids; 1 = its ids are free."""
        for number in count(1):
            ids = [numbered(one, number).id for one in passages]
            if not any(one in self._taken for one in ids):
                self.take(ids)
                return number
        raise AssertionError


def document_of(passage: Passage) -> str:
    """Return the document that a passage of a folder belongs to."""
    return passage.place.document if passage.place else passage.id


def document_groups(passages: Iterable[Passage]) -> Iterator[tuple[str, list[Passage]]]:
    """Yield each document with its passages, which follow each other."""
    for document, parts in groupby(passages, document_of):
        yield document, list(parts)


def numbered(passage: Passage, number: int) -> Passage:
    """Return a passage under the id of its document with a number.

    >>> from llama2vec.records import Place
    >>> numbered(Passage("a%20b.md#1", "text", place=Place("a b.md", 0, 4)), 2).id
    'a%20b.md@2#1'
    """
    if number == 1:
        return passage
    document = passage_id(document_of(passage))
    part = passage.id[len(document) :] if passage.id.startswith(document) else ""
    return replace(passage, id=f"{passage.id.removesuffix(part)}@{number}{part}")


def why_numbered(number: int) -> str:
    """Return the reason that a report names a numbered document with."""
    return f"its id was taken, so @{number} was added"
