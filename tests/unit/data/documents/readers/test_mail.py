"""E-mail: messages of a mailbox, headers as fields, and attachments read like files."""

from __future__ import annotations

from email.message import EmailMessage

import pytest
from made_files import pdf_bytes, zip_bytes
from reading import documents, only_document, refusal


def message(subject: str, body: str, **headers: str) -> EmailMessage:
    made = EmailMessage()
    made["Subject"], made["From"], made["To"] = subject, "A <a@x.org>", "b@x.org"
    made["Date"] = "Thu, 29 Feb 2024 12:00:00 +0100"
    for name, value in headers.items():
        made[name] = value
    made.set_content(body)
    return made


def test_a_message_has_its_subject_as_title_and_its_headers_as_fields() -> None:
    document = only_document("a.eml", message("Wärme: the wool", "Soft.\n\nWarm.\n").as_bytes())
    assert (document.title, document.text, document.lines) == ("Wärme: the wool", "Soft.\n\nWarm.", "none")
    assert dict(document.fields) == {"from": "A <a@x.org>", "to": "b@x.org", "date": "2024-02-29"}


def test_html_is_read_where_a_message_has_no_plain_text() -> None:
    made = message("x", "")
    made.set_content("<p>Only <b>HTML</b></p>", subtype="html")
    assert only_document("a.eml", made.as_bytes()).text == "Only HTML"


def test_a_message_of_a_mailbox_that_cannot_be_read_is_named_and_the_others_are_read() -> None:
    broken = b"Subject: x\nContent-Type: text/plain\nContent-Transfer-Encoding: base64\n\nAAEAAgADAAQABQAG\n"
    messages = [message("One", "First.").as_bytes(), broken, message("Three", "Third.").as_bytes()]
    found = documents(
        "a.mbox", b"".join(b"From a@x.org Thu Feb 29 12:00:00 2024\n" + one + b"\n\n" for one in messages)
    )
    assert [one.text for one in found] == ["First.", "Third."]
    assert found[-1].problems == ("message 2: holds binary data, not text",)


def test_attachments_are_read_like_files_and_others_named() -> None:
    made = message("Report", "See the file.")
    made.add_attachment(pdf_bytes([["The numbers."]]), maintype="application", subtype="pdf", filename="../r.pdf")
    made.add_attachment(b"\x89PNG", maintype="image", subtype="png", filename="p.png")
    found = documents("a.eml", made.as_bytes())
    assert [(one.id, one.text) for one in found] == [("a.eml", "See the file."), ("a.eml!r.pdf", "The numbers.")]
    assert found[-1].problems == ("p.png: a picture",)


def test_the_messages_of_a_mailbox_are_numbered() -> None:
    first, second = message("One", "First.\n\nFrom here on.\n"), message("Two", "Second.\n")
    box = b"".join(b"From a@x.org Thu Feb 29 12:00:00 2024\n" + one.as_bytes() + b"\n" for one in (first, second))
    found = documents("a.mbox", box.replace(b"\nFrom here", b"\n>From here"))
    assert [(one.id, one.title, one.text) for one in found] == [
        ("a.mbox#1", "One", "First.\n\nFrom here on."),
        ("a.mbox#2", "Two", "Second."),
    ]
    assert refusal("a.mbox", b"nothing here") == "holds no message"


def test_a_part_of_several_parts_after_the_body_is_read() -> None:
    made, page = message("x", "See below."), EmailMessage()
    page.set_content("<p>The numbers.</p>", subtype="html")
    page.add_related(b"\x89PNG", "image", "png", filename="p.png")
    made.make_mixed()
    made.attach(page)
    found = documents("a.eml", made.as_bytes())
    assert [one.text for one in found] == ["See below.", "The numbers."]
    assert found[-1].problems == ("p.png: a picture",)


def test_a_message_that_only_carries_files_lacks_nothing() -> None:
    made = message("", "")
    made.add_attachment("The numbers.", filename="r.txt")
    [found] = documents("a.zip", zip_bytes({"a.eml": made.as_bytes()}))
    assert (found.id, found.text, found.problems) == ("a.zip!a.eml!r.txt", "The numbers.\n", ())


def test_a_page_above_a_footer_is_read() -> None:
    made, page = EmailMessage(), EmailMessage()
    made["Subject"] = "News"
    page.set_content("<p>The <b>numbers</b>.</p>", subtype="html")
    made.make_mixed()
    made.attach(page)
    made.add_attachment("Sent by a list.", disposition="inline")
    found = documents("a.eml", made.as_bytes())
    assert [(one.id, one.text) for one in found] == [
        ("a.eml", "Sent by a list."),
        ("a.eml!attachment 1.html", "The numbers."),
    ]


def test_each_part_of_a_signed_message_is_read_once() -> None:
    inner = EmailMessage()
    inner.set_content("See below.")
    inner.add_attachment("The numbers.", filename="r.txt")
    signed = b'Content-Type: multipart/signed; protocol="application/pgp-signature"; boundary="s"\nSubject: x\n\n--s\n'
    signed += inner.as_bytes() + b"\n--s\nContent-Type: application/pgp-signature\n\nabc\n--s--\n"
    found = [(one.id, one.text.strip()) for one in documents("a.eml", signed)]
    assert found == [("a.eml", "See below."), ("a.eml!r.txt", "The numbers."), ("a.eml!attachment 2", "abc")]


