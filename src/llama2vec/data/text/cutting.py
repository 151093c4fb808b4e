"""How much of a text fits a limit in tokens: what windows and passages are cut by."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

TokenSpans = Callable[[str], Sequence[tuple[int, int]]]
"""Text → (start, end) in characters of each token, in order, without special tokens."""

NON_SPACE = re.compile(r"\S")
"""Finds where a word begins; its end may be far away."""
_SPACE = re.compile(r"\s")
_CHARACTERS_A_TOKEN = 6
"""First guess of how much text fills the limit; natural languages need less."""
_LONGEST_WORD = 256
"""A longer run of characters without a space is split between tokens, like no other word."""


def shortened(title: str, most: int, token_spans: TokenSpans) -> str:
    """Return the beginning of a title that has at most ``most`` tokens."""
    title = title.strip()
    while title and len(spans := token_spans(title)) > most:
        # Drop at least one character: a part of a text may have more tokens than it had within the whole.
        title = title[: min(spans[most][0], len(title) - 1)].rstrip()
    return title


@dataclass(frozen=True, slots=True)
class View:
    """The tokens of ``head + text[start:stop]``: at least one more than the limit, unless the text ends before."""

    start: int
    stop: int
    head: str  # Precedes the text: the title and a space, or nothing
    spans: Sequence[tuple[int, int]]

    def place(self, token: int) -> int:
        """Return where a token begins in the text."""
        return max(self.start, self.start + self.spans[token][0] - len(self.head))

    def count(self, place: int) -> int:
        """Return how many tokens begin before a place in the text, those of the head included."""
        return bisect_left(self.spans, place - self.start + len(self.head), key=lambda span: span[0])


class Cutter:
    """Finds how much of one text fits, tokenizing only as much of it at a time as the limit needs.

    Args:
        text: The text to cut.
        tokens: The limit, which what precedes the text counts towards.
        token_spans: Finds the tokens.
    """

    def __init__(self, text: str, tokens: int, token_spans: TokenSpans) -> None:
        self.text, self.tokens, self.token_spans = text, tokens, token_spans
        self._guess = _CHARACTERS_A_TOKEN * tokens

    def view(self, start: int, head: str = "", *, until: int | None = None, beyond: int = 0) -> View:
        """Return the tokens from ``start``: more than the limit and ``beyond`` it, or all those before ``until``."""
        until = len(self.text) if until is None else until
        size = self._guess + self._guess * beyond // self.tokens
        while True:
            stop = min(start + size, until)
            if stop < until:
                # Half a word is tokenized differently from a whole one.
                space = _SPACE.search(self.text, stop, min(stop + _LONGEST_WORD, until))
                stop = space.start() if space else stop
            spans = self.token_spans(head + self.text[start:stop])
            if len(spans) > self.tokens + beyond or stop == until:
                return View(start, stop, head, spans)
            size *= 2

    def longest(self, view: View) -> int:
        """Return where the longest part of whole words ends that fits the limit; without one, a place within it."""
        if len(view.spans) <= self.tokens:
            return view.stop
        end = self.fitting(view, self.word_begin(view.start, view.place(self.tokens)))
        self._guess = (end - view.start) + (end - view.start) // 4 + _CHARACTERS_A_TOKEN
        return end

    def fitting(self, view: View, end: int) -> int:
        """Return ``end``, or a place before it if that cuts a word in two whose part has too many tokens."""
        while self.inside_word(end) and end > view.start + 1:
            spans = self.token_spans(view.head + self.text[view.start : end])
            if len(spans) <= self.tokens:
                break
            end = min(View(view.start, end, view.head, spans).place(self.tokens), end - 1)
        return max(end, view.start + 1)

    def inside_word(self, place: int) -> bool:
        """Tell whether a place has characters other than white space on both sides."""
        return 0 < place < len(self.text) and not (self.text[place - 1].isspace() or self.text[place].isspace())

    def word_begin(self, start: int, place: int) -> int:
        """Return the start of the word around ``place``; ``place`` itself if the word starts before ``start``."""
        begin = place
        while begin > start and self.inside_word(begin):
            begin -= 1
        return begin if begin > start else place
