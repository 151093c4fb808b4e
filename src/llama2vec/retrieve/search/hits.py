"""Found passages: grouped by document, with where they stand and the words that show why."""

from __future__ import annotations

import os
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from llama2vec.data.documents.windows import by_document
from llama2vec.data.text.little_words import ENGLISH, language_of, little_words
from llama2vec.data.text.words import is_paired, word_key
from llama2vec.records import Passage
from llama2vec.retrieve.index.lexical import term_spans
from llama2vec.retrieve.store.reader import VectorStore

_SHORTEST_STEM, _SHORTEST_PREFIX, _LONGEST_ENDING = 5, 4, 3
"""Letters that words with another ending have in common, also where one of them is the whole word; and of an ending."""

_PART = re.compile("[#!]")
"""Before what the name of a row or a member begins in the name of a document."""
_ROW = re.compile(r"#\d+$")
"""What ends the name of a document that is a row of a file."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One found passage."""

    rank: int  # 1 is the best
    score: float  # In the unit of the search mode: cosine (dense), BM25, or 0..1 (hybrid)
    passage: Passage  # With title and text
    row: int = -1  # Its row in the store
    more: tuple[Hit, ...] = ()  # Further passages of the same document, best first, where hits are grouped
    continues: bool = False  # Whether the passage begins inside a line of its document


def grouped(hits: Sequence[Hit], depth: int | None = None, near: int | None = None) -> list[Hit]:
    """Return the best passage of each document, with the document's other passages folded into it.

    A document stands where its best passage does (MaxP). A passage without a place is a document of its own.

    Args:
        hits: Best first.
        depth: Most documents; None = all.
        near: Fold only passages of at most this rank; None = all.
    """

    def document_of(hit: Hit) -> tuple[bool, str]:
        place = hit.passage.place
        return (True, place.document) if place else (False, hit.passage.id)

    found = list(by_document(hits, document_of, lambda hit: -hit.rank).values())[:depth]
    return [
        replace(best, rank=rank, more=tuple(other for other in others if near is None or other.rank <= near))
        for rank, (best, *others) in enumerate(found, start=1)
    ]


def with_beginnings(store: VectorStore, hits: Sequence[Hit]) -> list[Hit]:
    """Return hits that say whether they begin inside a line of their document, by the passages before them."""
    rows = [hit.row - 1 for hit in hits if hit.row > 0 and hit.passage.place]
    before = dict(zip(rows, store.passages(rows), strict=True))
    return [replace(hit, continues=continues_line(hit.passage, before.get(hit.row - 1))) for hit in hits]


def continues_line(passage: Passage, before: Passage | None) -> bool:
    """Return whether a passage begins inside a line of its document; ``before`` stands before it in the store.

    >>> from llama2vec.records import Place
    >>> first = Passage("a#1", "One llama.", place=Place("a", 0, 10, 1, 1))
    >>> continues_line(Passage("a#2", "Two llamas.", place=Place("a", 11, 22, 1, 1)), first)
    True
    >>> continues_line(Passage("a#2", "Two llamas.", place=Place("a", 11, 22, 2, 2)), first)
    False
    """
    here, there = passage.place, before.place if before else None
    if before is None or here is None or there is None or (here.document, here.page) != (there.document, there.page):
        return False
    shared = there.end - here.begin
    if shared > 0:
        ahead = before.text[: max(0, len(before.text) - shared)]
        return bool(ahead.rpartition("\n")[2].strip())
    return here.first_line is not None and here.first_line == there.last_line


def neighbors(store: VectorStore, row: int, reach: int = 1) -> list[Passage]:
    """Return a passage with up to ``reach`` passages of the same document before and after it, without repetition.

    Text that two passages share, because they overlap, stays in the passage that was asked for.
    """
    first, last = max(0, row - reach), min(len(store) - 1, row + reach)
    around = dict(zip(range(first, last + 1), store.passages(range(first, last + 1)), strict=True))
    place = around[row].place
    if place is None:
        return [around[row]]
    found = [around[row]]
    for step in (-1, 1):
        number = row + step
        while number in around and (near := around[number].place) and near.document == place.document:
            passage = _without_overlap(around[number], found[0 if step < 0 else -1], step)
            found = [passage, *found] if step < 0 else [*found, passage]
            number += step
    return found


def _without_overlap(passage: Passage, beside: Passage, step: int) -> Passage:
    """Return a passage without what the one after it (``step`` -1) or before it (1) holds as well."""
    assert passage.place is not None
    assert beside.place is not None
    if step < 0:
        shared = passage.place.end - beside.place.begin
        return replace(passage, text=passage.text[: max(0, len(passage.text) - shared)]) if shared > 0 else passage
    shared = beside.place.end - passage.place.begin
    return replace(passage, text=passage.text[shared:]) if shared > 0 else passage


