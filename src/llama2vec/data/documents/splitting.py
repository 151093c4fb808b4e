"""Split documents into passages along their structure: page, heading, paragraph, sentence.

A passage never crosses a page. It ends where a heading begins, unless that would make a passage of a few words. Longer
sections are cut after the last paragraph that fits, else after the last sentence, line or word. Tables and code blocks
stay whole where they fit. Nothing but white space stands between the spans of a document's passages.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from llama2vec.data.documents.document import Block, Document
from llama2vec.data.documents.places import Places, stripped
from llama2vec.data.settings import PassageSettings
from llama2vec.data.text.cutting import NON_SPACE, Cutter, TokenSpans, View, shortened
from llama2vec.data.text.words import is_paired, sentence_spans, word_spans
from llama2vec.errors import ConfigError
from llama2vec.records import Passage, Place

DEFAULT_TOKENS = 256
"""Longest passage where the settings name none; chosen by measurement (docs/documents.md)."""
_OVERLAP_SHARE = 8
_SMALL_SHARE = 4
"""A part of a page that is shorter than a passage divided by this joins its neighbor."""
_TITLE_SHARE = 4
"""The title path takes at most a passage divided by this."""
_MOST_CHARACTERS_A_TOKEN = 64
"""A block with more is not tokenized to see whether it fits."""
_MOST_NESTED_HEADINGS = 8
_WHOLE = ("table", "code")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")
_LINE_END = re.compile(r"\n\s*")
_SPACE = re.compile(r"\s")


class Splitter:
    """Cuts documents into passages that a model reads whole.

    Args:
        settings: Lengths and overlap.
        token_spans: Finds the tokens of a text: a model's; :meth:`of_words` counts words instead.
        reads: Most tokens of a passage that the model reads; None = any number.
        tokenizer: Name or hash of what finds the tokens, for :attr:`plan`.

    Raises:
        ConfigError: ``settings`` ask for longer passages than the model reads, or repeat more than half of each.
    """

    def __init__(
        self, settings: PassageSettings, token_spans: TokenSpans, reads: int | None = None, *, tokenizer: str = "words"
    ) -> None:
        if reads is not None and settings.tokens is not None and settings.tokens > reads:
            problem = f"passages of {settings.tokens} tokens are longer than the {reads} that the model reads"
            raise ConfigError(f"{problem}; choose at most {reads}")
        self.settings, self.token_spans, self.tokenizer = settings, token_spans, tokenizer
        self.tokens = settings.tokens or min(DEFAULT_TOKENS, reads or DEFAULT_TOKENS)
        self.overlap = self.tokens // _OVERLAP_SHARE if settings.overlap is None else settings.overlap
        if self.overlap > self.tokens // 2:
            problem = f"an overlap of {self.overlap} tokens is more than half of a passage of {self.tokens}"
            raise ConfigError(f"{problem}; choose at most {self.tokens // 2}")

    @classmethod
    def of_words(cls, settings: PassageSettings) -> Splitter:
        """Return a splitter that needs no model: it measures in :func:`llama2vec.data.text.words.word_spans`."""
        # The number rises with what counts as a word, so that documents are split again.
        return cls(settings, word_spans, tokenizer="words-4")

    @property
    def plan(self) -> dict[str, str | int]:
        """What decides where documents are split, as plain data: equal plans give equal passages."""
        split, language = self.settings.split, self.settings.language
        return {
            "split": split, "tokens": self.tokens, "overlap": self.overlap, "tokenizer": self.tokenizer,
            "language": language,
        }  # fmt: skip

    def split(self, document: Document) -> Iterator[Passage]:
        """Yield the passages of a document in order: ``DOCUMENT#1`` …; a single one has the document's own id."""
        if self.settings.split == "never":
            yield whole_passage(document)
            return
        parts = _Parts(document, self)
        found = list(parts)
        if len(found) < 2:
            yield found[0] if found else whole_passage(document)
            return
        for number, part in enumerate(found, start=1):
            yield Passage(f"{part.id}#{number}", part.text, part.title, part.place, part.fields)

    def split_row(self, row: Passage) -> Iterator[Passage]:
        """Yield a row of a corpus as it is where it fits, else its parts ``ROW#1`` …, placed in the row's document."""
        if len(self.token_spans(row.full_text)) <= self.tokens:
            yield row
            return
        document = Document(row.id, row.text, row.title, lines="none", fields=row.fields)
        number = 0
        for number, part in enumerate(_Parts(document, self), start=1):
            place = _within(part.place, row.place) if part.place else None
            yield Passage(f"{row.id}#{number}", part.text, part.title, place, row.fields)
        if not number:  # A long title, and no text
            yield row


def _within(part: Place, row: Place | None) -> Place:
    """Return the place of a row's part in the document of the row."""
    return Place(row.document, row.begin + part.begin, row.begin + part.end, page=row.page) if row else part


