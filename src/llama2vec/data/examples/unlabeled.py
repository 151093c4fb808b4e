"""Training examples from unlabeled text: pairs of consecutive texts, and pairs of query and positive."""

from __future__ import annotations

import hashlib
import logging
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.corpus.rows import PRETEXT_FIELDS
from llama2vec.data.corpus.sources import is_remote
from llama2vec.data.corpus.spread import is_spread, spread
from llama2vec.data.documents.folder import ReadingReport
from llama2vec.data.settings import CorpusPairSettings, ReadingSettings, TextSettings
from llama2vec.data.text.words import count_words, first_words, is_paired, sentence_spans, text_key, word_spans
from llama2vec.errors import EmptyCorpusError
from llama2vec.records import AdaptationExample, Passage, TrainingExample
from llama2vec.terminal import counted

logger = logging.getLogger(__name__)

_NUMBERED_ID = re.compile(r"^(?P<document>.+)[-_#:/](?P<number>\d+)(?P<suffix>\.[A-Za-z]\w*)?$")
_FIRST_NUMBERS = (0, 1)


class DocumentTexts(NamedTuple):
    """Consecutive texts of one document."""

    id: str
    texts: tuple[str, ...]


def group_documents(passages: Iterable[Passage]) -> Iterator[DocumentTexts]:
    """Group consecutive passages of a document: ids ``<document>-<number>`` with rising numbers and no gap.

    Every other passage is a document by itself. A document that does not begin with the number 0 or 1 is called by the
    id of its first passage, because the rest of the id may name the whole corpus. Text that a passage repeats of the
    one before it, because the document was split with an overlap, is left out.

    >>> rows = [Passage("a-0", "x"), Passage("a-1", "y"), Passage("PMC-37", "z"), Passage("c", "w")]
    >>> [(document.id, document.texts) for document in group_documents(rows)]
    [('a', ('x', 'y')), ('PMC-37', ('z',)), ('c', ('w',))]
    """
    current_id, previous, texts = "", Passage("", ""), list[str]()
    for passage in passages:
        if texts and follows(previous.id, passage.id):
            texts.append(passage.text[_repeated(previous, passage) :])
        else:
            if texts:
                yield DocumentTexts(current_id, tuple(texts))
            match = _NUMBERED_ID.match(passage.id)
            begins = match and int(match["number"]) in _FIRST_NUMBERS
            current_id, texts = match["document"] if match and begins else passage.id, [passage.text]
        previous = passage
    if texts:
        yield DocumentTexts(current_id, tuple(texts))


def _repeated(first: Passage, second: Passage) -> int:
    """Return how many characters at the beginning of a passage are the end of the one before it."""
    if first.place is None or second.place is None or first.place.document != second.place.document:
        return 0
    return max(0, min(first.place.end, second.place.end) - second.place.begin)


def follows(first_id: str, second_id: str) -> bool:
    """Tell from their ids whether one passage directly follows another in the same document.

    >>> follows("a-09", "a-10"), follows("a-09.txt", "a-10.txt"), follows("a-09", "b-10"), follows("a-09", "a-11")
    (True, True, False, False)
    """
    first, second = _NUMBERED_ID.match(first_id), _NUMBERED_ID.match(second_id)
    if not first or not second:
        return False
    same = (first["document"], first["suffix"]) == (second["document"], second["suffix"])
    return same and int(second["number"]) == int(first["number"]) + 1


def limited_passages(
    source: str, limit: int, settings: ReadingSettings | None = None, report: ReadingReport | None = None
) -> Iterator[Passage]:
    """Stream at most ``limit`` passages of a corpus, spread evenly over it; 0 = all. A log line says which.

    Passages that follow each other in a document are taken up to 16 in a row, so that most keep the text after them.
    A local source is read twice, because it has to be counted first. ``hf:`` and ``ir:`` sources give their first ones.

    Args:
        source: As in :func:`llama2vec.data.corpus.passages.read_passages`, like the other two.
        limit: How many.
        settings: How documents and rows are read.
        report: Takes what of the documents was read.
    """
    if limit and is_remote(source):
        first = counted(limit, "passage")
        logger.info("%s: at most its first %s, because it is not counted before it is read", source, first)
        yield from read_passages(source, limit=limit, settings=settings, report=report)
        return
    total = sum(1 for _ in read_passages(source, settings=settings, report=ReadingReport())) if limit else 0
    if 0 < limit < total:
        logger.info("%s: %s of %s, spread evenly", source, f"{limit:,}", counted(total, "passage"))
    yield from spread(read_passages(source, settings=settings, report=report), limit, total, _go_on)


