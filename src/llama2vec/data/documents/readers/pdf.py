"""PDF: the text of each page, without running headers; bookmarks as headings; pages without text are named."""

from __future__ import annotations

import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers.building import TextBuilder
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import UnreadableError
from llama2vec.records import Value

_PDFIUM = threading.Lock()
"""PDFium may be called by one thread at a time."""
# PDFium writes U+FFFE for a hyphen at a line's end, and no line break after it.
_HYPHEN = re.compile("(\\w+)(?:[\ufffe\x02\u00ad]\n?|(?<=[^\\W\\d_])[-\u2010]\n)([^\\W\\d_]\\S*)[ \t]*")
_AT_LINE_END = re.compile("[\ufffe\x02\u00ad]|[-\u2010]\n")
_UNKNOWN = re.compile("[\ufffd\ue000-\uf8ff]")
_WORD = re.compile(r"\w+(?:-\w+)*")
_LIGATURES = {
    ord(letter): unicodedata.normalize("NFKC", letter) for letter in "\ufb00\ufb01\ufb02\ufb03\ufb04\ufb05\ufb06"
}
_DROPPED = dict.fromkeys(map(ord, "\ufffe\x02\u00ad\x00\u200b"))
_OUTER_NUMBERS = re.compile(r"^\W*(\d{1,5})(?=\s|$)|(?<=\s)(\d{1,5})\W*$")
_OUTLINE_NUMBER = re.compile(r"^\d+(?:\.\d+)*\.?\s+")
_DATE = re.compile(r"D:(\d{4})(\d\d)(\d\d)")
_JUNK_TITLE = re.compile(
    r"untitled|microsoft word|\S+\.(?:docx?|tex|dvi|indd|pdf|fm|pptx?|xlsx?)$|\(anonymous\)|title$", re.I
)
_RUNNING_LINES = 2
"""A running header or footer is among this many first or last lines of a page."""
_RUNNING_SHARE, _RUNNING_PAGES = 0.4, 4
"""It stands on this share of the pages of its side, in documents of at least this many pages."""
_MOST_UNKNOWN = 0.3


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document]:
    """Yield the document; its title is that of the file's metadata, else its first bookmark."""
    with _PDFIUM:
        pages, drawn, marks, facts = _contents(data)
    if not any(page.strip() for page in pages):
        raise UnreadableError("no page has text (scanned?)")
    problems = list(_problems(pages, drawn))
    pages = _without_running_lines([_cleaned(page) for page in pages])
    words = Counter(word.lower() for page in pages for word in _WORD.findall(page))
    builder = TextBuilder()
    for number, text in enumerate(pages, start=1):
        _add_page(builder, _joined(text, words), number, [mark for mark in marks if mark[1] == number])
    title = facts.get("Title", "").strip()
    fields: dict[str, Value] = {"author": facts["Author"].strip()} if facts.get("Author", "").strip() else {}
    if date := _DATE.match(facts.get("CreationDate", "")):
        fields["date"] = "-".join(date.groups())
    title = "" if _JUNK_TITLE.match(title) else title
    yield builder.document(
        name, title=title or _OUTLINE_NUMBER.sub("", builder.title), lines="page", fields=fields, problems=problems
    )


def _contents(data: bytes) -> tuple[list[str], list[bool], list[tuple[int, int, str]], dict[str, str]]:
    """Return each page's text and whether anything is drawn on it, bookmarks (level, page, title) and metadata."""
    import pypdfium2

    try:
        pdf: Any = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        raise UnreadableError("encrypted" if "password" in str(error).lower() else "damaged") from None
    try:
        if pdf.get_formtype() == pypdfium2.raw.FORMTYPE_ACRO_FORM:
            pdf.init_forms()  # For fields that are filled but not drawn yet; the forms of XFA cannot be read
        pages, drawn = [], []
        for number in range(len(pdf)):
            text, has_objects = _page(pdf, number)
            pages.append(text)
            drawn.append(has_objects)
        return pages, drawn, list(_bookmarks(pdf)), pdf.get_metadata_dict()
    finally:
        pdf.close()


def _page(pdf: Any, number: int) -> tuple[str, bool]:
    import pypdfium2

    try:
        page = pdf[number]
        if _has_entries(page) and pypdfium2.raw.FPDFPage_Flatten(page, pypdfium2.raw.FLAT_NORMALDISPLAY):
            page.close()
            page = pdf[number]  # Now with what was filled in as a part of its text
        sheet = page.get_textpage()
        text = sheet.get_text_range().replace("\r\n", "\n").replace("\r", "\n")
        drawn = bool(text.strip()) or next(iter(page.get_objects(max_depth=1)), None) is not None
        sheet.close()
        page.close()
    except pypdfium2.PdfiumError:
        return "", True
    return text, drawn


def _has_entries(page: Any) -> bool:
    """Tell whether a page has fields of a form, or words that were typed onto it."""
    from pypdfium2 import raw

    for number in range(raw.FPDFPage_GetAnnotCount(page)):
        annotation = raw.FPDFPage_GetAnnot(page, number)
        kind = raw.FPDFAnnot_GetSubtype(annotation) if annotation else None
        raw.FPDFPage_CloseAnnot(annotation)
        if kind in (raw.FPDF_ANNOT_WIDGET, raw.FPDF_ANNOT_FREETEXT):
            return True
    return False


def _bookmarks(pdf: Any) -> Iterator[tuple[int, int, str]]:
    for mark in pdf.get_toc(max_depth=6):
        target = mark.get_dest()
        page = target.get_index() if target else None
        title = " ".join((mark.get_title() or "").split())
        if page is not None and page >= 0 and title:
            yield mark.level + 1, page + 1, title


