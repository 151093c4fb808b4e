"""Long documents → overlapping windows that an encoder reads whole, and windows' scores → documents' scores.

FirstP scores a document by its first window, MaxP by its best one (Dai & Callan, arXiv 1905.09217).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from llama2vec.errors import ConfigError, EvaluationError, RunFormatError
from llama2vec.records import Passage, Run

TokenSpans = Callable[[str], Sequence[tuple[int, int]]]
"""Text → (begin, end) in characters of each of its tokens, in order, without special tokens."""

WindowKind = Literal["maxp", "firstp"]

_WORD = re.compile(r"\S+")
_SPACE = re.compile(r"\s")
_CHARACTERS_A_TOKEN = 6
"""First guess of how much text fills a window: more than natural languages need."""
_LONGEST_WORD = 256
"""A longer run of characters without a space counts as cut text, not as a word."""


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return where the words of a text are: the tokens of a system that has no tokenizer.

    >>> word_spans("a  llama")
    [(0, 1), (3, 8)]
    """
    return [match.span() for match in _WORD.finditer(text)]


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """How documents are cut.

    Attributes:
        kind: ``maxp`` = windows until the document ends, ``firstp`` = the first one alone.
        tokens: Most tokens of a window, its title included.
        stride: Tokens from the beginning of one window to that of the next; less than ``tokens`` = they overlap.
    """

    kind: WindowKind
    tokens: int
    stride: int

    def __post_init__(self) -> None:
        if self.kind not in get_args(WindowKind):
            raise ConfigError(f"there is no window kind {self.kind!r}; choose maxp or firstp")
        if self.tokens < 2:
            raise ConfigError(f"a window of {self.tokens} tokens holds no text; give at least 2")
        if not 1 <= self.stride <= self.tokens:
            problem = f"the stride of {self.stride} tokens does not fit windows of {self.tokens}"
            raise ConfigError(f"{problem}; choose 1 to {self.tokens}, or text would be left out")


def cut_documents(documents: Iterable[Passage], settings: WindowSettings, token_spans: TokenSpans) -> Iterator[Passage]:
    """Stream the windows of a corpus; memory is that of one document's text and one window's tokens."""
    for document in documents:
        yield from cut_document(document, settings, token_spans)