def passage_id(document_id: str) -> str:
    """Return a document's id as passages have it: white space is percent-encoded, because TREC files cannot hold it.

    >>> passage_id("user guide/a b.md")
    'user%20guide/a%20b.md'
    """
    return "".join(quote(letter) if letter.isspace() else letter for letter in document_id)


def whole_passage(document: Document) -> Passage:
    """Return a document as one passage, without a heading that opens it and is its title: it would be read twice."""
    begin, end = stripped(document.text, _after_title(document), len(document.text))
    place = Places(document).of(begin, end)
    return Passage(passage_id(document.id), document.text[begin:end], document.title, place, document.fields)


def _after_title(document: Document) -> int:
    first = document.blocks[0] if document.blocks else None
    if first is None or first.kind != "heading" or first.headings[-1:] != (document.title,):
        return 0
    return first.end


def title_path(title: str, headings: Sequence[str], most: int, token_spans: TokenSpans) -> str:
    """Return a document's title and the headings over a passage as one line of at most ``most`` tokens.

    A longer path loses headings from its middle, then its beginning, and at last the end of its last heading.

    >>> from llama2vec.data.text.words import word_spans
    >>> title_path("Guide", ("Guide", "Install", "From source", "Linux"), 10, word_spans)
    'Guide › Install › From source › Linux'
    >>> title_path("Guide", ("Guide", "Install", "From source", "Linux"), 5, word_spans)
    'Guide › … › Linux'
    """
    parts = [" ".join(part.split()) for part in (title, *headings)]
    parts = [part for number, part in enumerate(parts) if part and part not in parts[max(0, number - 1) : number]]
    if not parts:
        return ""
    first, *rest = parts
    paths = [[first, *rest], *([first, "…", *rest[number:]] for number in range(1, len(rest))), rest[-1:]]
    for path in (" › ".join(path) for path in paths if path):
        if len(token_spans(path)) <= most:
            return path
    return shortened(parts[-1], most, token_spans)


