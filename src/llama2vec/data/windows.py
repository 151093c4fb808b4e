"""Split long documents into overlapping windows that an encoder reads whole; score documents by their windows.

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
"""Text → (start, end) in characters of each token, in order, without special tokens."""

WindowKind = Literal["maxp", "firstp"]

_WORD = re.compile(r"\S+")
_SPACE = re.compile(r"\s")
_CHARACTERS_A_TOKEN = 6
"""First guess of how much text fills a window; natural languages need less."""
_LONGEST_WORD = 256
"""A longer run of characters without a space is split between tokens, like no other word."""


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return the spans of the words in a text, which are the tokens of a system without a tokenizer.

    >>> word_spans("a  llama")
    [(0, 1), (3, 8)]
    """
    return [match.span() for match in _WORD.finditer(text)]


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """How documents are split."""

    kind: WindowKind  # ``maxp`` = windows over the whole document, ``firstp`` = only the first
    tokens: int  # Longest window in tokens, including its title
    stride: int  # Tokens from the start of one window to the start of the next; below ``tokens``, windows overlap

    def __post_init__(self) -> None:
        if self.kind not in get_args(WindowKind):
            raise ConfigError(f"unknown window kind {self.kind!r}; choose maxp or firstp")
        if self.tokens < 2:
            raise ConfigError(f"a window of {self.tokens} tokens has no room for text; give at least 2")
        if not 1 <= self.stride <= self.tokens:
            problem = f"the stride of {self.stride} tokens does not fit windows of {self.tokens}"
            raise ConfigError(f"{problem}; choose 1 to {self.tokens}, so that no text is skipped")


def cut_documents(documents: Iterable[Passage], settings: WindowSettings, token_spans: TokenSpans) -> Iterator[Passage]:
    """Stream the windows of a corpus, with one document in memory at a time."""
    for document in documents:
        yield from cut_document(document, settings, token_spans)


def cut_document(document: Passage, settings: WindowSettings, token_spans: TokenSpans) -> Iterator[Passage]:
    """Stream one document's windows as passages ``<document>#<number>``, numbered from 0.

    Every window starts with the title, truncated to half a window. Including it, a window has at most
    ``settings.tokens`` tokens, so an encoder with that limit reads all of it. Windows start and end with whole words;
    only text without spaces is split between tokens. Windows cover the whole text, even if a long title leaves less
    room than the stride. A document without text gives one window.

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
    """Return the id of a window's document, which may itself contain ``#``.

    >>> document_id("https://x.org/#top#12")
    'https://x.org/#top'
    """
    document, mark, number = window_id.rpartition("#")
    if not mark or not document or not number.isdecimal():
        raise RunFormatError(f"{window_id!r} is not the id of a window; write <document>#<number>")
    return document


def max_passage(run: Run) -> Run:
    """Return a run over documents, each with the score of its best window.

    >>> max_passage(Run({"q": {"a#0": 1.0, "a#3": 2.0, "b#1": 1.5}})).results
    {'q': {'a': 2.0, 'b': 1.5}}
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
    """Return the start of every window: the title, truncated to ``most`` tokens."""
    title = title.strip()
    while title and len(spans := token_spans(title)) > most:
        # Drop at least one character: a part of a text may have more tokens than it had within the whole.
        title = title[: min(spans[most][0], len(title) - 1)].rstrip()
    return f"{title} " if title else ""


@dataclass
class _Cutter:
    """Finds the windows of one document, tokenizing only as much text at a time as a window needs."""

    text: str
    head: str
    settings: WindowSettings
    token_spans: TokenSpans

    def __post_init__(self) -> None:
        self._guess = _CHARACTERS_A_TOKEN * self.settings.tokens

    def cut(self, start: int) -> tuple[int, int]:
        """Return the end of the window that starts at ``start``, and the start of the next one."""
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
        """Return the tokens from ``start``, enough for a window or up to the end, and where they end."""
        size = self._guess
        while True:
            stop = min(start + size, len(self.text))
            if stop < len(self.text):
                # Half a word is tokenized differently from a whole one.
                space = _SPACE.search(self.text, stop, stop + _LONGEST_WORD)
                stop = space.start() if space else stop
            spans = self.token_spans(self.head + self.text[start:stop])
            if len(spans) > self.settings.tokens or stop == len(self.text):
                return spans, stop
            size *= 2

    def _place(self, spans: Sequence[tuple[int, int]], token: int, start: int) -> int:
        """Return the place in the text of a token of ``head + text[start:]``."""
        return max(start, start + spans[token][0] - len(self.head))

    def _inside_word(self, place: int) -> bool:
        return 0 < place < len(self.text) and not (self.text[place - 1].isspace() or self.text[place].isspace())

    def _word_begin(self, start: int, place: int) -> int:
        """Return the start of the word around ``place``; ``place`` itself if the word starts before ``start``."""
        begin = place
        while begin > start and self._inside_word(begin):
            begin -= 1
        return begin if begin > start else place

    def _whole_words(self, start: int, place: int) -> int:
        """Return the end of the last whole word before ``place``; without one, a place within the limit."""
        end = self._word_begin(start, place)
        while self._inside_word(end) and end > start + 1:
            spans = self.token_spans(self.head + self.text[start:end])
            if len(spans) <= self.settings.tokens:
                break
            end = min(self._place(spans, self.settings.tokens, start), end - 1)
        return max(end, start + 1)