def _go_on(first: Passage, second: Passage) -> bool:
    """Tell whether a passage follows another in its document; rows of the authors' data are pairs by themselves."""
    return follows(first.id, second.id) and not second.fields.keys() >= set(PRETEXT_FIELDS)


def sentences(text: str, language: str = "en") -> list[str]:
    """Split a text into sentences; a break between paragraphs ends a sentence."""
    return [part.rstrip() for part in sentence_parts(text, language)]


def sentence_parts(text: str, language: str = "en") -> list[str]:
    """Split a text into sentences, each with a space after it where the text has white space there, or ends.

    So they are joined as their script joins sentences:

    >>> "".join(sentence_parts("羊驼哼鸣。它们吃草。 It hums.\\nIt eats."))
    '羊驼哼鸣。它们吃草。 It hums. It eats. '
    """
    parts, ended = list[str](), 0
    for begin, end in sentence_spans(text, language):
        if sentence := text[begin:end].strip():
            start = text.index(sentence, begin)
            if parts and start > ended:
                parts[-1] += " "
            parts.append(" ".join(sentence.split()))
            ended = start + len(sentence)
    return [*parts[:-1], f"{parts[-1]} "] if parts else []


def joined(parts: Iterable[str]) -> str:
    """Join what :func:`sentence_parts` returned, or some of it."""
    return "".join(parts).rstrip()


def cut_into_pieces(document: DocumentTexts, settings: TextSettings, seed: int = 0) -> list[str]:
    """Split a document into consecutive pieces of whole sentences.

    The target length of each piece is drawn uniformly between ``min_words`` and ``max_words``, seeded by the document's
    id; without ``draw_lengths`` it is ``max_words``. A longer sentence stays whole; only a single piece may be shorter
    than ``min_words``.
    """
    lengths = random.Random(f"{seed}:{document.id}")
    shortest = settings.min_words if settings.draw_lengths else settings.max_words
    pieces: list[str] = []
    current: list[str] = []
    words, target = 0, lengths.randint(shortest, settings.max_words)
    for text in document.texts:
        for sentence in sentence_parts(text, settings.language):
            size = count_words(sentence)
            if words >= settings.min_words and words + size > target:
                pieces.append("".join(current))
                current, words = [], 0
                target = lengths.randint(shortest, settings.max_words)
            current.append(sentence)
            words += size
    if current and (words >= settings.min_words or not pieces):
        pieces.append("".join(current))
    elif current:
        pieces[-1] += "".join(current)
    return [piece.rstrip() for piece in pieces]


def adaptation_examples(
    passages: Iterable[Passage],
    settings: TextSettings,
    seed: int = 0,
    need_next: bool = True,
) -> tuple[list[AdaptationExample], list[AdaptationExample]]:
    """Return training and held-out pairs from ordered text; a document belongs to one of the two as a whole.

    With ``need_next``, the last piece of a document is dropped, because no text follows it (EBAR needs U). A document
    of a single piece is kept, with an empty U, so that a corpus of short texts is usable. Rows of the authors' data are
    pairs as they are: T and U are neither cut nor joined.

    Raises:
        EmptyCorpusError: No text at all.
    """
    training: list[AdaptationExample] = []
    held_out: list[AdaptationExample] = []
    for example, is_held_out in adaptation_pairs(passages, settings, seed, need_next):
        (held_out if is_held_out else training).append(example)
    if not training:
        raise no_text(settings)
    return training, held_out