class _Parts:
    """Iterates over the passages of one document, each with the document's id."""

    def __init__(self, document: Document, splitter: Splitter) -> None:
        self._document, self._text, self._splitter = document, document.text, splitter
        self._small = splitter.tokens // _SMALL_SHARE
        self._cutter = Cutter(document.text, splitter.tokens, splitter.token_spans)
        self._places = Places(document)
        self._blocks = document.blocks or (Block(0, len(document.text)),)
        self._begins = [block.begin for block in self._blocks]
        pairs = zip(self._blocks, self._blocks[1:], strict=False)
        headings = [(block.begin, before.kind) for before, block in pairs if block.kind == "heading"]
        # A heading right after another one belongs to it.
        self._sections = [begin for begin, before in headings if before != "heading"]
        self._titles: dict[tuple[str, ...], str] = {}

    def __iter__(self) -> Iterator[Passage]:
        name, fields = passage_id(self._document.id), self._document.fields
        start = reached = self._next_word(0)
        while start < len(self._text):
            title = self._title(start)
            view = self._cutter.view(
                start, f"{title} " if title else "", until=self._page_end(start), beyond=self._small
            )
            end, continues = self._end(view, reached)
            if end <= reached:
                # What is repeated leaves no room for more.
                start = reached
                continue
            begin, end = stripped(self._text, start, end)
            yield Passage(name, self._text[begin:end], title, self._places.of(begin, end), fields)
            reached = self._next_word(end)
            start = self._next_word(self._repeated(view, end)) if continues else reached

    def _next_word(self, place: int) -> int:
        word = NON_SPACE.search(self._text, place)
        return word.start() if word else len(self._text)

    def _page_end(self, place: int) -> int:
        return _first_after(self._places.page_begins, place, len(self._text))

    def _number(self, place: int) -> int:
        return max(0, bisect_right(self._begins, place) - 1)

    def _title(self, place: int) -> str:
        """Return the title path at a place; headings there count as what they stand over."""
        number = self._number(place)
        nearby = self._blocks[number : number + _MOST_NESTED_HEADINGS]
        headings = next((block for block in nearby if block.kind != "heading"), nearby[0]).headings
        if headings not in self._titles:
            most = self._splitter.tokens // _TITLE_SHARE
            self._titles[headings] = title_path(self._document.title, headings, most, self._splitter.token_spans)
        return self._titles[headings]

    def _end(self, view: View, reached: int) -> tuple[int, bool]:
        """Return where the passage of a view ends, and whether the next one continues its section."""
        until, longest = self._page_end(view.start), self._cutter.longest(view)
        own = view.count(view.start)  # tokens of the title
        number = bisect_right(self._sections, max(view.start, reached))
        while number < len(self._sections) and (heading := self._sections[number]) <= min(longest, until - 1):
            number += 1
            if view.count(heading) - own >= self._small:
                is_last = _first_after(self._sections, heading, until) >= until
                if is_last and longest >= until and view.count(until) - view.count(heading) < self._small:
                    return until, False
                return heading, False
        if longest >= until:
            return until, False
        limit = longest
        section_end = min(_first_after(self._sections, longest, until), until)
        if section_end <= view.stop:
            # The rest of the section should not be a passage of a few words.
            limit = min(limit, view.place(view.count(section_end) - self._small))
            limit = longest if limit == longest else self._cutter.word_begin(view.start, limit)
        end = self._cut(view, limit, longest, max(reached, view.start))
        return self._cutter.fitting(view, end), True

    def _cut(self, view: View, limit: int, longest: int, least: int) -> int:
        """Return the best place to cut a section: after ``least``, and not after ``limit`` but for a whole block."""
        own, block = view.count(view.start), self._blocks[self._number(limit - 1)]
        _, block_end = stripped(self._text, block.begin, block.end)
        if block.kind in _WHOLE and limit < block_end:
            if block_end <= longest:
                return block.end
            # At `least`, nothing but repeated text stands before the block: the passage starts again there.
            is_apart = block.begin == least or view.count(block.begin) - own >= self._small
            if block.begin > view.start and block.begin >= least and is_apart and self._fits(block):
                return block.begin
        half = max(view.place(min(own + (self._cutter.tokens - own) // 2, len(view.spans) - 1)), least + 1)
        for places in self._candidates(view, half, limit, block):
            found = [place for place in places if half <= place <= limit]
            if found:
                return max(found)
        return limit

    def _candidates(self, view: View, half: int, limit: int, block: Block) -> Iterator[Sequence[int]]:
        """Yield the places between paragraphs, between sentences and between lines; the best come first."""
        numbers = range(max(1, self._number(half)), self._number(limit) + 1)
        after_heading = {self._blocks[number].begin for number in numbers if self._blocks[number - 1].kind == "heading"}
        paragraphs = [self._blocks[number].begin for number in numbers]
        paragraphs += [blank.end() for blank in _BLANK_LINE.finditer(self._text, half, limit + 1)]
        yield [place for place in paragraphs if place not in after_heading]
        if block.kind not in _WHOLE:
            yield self._sentence_begins(max(view.start, block.begin), view.stop)
        yield [end.end() for end in _LINE_END.finditer(self._text, half, limit + 1)]

    def _sentence_begins(self, begin: int, end: int) -> list[int]:
        spans = sentence_spans(self._text[begin:end], self._splitter.settings.language)
        return [begin + first for first, _ in spans[1:]]

    def _fits(self, block: Block) -> bool:
        text = self._text[block.begin : block.end].strip()
        if len(text) > _MOST_CHARACTERS_A_TOKEN * self._cutter.tokens:
            return False
        title = self._title(block.begin)
        return len(self._splitter.token_spans(f"{title} {text}" if title else text)) <= self._cutter.tokens

    def _repeated(self, view: View, end: int) -> int:
        """Return where the passage after ``end`` begins so that it repeats some text, but no part of a whole block."""
        last, own = view.count(end), view.count(view.start)
        first = max(last - self._splitter.overlap, own)
        low = max(view.place(first) if first < len(view.spans) else end, view.start + 1)
        number = self._number(end - 1)
        block = self._blocks[number]
        inside = block.kind in _WHOLE and self._next_word(end) < block.end
        while not inside and number >= 0 and self._blocks[number].end > low:
            if self._blocks[number].kind in _WHOLE:
                low = self._blocks[number].end
            number -= 1
        low = max(low, block.begin) if inside else low
        if low >= end:
            return end
        middle = min(view.place(max(last - self._splitter.overlap // 2, own)), end - 1)
        sentences = [] if inside else self._sentence_begins(max(view.start, block.begin), view.stop)
        lines = [line.end() for line in _LINE_END.finditer(self._text, low, end)]
        for places in (sentences, lines):
            found = [place for place in places if low <= place <= middle]
            if found:
                return min(found)
        space = _SPACE.search(self._text, low, end) if self._cutter.inside_word(low) else None
        if space:
            return space.end()
        while low < end and self._parts_letters(low):
            low += 1
        return low

    def _parts_letters(self, place: int) -> bool:
        """Whether a place stands between two letters or digits of one word, in a script that is written with spaces."""
        before, after = self._text[place - 1], self._text[place]
        return before.isalnum() and after.isalnum() and not (is_paired(before) or is_paired(after))


def _first_after(places: Sequence[int], place: int, otherwise: int) -> int:
    """Return the first of some places, in rising order, that comes after another one."""
    number = bisect_right(places, place)
    return places[number] if number < len(places) else otherwise