def _cleaned(text: str) -> str:
    """Return a page with plain letters for ligatures, and without trailing blanks and characters that show nothing."""
    text = text.translate(_LIGATURES)
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


def _without_running_lines(pages: Sequence[str]) -> list[str]:
    """Take out the first and last lines that many pages share, and those that only give the page's number."""
    if len(pages) < _RUNNING_PAGES:
        return list(pages)
    split = [page.split("\n") for page in pages]
    counts: Counter[tuple[bool, str]] = Counter()
    for lines in split:
        for at_end in (False, True):
            counts.update({(at_end, key) for key in map(_key, _edge(lines, at_end)) if key})
    least = max(3, _RUNNING_SHARE * len(pages) / 2)
    numbered = _numbered_lines(split)
    kept = []
    for place, lines in enumerate(split):
        for at_end in (False, True):
            edge = _edge(lines, at_end)
            wanted = True  # The page's number, once on each side
            # From the outside in: a line of the text that reads like a header is not next to the edge.
            for line in reversed(edge) if at_end else edge:
                is_number = wanted and line in numbered[place]
                if counts[at_end, _key(line)] < least and not is_number:
                    break
                wanted &= not is_number
                lines = lines[:-1] if at_end else lines[1:]
        kept.append("\n".join(lines).strip("\n"))
    return kept


def _numbered_lines(split: Sequence[list[str]]) -> list[set[str]]:
    """Return each page's first and last lines that hold its number and else only words that stand so on other pages."""
    offset = _numbering(split)
    if offset is None:
        return [set() for _ in split]
    found = []
    pages: Counter[str] = Counter()
    for place, lines in enumerate(split):
        edges = {line for at_end in (False, True) for line in _edge(lines, at_end)}
        others = {line: _other_words(line, place + offset) for line in edges if place + offset in _page_numbers(line)}
        found.append(others)
        pages.update(set().union(*others.values()))
    return [{line for line, words in others.items() if all(pages[word] > 1 for word in words)} for others in found]


def _other_words(line: str, number: int) -> set[str]:
    """Return the words of a line besides the page's number, and its other numbers where it has no words."""
    others = {word for word in _WORD.findall(line.lower()) if word != str(number)}
    return {word for word in others if not word.isdecimal()} or others


def _numbering(split: Sequence[list[str]]) -> int | None:
    """Return what the printed page number adds to the place of a page, None where pages print none."""
    offsets: Counter[int] = Counter()
    for place, lines in enumerate(split):
        edges = (line for at_end in (False, True) for line in _edge(lines, at_end))
        offsets.update({number - place for line in edges for number in _page_numbers(line)})
    offset, count = next(iter(offsets.most_common(1)), (0, 0))
    return offset if count >= max(3, _RUNNING_SHARE * len(split)) else None


def _page_numbers(line: str) -> set[int]:
    """Return the whole numbers that open and close a line."""
    return {int(found) for pair in _OUTER_NUMBERS.findall(line) for found in pair if found}


def _edge(lines: list[str], at_end: bool) -> list[str]:
    return lines[-_RUNNING_LINES:] if at_end else lines[:_RUNNING_LINES]


def _key(line: str) -> str:
    return " ".join(line.lower().split())


def _joined(text: str, words: Counter[str]) -> str:
    """Join words that a hyphen divides at a line's end; a compound that the document writes with one keeps it."""

    def join(match: re.Match[str]) -> str:
        first, rest = match[1], match[2]
        tail = (_WORD.match(rest) or [rest])[0]
        whole, compound = f"{first}{tail}".lower(), f"{first}-{tail}".lower()
        keep = words[compound] > words[whole] or not rest[0].islower()
        return f"{first}{'-' if keep else ''}{rest}\n"

    if _AT_LINE_END.search(text):
        text = _HYPHEN.sub(join, text)
    return text.translate(_DROPPED)


def _add_page(builder: TextBuilder, text: str, number: int, marks: Sequence[tuple[int, int, str]]) -> None:
    """Add one page; each bookmark to it begins a block where the page holds the bookmark's words."""
    place = 0
    for level, _, title in marks:
        pattern = r"[\s.:]+".join(map(re.escape, title.split()))
        found = re.compile(rf"^\W*(?:(?:chapter|appendix|part)?\s*[\dA-Z.]+\s+)?{pattern}", re.I | re.M).search(
            text, place
        )
        begin = found.start() if found else place
        builder.add(text[place:begin], page=number)
        builder.enter(level, title)
        place = begin
    builder.add(text[place:], page=number)


def _problems(pages: Sequence[str], drawn: Sequence[bool]) -> Iterator[str]:
    empty = [number for number, page in enumerate(pages, 1) if not page.strip() and drawn[number - 1]]
    if empty:
        yield f"{_numbers(empty)} no text (scanned?)"
    unknown = [number for number, page in enumerate(pages, 1) if page and _unknown(page) > _MOST_UNKNOWN]
    if unknown:
        yield f"{_numbers(unknown)} letters that its fonts do not name"


def _unknown(page: str) -> float:
    return len(_UNKNOWN.findall(page)) / len(page)


def _numbers(pages: Sequence[int]) -> str:
    """Return page numbers in words, with the verb.

    >>> _numbers([3]), _numbers([1, 2, 3, 7])
    ('page 3 has', 'pages 1–3, 7 have')
    """
    runs = [[page for _, page in run] for _, run in groupby(enumerate(pages), lambda pair: pair[1] - pair[0])]
    named = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
    return f"page {named} has" if len(pages) == 1 else f"pages {named} have"
