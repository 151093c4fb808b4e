"""OpenDocument: headings, lists, tables and slides of ODT and ODP."""

from __future__ import annotations

from made_files import odf_bytes
from reading import blocks, documents, only_document, refusal

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


SHEET = """<office:spreadsheet><table:table table:name="Herd">
<table:table-column table:number-columns-repeated="4"/>
<table:table-header-rows><table:table-row><table:table-cell><text:p>name</text:p></table:table-cell>
<table:table-cell><text:p>born</text:p></table:table-cell><table:table-cell><text:p>about</text:p></table:table-cell>
<table:table-cell table:number-columns-repeated="16000"/></table:table-row></table:table-header-rows>
<table:table-row><table:table-cell office:value-type="string"><text:p>Ayla</text:p></table:table-cell>
<table:table-cell office:value-type="date" office:date-value="2020-05-01T00:00:00"><text:p>1. Mai</text:p>
</table:table-cell>
<table:table-cell><office:annotation><text:p>a note</text:p></office:annotation><text:p>She leads the herd</text:p>
<text:p>up the mountain.</text:p></table:table-cell></table:table-row>
<table:table-row table:number-rows-repeated="2"><table:table-cell table:number-columns-repeated="3"/></table:table-row>
<table:table-row table:number-rows-repeated="2"><table:table-cell><text:p>Bo</text:p></table:table-cell>
<table:table-cell office:value-type="float" office:value="2021"><text:p>2.021,00</text:p></table:table-cell>
<table:table-cell><text:p>He carries the salt back.</text:p></table:table-cell></table:table-row>
<table:table-row table:number-rows-repeated="1048570"><table:table-cell table:number-columns-repeated="16384"/>
</table:table-row></table:table>
<table:table table:name="Empty"><table:table-row><table:table-cell/></table:table-row></table:table>
</office:spreadsheet>"""


def test_the_rows_of_a_spreadsheet_are_documents_with_their_values() -> None:
    found = documents("a.ods", odf_bytes(SHEET))
    assert [(one.id, one.title, one.first_line) for one in found] == [
        ("a.ods!Herd#2", "Ayla", 2), ("a.ods!Herd#5", "Bo", 5), ("a.ods!Herd#6", "Bo", 6),
    ]  # fmt: skip
    assert found[0].text == "She leads the herd\nup the mountain.\nborn: 2020-05-01\na note"  # The comment ends the row
    assert dict(found[0].fields) == {"sheet": "Herd", "born": "2020-05-01"}
    assert found[1].fields["born"] == 2021
    assert documents("a.ods", odf_bytes(SHEET), id_field="born")[0].id == "a.ods!Herd#2020-05-01"


def test_truth_values_of_a_spreadsheet_are_such_and_its_charts_are_counted() -> None:
    def row(*cells: str) -> str:
        return f"<table:table-row>{''.join(cells)}</table:table-row>"

    text = "<table:table-cell><text:p>{}</text:p></table:table-cell>".format
    truth = (
        '<table:table-cell office:value-type="boolean" office:boolean-value="{}"><text:p>{}</text:p></table:table-cell>'
    )
    note = "<office:annotation><text:p>in centimeters</text:p></office:annotation><text:p>size</text:p>"
    note = f"<table:table-cell>{note}</table:table-cell>"
    chart = "<table:table-cell><draw:frame><draw:object/></draw:frame><text:p>b</text:p></table:table-cell>"
    rows = (
        row(note, text("sold"))
        + row(text("a"), truth.format("true", "WAHR"))
        + row(chart, truth.format("false", "FALSCH"))
    )
    found = documents(
        "a.ods", odf_bytes(f'<office:spreadsheet><table:table table:name="A">{rows}</table:table></office:spreadsheet>')
    )
    assert [(one.id, one.text) for one in found] == [
        ("a.ods!A#2", "size: a; sold: TRUE"), ("a.ods!A#3", "size: b; sold: FALSE"), ("a.ods!A#1", "in centimeters")
    ]  # fmt: skip
    assert [one.fields.get("sold") for one in found] == [True, False, None]
    assert found[-1].problems == ("1 embedded object (a chart or formula) left out",)


def test_repeated_cells_cannot_fill_the_memory() -> None:
    cell = '<table:table-cell table:number-columns-repeated="16384"><text:p>x</text:p></table:table-cell>'
    row = f'<table:table-row table:number-rows-repeated="1048576">{cell}</table:table-row>'
    sheet = f'<office:spreadsheet><table:table table:name="A">{row}</table:table></office:spreadsheet>'
    assert "unfold to more than max_file_bytes" in refusal("a.ods", odf_bytes(sheet), max_file_bytes=100_000)
    blank = '<table:table-row table:number-rows-repeated="99999999999999"><table:table-cell/></table:table-row>'
    assert refusal("a.ods", odf_bytes(sheet.replace(row, blank))) == "holds no text"


def test_notes_and_boxes_stand_after_their_paragraph_and_tables_in_cells_after_the_table() -> None:
    def box(text: str) -> str:
        return f"<draw:frame><draw:text-box><text:p>{text}</text:p></draw:text-box></draw:frame>"

    def row(*cells: str) -> str:
        inner = "".join(f"<table:table-cell><text:p>{cell}</text:p></table:table-cell>" for cell in cells)
        return f"<table:table-row>{inner}</table:table-row>"

    note = (
        "<text:note><text:note-citation>1</text:note-citation><text:note-body><text:p>At 20 degrees.</text:p>"
        "</text:note-body></text:note>"
    )
    inner = f"<table:table>{row('n1', 'n2')}</table:table>"
    nested = f"<table:table-row><table:table-cell>{inner}</table:table-cell></table:table-row>"
    shape = "<draw:custom-shape><text:p>In a shape.</text:p></draw:custom-shape>"
    text = (
        f"<office:text><text:h>Head{box('Beside.')}</text:h><text:p>The pressure{note} rises{shape} fast.</text:p>"
        f"<table:table>{row('a', 'b' + box('In a cell.'))}{nested}</table:table>"
        f"<text:p>{box('Outer.' + box('Inner.'))}<draw:frame><draw:object/></draw:frame></text:p></office:text>"
    )
    document = only_document("a.odt", odf_bytes(text))
    assert document.problems == ("1 embedded object (a chart or formula) left out",)
    assert document.text.split("\n\n") == [
        "Head", "Beside.", "The pressure[1] rises fast.", "[1] At 20 degrees.", "In a shape.", "a | b", "In a cell.",
        "n1 | n2", "Outer.", "Inner.",
    ]  # fmt: skip


def test_damage_in_the_content_is_named() -> None:
    document = only_document("a.odt", odf_bytes("<office:text><text:p>one</text:p><text:p>two</text:q></office:text>"))
    assert document.text == "one\n\ntwo"
    assert document.problems == ("damaged XML at line 1; what follows may be missing",)
    row = "<table:table-row><table:table-cell><text:p>one</text:q></table:table-cell></table:table-row>"
    data = odf_bytes(f'<office:spreadsheet><table:table table:name="A">{row}</table:table></office:spreadsheet>')
    assert only_document("a.ods", data).problems == ("damaged XML at line 1; what follows may be missing",)
