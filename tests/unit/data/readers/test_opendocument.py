"""OpenDocument: headings, lists, tables and slides of ODT and ODP."""

from __future__ import annotations

from made_files import odf_bytes
from reading import blocks, only_document, refusal

TEXT = """<office:text><text:tracked-changes>gone</text:tracked-changes>
<text:h text:outline-level="1">Wool</text:h>
<text:p>Very<text:s text:c="2"/>soft<text:line-break/>and <text:span>warm</text:span>.</text:p>
<text:list><text:list-item><text:p>one</text:p></text:list-item>
<text:list-item><text:p>two</text:p></text:list-item></text:list>
<table:table><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell><table:table-cell><text:p>b</text:p>
</table:table-cell></table:table-row></table:table>
<text:h text:outline-level="2">Deep</text:h><text:p>End.</text:p></office:text>"""

SLIDES = """<office:presentation>
<draw:page draw:name="a"><draw:frame><draw:text-box><text:p>First</text:p></draw:text-box>
</draw:frame></draw:page><draw:page><draw:frame><draw:text-box><text:p>Second</text:p></draw:text-box></draw:frame>
</draw:page></office:presentation>"""


def test_a_text_has_headings_lists_and_tables() -> None:
    document = only_document("a.odt", odf_bytes(TEXT))
    assert (document.title, dict(document.fields)) == ("Camelids", {"author": "A. Writer", "date": "2024-02-29"})
    assert blocks(document) == [
        ("heading", ("Wool",), "Wool"),
        ("text", ("Wool",), "Very  soft\nand warm.\n- one\n- two"),
        ("table", ("Wool",), "a | b"),
        ("heading", ("Wool", "Deep"), "Deep"),
        ("text", ("Wool", "Deep"), "End."),
    ]


def test_a_slide_is_a_page() -> None:
    document = only_document("a.odp", odf_bytes(SLIDES))
    assert [(one.page, one.headings) for one in document.blocks] == [(1, ("Slide 1",)), (2, ("Slide 2",))]
    assert document.text == "First\n\nSecond"


def test_an_encrypted_or_cut_file_says_so() -> None:
    assert refusal("a.odt", odf_bytes(TEXT, manifest="<m:encryption-data/>")) == "encrypted"
    assert refusal("a.odt", odf_bytes(TEXT)[:-9]) == "its zip data is damaged or cut"
