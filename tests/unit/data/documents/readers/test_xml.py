"""XML texts: titles by depth, paragraphs without tags, code as it is; other XML is read as it is."""

from __future__ import annotations

import pytest
from reading import blocks, only_document, refusal

BOOK = """<?xml version="1.0"?><!-- c --><book xmlns="http://docbook.org/ns/docbook"><info><title>Llamas</title></info>
<chapter><title>Wool</title><para>Very <emphasis>soft</emphasis>
 wool.<indexterm><primary>wool</primary></indexterm></para>
<section><title>Care</title><itemizedlist><listitem><para>Brush.</para></listitem></itemizedlist>
<programlisting>brush --all
  &lt;now&gt;</programlisting></section></chapter></book>"""


def test_titles_are_headings_and_paragraphs_have_no_tags() -> None:
    document = only_document("a.xml", BOOK)
    assert (document.title, document.lines) == ("Llamas", "none")
    assert blocks(document)[1:] == [
        ("heading", ("Wool",), "Wool"),
        ("text", ("Wool",), "Very soft wool."),
        ("heading", ("Wool", "Care"), "Care"),
        ("text", ("Wool", "Care"), "Brush."),
        ("code", ("Wool", "Care"), "brush --all\n  <now>"),
    ]


def test_a_file_of_attributes_is_read_as_it_is() -> None:
    text = '<config>\n  <host name="llama"/>\n</config>\n'
    document = only_document("a.xml", text)
    assert (document.text, document.lines) == (text, "file")


def test_words_of_two_elements_do_not_join() -> None:
    text = (
        "<r><p>first<lb/>second H<sub>2</sub>O</p><p>by <firstname>A</firstname><surname>B</surname></p>"
        "<p>pre<indexterm>x</indexterm>fix<list><item>one</item><item>two</item></list>end</p>"
        "<screen>a = 1<lb/>b = <b>2</b></screen></r>"
    )
    assert only_document("a.xml", text).text == ("first second H2O\n\nby A B\n\nprefix one two end\n\na = 1\nb = 2")


def test_what_only_looks_like_markup_is_text() -> None:
    document = only_document(
        "a.xml", "<r><p>AT&T and R&D < 5 bar &mdash; &x;</p><p><![CDATA[a & b < c &amp;]]></p></r>"
    )
    assert (document.text, document.problems) == ("AT&T and R&D < 5 bar — &x;\n\na & b < c &amp;", ())


def test_several_roots_deep_elements_and_long_texts_are_read_whole() -> None:
    assert only_document("a.xml", "<?xml version='1.0'?><p>one</p>\n<p>two</p>").text == "one\n\ntwo"
    assert only_document("a.xml", "<a>" * 300 + "deep" + "</a>" * 300).text == "deep"
    long = "word " * 2_100_000
    document = only_document("a.xml", f"<r><p>{long}</p><p>last</p></r>")
    assert (len(document.text), document.problems) == (len(long) + 5, ())


@pytest.mark.parametrize(
    ("text", "line"),
    [("<r><p>one</p>\n<p>cut", 2), ("<r>\n\n<p>one</q></r>", 3), (f"<r><p>one</p>{'<a>' * 5000}", 1)],
)
def test_damage_is_named(text: str, line: int) -> None:
    document = only_document("a.xml", text)
    assert document.text.startswith("one")
    assert document.problems == (f"damaged XML at line {line}; what follows may be missing",)


def test_the_encoding_is_guessed_where_none_is_declared_and_latin_1_is_that_of_windows() -> None:
    body = "<r><p>Le café “noir” à midi</p></r>"
    for head in ("", '<?xml version="1.0" encoding="ISO-8859-1"?>'):
        assert only_document("a.xml", f"{head}{body}".encode("cp1252")).text == "Le café “noir” à midi"
    head = '<?xml version="1.0" encoding="utf-16"?>'
    assert only_document("a.xml", f"{head}{body}".encode("utf-16")).text == "Le café “noir” à midi"
    assert only_document("a.xml", body.encode("koi8-r", "replace"), encoding="koi8-r").text == "Le caf? ?noir? ? midi"


def test_own_entities_and_attributes_unfold_to_nothing() -> None:
    unfolding = "".join(f'<!ENTITY e{place + 1} "{f"&e{place};" * 10}">' for place in range(12))
    text = f'<!DOCTYPE r [<!ENTITY e0 "x">{unfolding}]><r><p t="&e12;">a &e12;</p></r>'
    assert only_document("a.xml", text).text == "a &e12;"
    long = "x" * 11_000_000
    attributes = f'<!DOCTYPE r SYSTEM "a>b" [<!ATTLIST p t CDATA "{long}">]>'
    assert refusal("a.xml", f"{attributes}<r>{'<p>one</p>' * 3}</r>") == "its XML is damaged"