def cut_document(document: Passage, settings: WindowSettings, token_spans: TokenSpans) -> Iterator[Passage]:
    """Stream one document's windows as passages ``<document>#<number>``, numbered from 0.

    The title stands in front of every window, cut to half of it where it is longer. With it a window has at most
    ``settings.tokens`` tokens, so an encoder with that limit reads the window to its end. A window ends behind the last
    whole word that fits, and the next one begins with a whole word; only text without spaces is cut between tokens.
    No text is left out between two windows, even where a long title leaves a window less room than the stride.
    A document without text is one window.

    >>> settings = WindowSettings("maxp", tokens=3, stride=2)
    >>> [window.text for window in cut_document(Passage("d", "one two three four"), settings, word_spans)]
    ['one two three', 'three four']
    """
    cutter = _Cutter(document.text, _head(document.title, settings.tokens // 2, token_spans), settings, token_spans)
    title = cutter.head.rstrip()
    first = _WORD.search(document.text)
    start = first.start() if first else 0
    for number in range(len(document.text) + 1):
        end, following = cutter.cut(start)
        yield Passage(f"{document.id}#{number}", document.text[start:end].rstrip(), title)
        rest = _WORD.search(document.text, following) if end < len(document.text) else None
        if settings.kind == "firstp" or rest is None or not _WORD.search(document.text, end):
            return
        start = rest.start()


def document_id(window_id: str) -> str:
    """Return which document a window belongs to; a document's own id may hold ``#``.

    >>> document_id("https://x.org/#top#12")
    'https://x.org/#top'

    Raises:
        RunFormatError: Not a window's id.
    """
    document, mark, number = window_id.rpartition("#")
    if not mark or not document or not number.isdecimal():
        raise RunFormatError(f"{window_id!r} is no window's id; write <document>#<number>")
    return document


def max_passage(run: Run) -> Run:
    """Return a run over documents: each scores as its best window.

    >>> max_passage(Run({"q": {"a#0": 1.0, "a#3": 2.0, "b#1": 1.5}})).results
    {'q': {'a': 2.0, 'b': 1.5}}

    Raises:
        RunFormatError: A passage is not a window.
        EvaluationError: A score that is not a number; it would win or lose by chance.
    """
    results: dict[str, dict[str, float]] = {}
    for query_id, scores in run.results.items():
        best = results.setdefault(query_id, {})
        for window_id, score in scores.items():
            if math.isnan(score):
                raise EvaluationError(f"run {run.tag!r}: {window_id!r} of query {query_id!r} has the score nan")
            document = document_id(window_id)
            best[document] = max(score, best.get(document, -math.inf))
    return Run(results, run.tag)


def _head(title: str, most: int, token_spans: TokenSpans) -> str:
    """Return what stands in front of every window: the title, or the part of it that has ``most`` tokens."""
    title = title.strip()
    while title and len(spans := token_spans(title)) > most:
        # Shorter by a character at least: the tokens of a part may be more than those it had in the whole.
        title = title[: min(spans[most][0], len(title) - 1)].rstrip()
    return f"{title} " if title else ""


@dataclass
class _Cutter:
    """Finds the ends of one document's windows; reads no more of it at a time than a window needs."""

    text: str
    head: str
    settings: WindowSettings
    token_spans: TokenSpans

    def __post_init__(self) -> None:
        self._guess = _CHARACTERS_A_TOKEN * self.settings.tokens

    def cut(self, start: int) -> tuple[int, int]:
        """Return where the window that begins at ``start`` ends, and where the next one begins."""
        spans, stop = self._spans(start)
        if len(spans) <= self.settings.tokens:
            return stop, stop
        end = self._whole_words(start, self._place(spans, self.settings.tokens, start))
        self._guess = (end - start) + (end - start) // 4 + _CHARACTERS_A_TOKEN
        offset = sum(1 for begin, _ in spans if begin < len(self.head.rstrip()))
        place = min(offset + self.settings.stride, self.settings.tokens)
        following = self._word_begin(start, self._place(spans, place, start))
        return end, following if start < following < end else end

    def _spans(self, start: int) -> tuple[Sequence[tuple[int, int]], int]:
        """Return the tokens from ``start`` on, more than fill a window or to the end, and how far they reach."""
        size = self._guess
        while True:
            stop = min(start + size, len(self.text))
            if stop < len(self.text):
                # Half a word has other tokens than the whole one.
                space = _SPACE.search(self.text, stop, stop + _LONGEST_WORD)
                stop = space.start() if space else stop
            spans = self.token_spans(self.head + self.text[start:stop])
            if len(spans) > self.settings.tokens or stop == len(self.text):
                return spans, stop
            size *= 2

    def _place(self, spans: Sequence[tuple[int, int]], token: int, start: int) -> int:
        """Return where a token of ``head + text[start:]`` begins in the text."""
        return max(start, start + spans[token][0] - len(self.head))

    def _inside_word(self, place: int) -> bool:
        return 0 < place < len(self.text) and not (self.text[place - 1].isspace() or self.text[place].isspace())

    def _word_begin(self, start: int, place: int) -> int:
        """Return where the word around ``place`` begins, or ``place`` where that is not behind ``start``."""
        begin = place
        while begin > start and self._inside_word(begin):
            begin -= 1
        return begin if begin > start else place

    def _whole_words(self, start: int, place: int) -> int:
        """Return the end of the last whole word before ``place``; without one, a place that keeps to the limit."""
        end = self._word_begin(start, place)
        while self._inside_word(end) and end > start + 1:
            spans = self.token_spans(self.head + self.text[start:end])
            if len(spans) <= self.settings.tokens:
                break
            end = min(self._place(spans, self.settings.tokens, start), end - 1)
        return max(end, start + 1)