def location(passage: Passage, question: str = "") -> str:
    """Return where a passage stands, as editors and terminals read it: ``file:page:line`` as far as it has them.

    The line is the one with the most words of the question, else the passage's first; without a place, the id.

    >>> from llama2vec.records import Place
    >>> location(Passage("guide.md#2", "Setup\\nRun it.", place=Place("guide.md", 90, 103, 8, 9)), "How do I run it?")
    'guide.md:9'
    """
    place = passage.place
    if place is None:
        return passage.id
    line = best_line(passage, question)
    # A row of a table is a document of its own; its line is one of the table's.
    file = place.document if line is None else _ROW.sub("", place.document)
    return ":".join([file, *(str(number) for number in (place.page, line) if number is not None)])


def corpus_folder(store: VectorStore) -> Path | None:
    """Return the folder of the documents that a store was made from; None where it is not there."""
    named = store.source.get("folder") or store.source.get("corpus")
    folder = Path(str(named)) if named else None
    if folder and "folder" in store.source and folder.is_file():  # The index follows one file
        folder = folder.resolve().parent
    return folder.resolve() if folder and folder.is_dir() else None


def document_file(folder: Path, document: str) -> Path | None:
    """Return the file of a folder that a document is, or is a row or a member of; None where it is not there.

    A file's own name may hold ``#`` and ``!`` too, so it is the longest of the names that end before one of them.
    """
    if ".." in PurePosixPath(document).parts:
        return None
    ends = [len(document), *(mark.start() for mark in reversed(list(_PART.finditer(document))))]
    for name in (document[:end] for end in ends):
        # Unlike Path.is_file, without an error for a name that no file can have.
        if name and not PurePosixPath(name).is_absolute() and os.path.isfile(folder / name):
            return folder / name
    return None


def as_row(hit: Hit, question: str) -> dict[str, Any]:
    """Return a hit as JSON: what the passage is, where it stands, the part that shows why, and the words to mark."""
    passage = hit.passage
    return {
        "rank": hit.rank,
        "id": passage.id,
        "score": hit.score,
        "title": passage.title,
        "text": passage.text,
        "snippet": excerpt(hit, question),
        "words": telling_words(question, passage.full_text).found_in(passage.full_text),
        "continues": hit.continues,
        "location": location(passage, question),
        "spot": spot(passage),
        "row": hit.row,
        "place": passage.place and asdict(passage.place),
        "fields": dict(passage.fields),
        "more": [
            {
                "id": other.passage.id, "score": other.score, "title": other.passage.title,
                "location": location(other.passage), "spot": spot(other.passage), "row": other.row,
            }
            for other in hit.more
        ],
    }  # fmt: skip


def best_line(passage: Passage, question: str) -> int | None:
    """Return the line of the document with the most words of a question, else the passage's first; None = no lines."""
    place = passage.place
    if place is None or place.first_line is None:
        return None
    lines = passage.text.split("\n")
    if place.last_line != place.first_line + len(lines) - 1:  # the text is not the lines of the file as they stand
        return place.first_line
    telling = telling_words(question, passage.text)
    counts = [len({line[begin:end].casefold() for begin, end in _evidence(line, telling)}) for line in lines]
    return place.first_line + max(range(len(lines)), key=lambda number: (counts[number], -number))


def spot(passage: Passage) -> str:
    """Return where in its document a passage stands, in a few letters: its page, else its line, else its id.

    >>> from llama2vec.records import Place
    >>> spot(Passage("a.pdf#3", "text", place=Place("a.pdf", 90, 94, 1, 1, page=12)))
    'p. 12'
    """
    place = passage.place
    if place is None or (place.page is None and place.first_line is None):
        return passage.id
    return f"p. {place.page}" if place.page is not None else f"line {place.first_line}"


def evidence(text: str, question: str, whole: str = "") -> list[tuple[int, int]]:
    """Return where the telling words of a question stand in a text, other endings included: [(begin, end), …].

    ``whole`` = what the text is a part of, which tells the language more surely.

    >>> [("Delays of the swept wings"[a:b]) for a, b in evidence("Delays of the swept wings", "Which wing delays it?")]
    ['Delays', 'wings']
    """
    return _evidence(text, telling_words(question, whole or text))


def _evidence(text: str, telling: TellingWords) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for begin, end in term_spans(text):
        if telling.alike(word_key(text[begin:end])) is None:
            continue
        if spans and spans[-1][1] > begin:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((begin, end))
    return spans


