"""The format of a file by its first bytes, where its name does not say or is often wrong."""

from __future__ import annotations

import codecs
import re

_BEFORE = re.compile(rb"(?:\s|<!--.*?-->|<\?xml\b.*?\?>)*+", re.DOTALL)
"""What may stand before the first tag of a page."""
_PAGE = re.compile(
    rb"<!doctype html|<html[\s>]|<(?:head|body)(?:\s[^<>]*)?>\s*<|<meta\s[^<>]*="
    rb"|<table(?:\s[^<>]*)?>(?:\s|<!--.*?-->)*<(?:t[rdh]|thead|tbody|caption|col(?:group)?)[\s>/]",
    re.IGNORECASE | re.DOTALL,
)
"""A page, or a part of one with the tags that such a part holds: prose about tables may begin with <table>, too."""
_BOX = re.compile(rb"From (?![0-9a-f]{40} ).*\d\d:\d\d.*\d{4}")
"""How each message of a mailbox begins; a patch of git begins with its commit."""
_FIELD = re.compile(rb"([!-9;-~]+):(.*)")
_SURE = {
    b"mime-version": re.compile(rb"\s*1\.\d"),
    b"return-path": re.compile(rb"\s*<"),
    b"received": re.compile(rb"\s*(?:$|\(|(?:from|by)\s)"),
}
"""Headers that only messages have, with what they begin with."""
_USUAL = frozenset((b"from", b"to", b"date", b"subject", b"message-id", b"content-type", b"x-mozilla-status"))


def first_letters(start: bytes) -> bytes:
    """Return the first bytes of a file in UTF-8 and without a byte order mark."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return start.decode("utf-16", errors="ignore").encode()
    return start.removeprefix(codecs.BOM_UTF8)


def recognized(start: bytes) -> str:
    r"""Return the suffix of what begins with these bytes, as :func:`first_letters` returns them: PDF, HTML or mail.

    >>> recognized(b"<!-- saved --> <html>"), recognized(b"MIME-Version: 1.0\nSubject: x\n\n"), recognized(b"Hi.")
    ('.html', '.eml', '')
    """
    if start.lstrip()[:5].lower() == b"%pdf-":
        return ".pdf"
    before = _BEFORE.match(start)
    if _PAGE.match(start, before.end() if before else 0):
        return ".html"
    return ".eml" if _is_mail(start) else ""


def _is_mail(start: bytes) -> bool:
    """Tell whether a file begins with the headers of a message, such as those of a mailbox, and with nothing else."""
    lines = start.lstrip().splitlines()
    is_box = bool(lines) and _BOX.match(lines[0]) is not None
    names: set[bytes] = set()
    sure = False
    for line in lines[is_box:-1]:  # The last one may be cut
        if not line.strip():
            break
        field = _FIELD.match(line)
        if field is None:
            if (names and line.startswith((b" ", b"\t"))) or line.startswith(b">From "):
                continue
            return False
        name = field[1].lower()
        names.add(name)
        sure |= name in _SURE and _SURE[name].match(field[2]) is not None
    usual = len(names & _USUAL)
    return usual > 1 if is_box else sure and usual > 0
