"""E-mail and web archives: a message is a document; its subject is the title, its attachments are read like files."""

from __future__ import annotations

import codecs
import email
import email.policy
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from typing import Any

from llama2vec.data.documents.document import Document
from llama2vec.data.documents.readers.building import Fault, Member, TextBuilder
from llama2vec.data.documents.readers.encodings import decoded
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import UnreadableError
from llama2vec.records import Value

_MULTIPART = re.compile(rb"^content-type:\s{0,9}multipart", re.I | re.M)
_MOST_MULTIPARTS = 100
_MOST_HEADER = 2000
"""Characters of a header that is parsed: the time grows with the square of its length."""
_COUNT = re.compile(rb"\s*(\d{1,12})\s*\n")
"""The first line of Apple's messages: the bytes that follow."""
_FROM = re.compile(rb"^From .*\d{4}.*\r?\n", re.MULTILINE)


def read(data: bytes, name: str, settings: ReadingSettings) -> Iterator[Document | Member | Fault]:
    """Yield the messages of a mailbox as ``FILE#NUMBER``, or that of a file, before its attachments."""
    if name.lower().endswith(".emlx") and (count := _COUNT.match(data)):
        data = data[count.end() : count.end() + int(count[1])]  # What follows is Apple's own
    data = data.removeprefix(codecs.BOM_UTF8).lstrip()
    if not name.lower().endswith(".mbox") and not data.startswith(b"From "):
        yield from _message(data, name)
        return
    starts = [match for match in _FROM.finditer(data) if _opens(data, match.start())]
    if not starts:
        raise UnreadableError("holds no message")
    ends = [match.start() for match in starts[1:]] + [len(data)]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True), start=1):
        raw = re.sub(rb"^>(>*From )", rb"\1", data[start.end() : end], flags=re.MULTILINE)
        try:
            yield from _message(raw, f"{name}#{number}")
        except UnreadableError as error:
            yield Fault(f"message {number}", str(error))


def _opens(data: bytes, place: int) -> bool:
    return place == 0 or data[max(0, place - 4) : place].endswith((b"\n\n", b"\n\r\n"))


def _message(raw: bytes, name: str) -> Iterator[Document | Member]:
    if len(_MULTIPART.findall(raw)) > _MOST_MULTIPARTS:
        raise UnreadableError("nested too deeply")
    message: Any = email.message_from_bytes(raw, policy=email.policy.default)
    if _is_page(message):
        yield from _page(message, name)
        return
    fields: dict[str, Value] = {}
    for header in ("from", "to"):
        if value := _header(message, header):
            fields[header] = value
    fields |= _date(message)
    builder = TextBuilder()
    body = message.get_body(preferencelist=("plain", "html"))
    if body is not None and body.get_content_type() == "text/plain" and not _text(body).strip():
        # Some programs put the text into the page alone.
        body = message.get_body(preferencelist=("html",)) or body
    if body is not None:
        _add_body(builder, body)
    # A message may say all in its subject.
    document = replace(builder.document(name, fields=fields), title=_header(message, "subject"))
    attachments = list(_attachments(message, body))
    if document.text or document.title or not attachments:  # Else it only carries files
        yield document
    for number, part in enumerate(attachments, start=1):
        file = " ".join((part.get_filename() or "").split()) or f"attachment {number}"
        file += ".html" if "." not in file and part.get_content_type() == "text/html" else ""
        content = part.get_payload(decode=True)
        if part.get_content_type() in ("message/rfc822", "message/global"):
            content, file = part.get_payload(0).as_bytes(), f"{file}.eml"
        elif content is None and part.get_content_maintype() == "multipart":  # A page and its pictures, for one
            content, file = part.as_bytes(), f"{file}.eml"
        elif content is None and part.is_multipart():  # Groups of headers, such as why a message was not delivered
            content = b"\n".join(group.as_bytes() for group in part.get_payload())
        if content and (part.get_filename() or content.strip()):
            yield Member(f"{name}!{file.rpartition('/')[2]}", content)


def _is_page(message: Any) -> bool:
    """Tell whether a message is a web archive: a page that a browser, Word or Confluence saved with its pictures."""
    sender = _header(message, "from")
    is_saved = sender.lstrip('<"').startswith("Saved by ") or not (sender or _header(message, "to"))
    is_page = message.get_content_type() in ("multipart/related", "text/html")
    # Its parts say where the page has them, unlike those of a message.
    is_located = is_saved and is_page and any("content-location" in part for part in message.walk())
    return is_located and message.get_body(("html",)) is not None


def _page(message: Any, name: str) -> Iterator[Document | Member]:
    """Yield the page of a web archive, or its frames where it has no text of its own."""
    from llama2vec.data.documents.readers.html import page_document

    root = message.get_body(("html",))
    frames = [part for part in message.walk() if part.get_content_type() == "text/html" and part is not root]
    try:
        page = page_document(_text(root), name)
    except UnreadableError:
        if not frames:
            raise
        for number, part in enumerate(frames, start=1):
            yield Member(f"{name}!frame {number}.html", part.get_payload(decode=True) or b"")
        return
    yield replace(page, title=page.title or _header(message, "subject"), fields=_date(message) | dict(page.fields))


def _date(message: EmailMessage) -> dict[str, Value]:
    with suppress(ValueError, TypeError, IndexError, OverflowError):  # a date that is missing or damaged
        return {"date": parsedate_to_datetime(_header(message, "date")).date().isoformat()}
    return {}


def _header(message: EmailMessage, name: str) -> str:
    raw = next((str(value) for key, value in message.raw_items() if key.lower() == name), "")
    if len(raw) > _MOST_HEADER:
        return " ".join(raw[:_MOST_HEADER].split()).encode("utf-8", "replace").decode()
    try:
        return " ".join(str(message.get(name) or "").split()).encode("utf-8", "replace").decode()
    except Exception:  # the standard library fails on some damaged headers; the message has others
        return ""


def _text(body: EmailMessage) -> str:
    payload: Any = body.get_payload(decode=True)
    return decoded(payload or b" ", declared=body.get_content_charset())


def _add_body(builder: TextBuilder, body: EmailMessage) -> None:
    text = _text(body)
    if body.get_content_type() == "text/html":
        from llama2vec.data.documents.readers.html import add_html

        add_html(builder, text)
    else:
        builder.add(text)


def _attachments(message: Any, body: Any) -> Iterator[Any]:
    try:
        # In a mixed message, the standard library passes over every part that could be a body, such as a page above a
        # footer.
        is_mixed = message.get_content_type() == "multipart/mixed"
        for part in message.iter_parts() if is_mixed else message.iter_attachments():
            if all(one is not body for one in part.walk()):
                yield part
            elif part is not body and part.get_content_type() != "multipart/alternative":  # The body and more
                yield from _attachments(part, body)
    except (AttributeError, KeyError, TypeError):  # a body that claims parts and has none
        return