def no_text(settings: TextSettings) -> EmptyCorpusError:
    """Return the error for a corpus without text."""
    return EmptyCorpusError(f"{settings.corpus or 'the corpus'}: no text to learn from; every passage is empty")


def adaptation_pairs(
    passages: Iterable[Passage],
    settings: TextSettings,
    seed: int = 0,
    need_next: bool = True,
    *,
    most_rows: int | None = None,
) -> Iterator[tuple[AdaptationExample, bool]]:
    """Stream the pairs of :func:`adaptation_examples` with whether they are held out, one document in memory.

    A small corpus is never held out whole: the first held-out pairs wait for one to train on. Rows of the authors' data
    come before the document that they interrupt; after ``most_rows`` of them it ends.
    """
    waiting: list[AdaptationExample] | None = []
    for example, is_held_out in _drawn_pairs(passages, settings, seed, need_next, most_rows):
        if waiting is not None and is_held_out:
            waiting.append(example)
            continue
        yield from ((one, True) for one in waiting or ())
        waiting = None
        yield example, is_held_out
    yield from ((one, False) for one in waiting or ())


def _drawn_pairs(
    passages: Iterable[Passage],
    settings: TextSettings,
    seed: int,
    need_next: bool,
    most_rows: int | None,
) -> Iterator[tuple[AdaptationExample, bool]]:
    rows: list[tuple[AdaptationExample, bool]] = []

    def without_pairs() -> Iterator[Passage]:
        for passage in passages:
            if not passage.fields.keys() >= set(PRETEXT_FIELDS):
                yield passage
            elif passage.text.strip():
                example = AdaptationExample(passage.text, str(passage.fields[PRETEXT_FIELDS[1]]))
                rows.append((example, _share(passage.id) < settings.held_out))
                if most_rows and len(rows) >= most_rows:
                    yield Passage("", "")  # An empty document, so that the rows are taken

    for document in group_documents(without_pairs()):
        yield from rows
        rows.clear()
        pieces = cut_into_pieces(document, settings, seed)
        if not pieces:
            continue
        following = [*pieces[1:], ""]
        examples = [AdaptationExample(piece, after) for piece, after in zip(pieces, following, strict=True)]
        if need_next and len(examples) > 1:
            examples.pop()
        is_held_out = _share(document.id) < settings.held_out
        yield from ((example, is_held_out) for example in examples)
    yield from rows