class TellingWords:
    """The words of a question but the ``little`` ones; a text's word finds the one that is the same but for its ending.

    A word meets the stems that are its own beginnings, never every word of the question: a question may be as long as
    a book's chapter.

    >>> telling = TellingWords("Which wing was delayed by a common cause?")
    >>> [telling.alike(word) for word in ("wings", "delays", "comment", "was")]
    ['wing', 'delayed', None, None]
    """

    def __init__(self, question: str, little: frozenset[str] = ENGLISH) -> None:
        spelled: dict[str, str] = {}
        for begin, end in term_spans(question):
            spelled.setdefault(word_key(question[begin:end]), question[begin:end])
        self._words = [word for word in spelled if word not in little] or list(spelled)
        self._spelled = spelled
        self._of_stem: dict[str, int] = {}
        self._of_prefix: dict[str, int] = {}
        for place, word in enumerate(self._words):
            for stem in _stems(word, _SHORTEST_STEM):
                self._of_stem.setdefault(stem, place)
            if 0 < len(word) - _SHORTEST_PREFIX <= _LONGEST_ENDING:
                self._of_prefix.setdefault(word[:_SHORTEST_PREFIX], place)

    def alike(self, word: str) -> str | None:
        """Return the question's first word that is like a word; None = there is none."""
        places = [self._of_stem.get(stem) for stem in _stems(word, _SHORTEST_PREFIX)] + [self._of_prefix.get(word)]
        return self._words[min(found)] if (found := [place for place in places if place is not None]) else None

    def found_in(self, text: str) -> list[str]:
        """Return the words of the question that a text has, as the question spells them.

        >>> TellingWords("Which wings delay the stall?").found_in("The Stall of a wing.")
        ['wings', 'stall']
        """
        words = {self.alike(word_key(text[begin:end])) for begin, end in term_spans(text)}
        return [self._spelled[word] for word in self._words if word in words]


@lru_cache(maxsize=64)
def telling_words(question: str, text: str) -> TellingWords:
    """Return the telling words of a question for a text, in whose language the little ones are known."""
    language = language_of(text, question)
    found = _telling_words(question, language)
    # A short text may have the little words of another language by accident, and no other word of the question.
    return found if language == "en" or found.found_in(text) else _telling_words(question, "en")


@lru_cache(maxsize=8)
def _telling_words(question: str, language: str) -> TellingWords:
    """An answer compares every line of its passages with one question."""
    return TellingWords(question, little_words(language))


def _stems(word: str, shortest: int) -> list[str]:
    """Return a word and its beginnings that lack only an ending, of at least ``shortest`` letters."""
    return [word[:letters] for letters in range(max(shortest, len(word) - _LONGEST_ENDING), len(word))] + [word]


def excerpt(hit: Hit, question: str) -> str:
    """Return the :func:`snippet` of a hit; an ellipsis also stands before the beginning of a passage inside a line."""
    part = snippet(hit.passage.text, question)
    return f"…{part}" if hit.continues and not part.startswith("…") else part


def snippet(text: str, query: str, width: int = 240) -> str:
    """Return the part of a text, at most ``width`` characters, with the most distinct words of the query.

    >>> snippet("Camels carry loads. The llama is a domesticated camelid of the Andes. It hums.", "llama Andes", 50)
    '…llama is a domesticated camelid of the Andes.…'
    >>> snippet("A  short\\ntext.", "llama")
    'A short text.'
    """
    whole, text = text, unicodedata.normalize("NFC", " ".join(text.split()))
    if len(text) <= width:
        return text
    telling = telling_words(query, whole)
    alike = ((first, last, telling.alike(word_key(text[first:last]))) for first, last in term_spans(text))
    matches = [match for match in alike if match[2] is not None]
    room = max(width - 2, 1)  # an ellipsis at both ends
    begin, best = 0, (0, 0)
    ends = [last for _, last, _ in matches]
    for place, (first, _, _) in enumerate(matches):
        inside = matches[place : max(place, bisect_right(ends, first + room))]
        richness = (len({word for _, _, word in inside}), len(inside))
        if richness > best:
            best = richness
            spare = room - (inside[-1][1] - first)
            begin = max(0, min(first - spare // 2, len(text) - room))
    return _cut_at_words(text, begin, begin + room)


def _cut_at_words(text: str, begin: int, end: int) -> str:
    """Cut a text to [begin, end), without words that would be cut in two, and mark each cut."""
    # A mark stays with the letter that it stands on.
    while begin < end and _is_mark(text[begin]):
        begin += 1
    while begin < end < len(text) and _is_mark(text[end]):
        end -= 1
    part = text[begin:end]
    if end < len(text) and _is_cut(text, end):
        part = part.rpartition(" ")[0] or part
    if begin > 0 and _is_cut(text, begin):
        part = part.partition(" ")[2] or part
    return ("…" if begin > 0 else "") + part.strip() + ("…" if end < len(text) else "")


def _is_mark(letter: str) -> bool:
    return unicodedata.category(letter).startswith("M")


def _is_cut(text: str, place: int) -> bool:
    """Return whether a position lies inside a word; scripts without spaces may be cut anywhere."""
    return not any(letter.isspace() or is_paired(letter) for letter in text[place - 1 : place + 1])