def test_the_files_of_a_message_above_a_footer_are_read() -> None:
    inner, made, footer = EmailMessage(), EmailMessage(), EmailMessage()
    inner.set_content("See below.")
    inner.add_attachment("The numbers.", filename="r.txt")
    footer.set_content("Sent by a list.")
    made["Subject"] = "News"
    made.make_mixed()
    made.attach(inner)
    made.attach(footer)
    texts = [one.text.strip() for one in documents("a.eml", made.as_bytes())]
    assert sorted(texts) == ["See below.", "Sent by a list.", "The numbers."]


def test_a_page_beside_a_blank_text_is_read() -> None:
    made = message("x", " \n\n")
    made.add_alternative("<p>The numbers.</p>", subtype="html")
    assert only_document("a.eml", made.as_bytes()).text == "The numbers."


def test_why_a_message_was_not_delivered_is_read() -> None:
    report = (
        b'Subject: x\nContent-Type: multipart/report; report-type=delivery-status; boundary="b"\n\n--b\n\nIt bounced.\n'
        b"--b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; x\n\nDiagnostic-Code: 550 full\n\n--b--\n"
    )
    found = [(one.id, one.text.split()) for one in documents("a.eml", report)]
    assert found == [
        ("a.eml", ["It", "bounced."]),
        ("a.eml!attachment 1", ["Reporting-MTA:", "dns;", "x", "Diagnostic-Code:", "550", "full"]),
    ]


def web_archive(*parts: tuple[str, str, str], sender: str = "<Saved by Blink>") -> str:
    """Return a page that a browser saved, of parts (type, place, content)."""
    head = f"From: {sender}\n" if sender else ""
    head += (
        "Subject: Wool\nDate: Thu, 29 Feb 2024 12:00:00 +0100\nMIME-Version: 1.0\nContent-Type: multipart/related;\n"
    )
    body = "".join(f"--b\nContent-Type: {kind}\nContent-Location: {place}\n\n{text}\n" for kind, place, text in parts)
    return f'{head}\ttype="text/html";\n\tboundary="b"\n\n{body}--b--\n'


PAGE = (
    "text/html",
    "https://x.org/",
    "<html><title>All about wool</title><body><nav>Menu</nav><p>Soft wool.</p></body></html>",
)
PICTURE = ("image/png", "https://x.org/p.png", "x")


@pytest.mark.parametrize("name", ["a.mhtml", "a.MHT", "page", "a.doc"])
def test_a_web_archive_is_its_page(name: str) -> None:
    for sender in ("<Saved by Blink>", ""):
        document = only_document(name, web_archive(PAGE, PICTURE, sender=sender))
        assert (document.id, document.title, document.text) == (name, "All about wool", "Soft wool.")
        assert (dict(document.fields), document.problems) == ({"date": "2024-02-29"}, ())


def test_the_frames_of_a_web_archive_are_read_where_its_page_is_none() -> None:
    frames = ("text/html", "https://x.org/", "<html><frameset><frame src='cid:1'></frameset></html>")
    found = documents("a.mhtml", web_archive(frames, PAGE, PICTURE))
    assert [(one.id, one.text) for one in found] == [("a.mhtml!frame 1.html", "Soft wool.")]


def test_a_message_of_apple_mail_is_read_without_what_apple_adds() -> None:
    raw = message("Wool", "Soft.").as_bytes()
    document = only_document("1.emlx", b"%d      \n%s<?xml version='1.0'?>\n<plist>flags</plist>\n" % (len(raw), raw))
    assert (document.title, document.text) == ("Wool", "Soft.")


@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", b"\n", b"\r\n\r\n"])
def test_what_stands_before_a_message_does_not_hide_its_headers(before: bytes) -> None:
    raw = message("Wool", "Soft.").as_bytes()
    document = only_document("a.eml", before + raw)
    assert (document.title, document.text) == ("Wool", "Soft.")
    box = b"From - Thu Feb 29 12:00:00 2024\n" + raw
    assert [one.title for one in documents("a.mbox", before + box)] == ["Wool"]


def test_mail_without_a_suffix_is_read_as_mail() -> None:
    raw = message("Wool", "Soft.").as_bytes()
    box = b"From - Thu Feb 29 12:00:00 2024\nX-Mozilla-Status: 0001\n" + raw + b"\n"
    assert [one.id for one in documents("Inbox", box + box)] == ["Inbox#1", "Inbox#2"]
    received = b"Return-Path: <a@x.org>\nReceived: from x.org\n\tby y.org; Thu, 29 Feb 2024 12:00:00 +0100\n" + raw
    for name in ("cur/1700000000.M1P2.host.example.pl:2,S", "new/1700000000.M1P2.host.pl", "123"):
        document = only_document(name, received)
        assert (document.title, document.text) == ("Wool", "Soft.")