def _share(document_id: str) -> float:
    digest = hashlib.blake2b(document_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


_Drawn = tuple[str, Sequence[Passage]]
_NOTHING: _Drawn = ("", ())


def pairs_from_corpus(
    passages: Iterable[Passage], settings: CorpusPairSettings, seed: int = 0, total: int | None = None
) -> Iterator[TrainingExample]:
    """Stream pairs made from passages in reading order, of which those that follow each other are one document.

    Each draw depends only on the seed, the passage's id and the kind of pair. A positive includes the title of its
    passage, as the index will; a query does not. For the kind ``title`` it is the reverse, and consecutive passages of
    a document under one title are the positives of one example.

    A limit chooses the passages that give pairs, spread evenly over the corpus; each still has the neighbors and the
    title that it has there. ``total`` is the number of passages; where it is None and there is a limit, all are read
    into memory to count them.

    Every pair has the id of the passage that gave its query among its ``positive_ids``: pairs of one passage are never
    each other's negatives, and mining never returns a query's own passage as a negative.

    Raises:
        EmptyCorpusError: No pair could be made.
        MissingDependencyError: The package that splits sentences is not installed.
    """
    if settings.limit and total is None:
        passages = list(passages)
        total = len(passages)
    empty, number = True, -1
    for section, after in _sections(passages):
        for position, following in enumerate([*section[1:], after]):
            number += 1
            if not is_spread(number, settings.limit, total or 0):
                continue
            for pair in _pairs(_Place(section, position, following, settings), seed):
                empty = False
                yield pair
    if empty:
        raise EmptyCorpusError(
            f"the corpus gives no pairs: no passage has {settings.passage_min_words} words and what the chosen kinds "
            "need; lower passage_min_words or choose other kinds"
        )


def _sections(passages: Iterable[Passage]) -> Iterator[tuple[list[Passage], Passage | None]]:
    """Yield consecutive passages of a document under one title, and the passage that follows them in it."""
    section: list[Passage] = []
    for passage in passages:
        goes_on = bool(section) and follows(section[-1].id, passage.id)
        if section and not (goes_on and passage.title and passage.title == section[-1].title):
            yield section, passage if goes_on else None
            section = []
        section.append(passage)
    if section:
        yield section, None


def _pairs(place: _Place, seed: int) -> Iterator[TrainingExample]:
    for kind, share in place.settings.kinds:
        draw = random.Random(f"{seed}:{kind}:{place.passage.id}")
        if draw.random() >= share:
            continue
        query, found = getattr(place, kind)(draw)
        query = first_words(query, place.settings.query_max_words)
        shortest, asked = place.settings.passage_min_words, text_key(query)
        positives = [one for one in found if count_words(one.text) >= shortest and text_key(one.full_text) != asked]
        # A row of dashes or stars is not a query.
        if positives and any(letter.isalnum() for letter in query):
            yield TrainingExample(
                query=query,
                positives=tuple(passage.full_text for passage in positives),
                positive_ids=tuple(passage.id for passage in positives),
            )


class _Place:
    """A passage and its neighbors; each kind of pair is a method that returns a query and its positives."""

    def __init__(
        self, section: Sequence[Passage], position: int, following: Passage | None, settings: CorpusPairSettings
    ) -> None:
        self.section, self.position, self.following, self.settings = section, position, following, settings
        self.passage = section[position]

    @cached_property
    def parts(self) -> list[str]:
        return sentence_parts(self.passage.text, self.settings.language)

    def title(self, draw: random.Random) -> _Drawn:
        if self.position > 0:
            return _NOTHING
        return self.passage.title, [Passage(passage.id, passage.text) for passage in self.section]

    def first_sentence(self, draw: random.Random) -> _Drawn:
        words = 0
        for count, sentence in enumerate(self.parts, start=1):
            words += count_words(sentence)
            if words >= self.settings.query_min_words:
                return joined(self.parts[:count]), self._with_text(joined(self.parts[count:]))
        return _NOTHING

    def halves(self, draw: random.Random) -> _Drawn:
        ends = [0]
        for sentence in self.parts:
            ends.append(ends[-1] + count_words(sentence))
        cuts = range(1, len(self.parts))
        if not cuts:
            return _NOTHING
        cut = min(cuts, key=lambda end: abs(2 * ends[end] - ends[-1]))
        halves = [joined(self.parts[:cut]), joined(self.parts[cut:])]
        query, text = halves if draw.random() < 0.5 else reversed(halves)
        return (query, self._with_text(text)) if self._asks(query) else _NOTHING

    def neighbors(self, draw: random.Random) -> _Drawn:
        if self.following is None or not self._asks(self.passage.text):
            return _NOTHING
        # The id is that of the query's passage, which mining must not return as a negative. Mining recognizes the
        # following passage by its text.
        return self.passage.text, [Passage(self.passage.id, self.following.text, self.following.title)]

    def crop(self, draw: random.Random) -> _Drawn:
        text, words = self.passage.text, word_spans(self.passage.text)
        keep = draw.random() < self.settings.keep_query_in_passage
        spare = len(words) - (0 if keep else self.settings.passage_min_words)
        longest = min(self.settings.crop_max_words, spare)
        if longest < self.settings.query_min_words:
            return _NOTHING
        size = draw.randint(self.settings.query_min_words, longest)
        start = draw.randint(0, len(words) - size)
        begin, end = words[start][0], words[start + size - 1][1]
        gap = "" if is_paired(text[end : end + 1]) else " "
        rest = text if keep else " ".join(f"{text[:begin]}{gap}{text[end:]}".split())
        return " ".join(text[begin:end].split()), self._with_text(rest)

    def _asks(self, query: str) -> bool:
        return count_words(query) >= self.settings.query_min_words

    def _with_text(self, text: str) -> list[Passage]:
        return [Passage(self.passage.id, text, self.passage.title)]
