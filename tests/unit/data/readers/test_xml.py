"""XML texts: titles by depth, paragraphs without tags, code as it is; other XML is read as it is."""

from __future__ import annotations

from reading import blocks, only_document

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
