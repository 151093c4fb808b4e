"""Split long documents into overlapping windows that an encoder reads whole; score documents by their windows.

FirstP scores a document by its first window, MaxP by its best one (Dai & Callan, arXiv 1905.09217).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from llama2vec.data.text.cutting import NON_SPACE, Cutter, TokenSpans, shortened
from llama2vec.errors import ConfigError, EvaluationError, RunFormatError
from llama2vec.records import Passage, Run

WindowKind = Literal["maxp", "firstp"]
PartT = TypeVar("PartT")
DocumentT = TypeVar("DocumentT", bound=Hashable)


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
        yield from document_windows(document, settings, token_spans)


def document_windows(document: Passage, settings: WindowSettings, token_spans: TokenSpans) -> Iterator[Passage]:
    """Stream one document's windows as passages ``<document>#<number>``, numbered from 0.

    Every window starts with the title, truncated to half a window. Including it, a window has at most
    ``settings.tokens`` tokens, so an encoder with that limit reads all of it. Windows start and end with whole words;
    only text without spaces is split between tokens. Windows cover the whole text, even if a long title leaves less
    room than the stride. A document without text gives one window.

    >>> from llama2vec.data.text.words import word_spans
    >>> settings = WindowSettings("maxp", tokens=3, stride=2)
    >>> [window.text for window in document_windows(Passage("d", "one two three four"), settings, word_spans)]
    ['one two three', 'three four']
    """
    title = shortened(document.title, settings.tokens // 2, token_spans)
    cutter = Cutter(document.text, settings.tokens, token_spans)
    first = NON_SPACE.search(document.text)
    start = first.start() if first else 0
    for number in range(len(document.text) + 1):
        end, following = _window(cutter, start, f"{title} " if title else "", settings.stride)
        yield Passage(f"{document.id}#{number}", document.text[start:end].rstrip(), title)
        rest = NON_SPACE.search(document.text, following) if end < len(document.text) else None
        if settings.kind == "firstp" or rest is None or not NON_SPACE.search(document.text, end):
            return
        start = rest.start()


def _window(cutter: Cutter, start: int, head: str, stride: int) -> tuple[int, int]:
    """Return the end of the window that starts at ``start``, and the start of the next one."""
    view = cutter.view(start, head)
    end = cutter.longest(view)
    if end == view.stop:
        return end, end
    offset = bisect_left(view.spans, len(head.rstrip()), key=lambda span: span[0])
    following = cutter.word_begin(start, view.place(min(offset + stride, cutter.tokens)))
    return end, following if start < following < end else end


def document_id(window_id: str) -> str:
    """Return the id of a window's document, which may itself contain ``#``.

    >>> document_id("https://x.org/#top#12")
    'https://x.org/#top'
    """
    document, mark, number = window_id.rpartition("#")
    if not mark or not document or not number.isdecimal():
        raise RunFormatError(f"{window_id!r} is not the id of a window; write <document>#<number>")
    return document


def by_document(
    found: Iterable[PartT], document_of: Callable[[PartT], DocumentT], score_of: Callable[[PartT], float]
) -> dict[DocumentT, list[PartT]]:
    """Return the found parts of each document, best first: a document counts as its best part does (MaxP).

    Documents stand in the order in which their first parts were found, and parts of equal score in their own.

    >>> by_document([("a", 1.0), ("b", 1.5), ("a", 2.0)], lambda part: part[0], lambda part: part[1])
    {'a': [('a', 2.0), ('a', 1.0)], 'b': [('b', 1.5)]}
    """
    documents: dict[DocumentT, list[PartT]] = {}
    for part in found:
        documents.setdefault(document_of(part), []).append(part)
    return {document: sorted(parts, key=score_of, reverse=True) for document, parts in documents.items()}


def max_passage(run: Run, document_of: Callable[[str], str] = document_id) -> Run:
    """Return a run over documents, each with the score of its best window or passage.

    Args:
        run: A run over windows.
        document_of: Returns the document of a window's id; for passages, that of their place.

    >>> max_passage(Run({"q": {"a#0": 1.0, "a#3": 2.0, "b#1": 1.5}})).results
    {'q': {'a': 2.0, 'b': 1.5}}
    """
    results: dict[str, dict[str, float]] = {}
    for query_id, scores in run.results.items():
        for window_id, score in scores.items():
            if math.isnan(score):
                raise EvaluationError(
                    f"run {run.tag!r}: {window_id!r} of query {query_id!r} has the score nan; correct the run"
                )
        documents = by_document(scores, document_of, scores.__getitem__)
        results[query_id] = {document: scores[best] for document, (best, *_) in documents.items()}
    return Run(results, run.tag)
