"""Workbooks: comments, truth values, charts, and Excel's XML of 2003."""

from __future__ import annotations

import io
import zipfile

import openpyxl
import pytest
from made_files import xlsx_bytes
from openpyxl.chart import BarChart, Reference
from openpyxl.comments import Comment
from reading import documents, refusal

THREAD = (
    '<ThreadedComments xmlns="http://schemas.microsoft.com/office/spreadsheetml/2018/threadedcomments">'
    '<threadedComment ref="B2"><text>Is it sold?</text></threadedComment>'
    '<threadedComment ref="B2"><text>Yes, in May.</text></threadedComment></ThreadedComments>'
)
THREADS = "http://schemas.microsoft.com/office/2017/10/relationships/threadedComment"
LINK = f'<Relationship Id="t" Type="{THREADS}" Target="../threads.xml"/>'
SPACE = 'xmlns="urn:schemas-microsoft-com:office:spreadsheet" xmlns:ss="urn:schemas-microsoft-com:office:spreadsheet"'
XML = f"""<?xml version="1.0"?>
<?mso-application progid="Excel.Sheet"?>
<Workbook {SPACE}><Worksheet ss:Name="Herd"><Table>
<Row><Cell><Data ss:Type="String">name</Data></Cell><Cell><Data ss:Type="String">born</Data></Cell>
<Cell><Data ss:Type="String">sold</Data></Cell></Row>
<Row ss:Index="4"><Cell><Data ss:Type="String">Ayla</Data><Comment><Data>leads</Data></Comment></Cell>
<Cell ss:Index="3"><Data ss:Type="Boolean">1</Data></Cell></Row>
<Row><Cell><Data ss:Type="String">Bo</Data></Cell><Cell><Data ss:Type="Number">2021</Data></Cell></Row>
</Table></Worksheet></Workbook>"""


def saved(book: openpyxl.Workbook) -> bytes:
    target = io.BytesIO()
    book.save(target)
    return target.getvalue()


def commented() -> openpyxl.Workbook:
    book = openpyxl.Workbook()
    for row in (["name", "sold"], ["Ayla", True], ["Bo", False]):
        book.active.append(row)
    book.active["B2"].comment = Comment("Ann:\nAsk Bo.", "Ann")
    book.active["A1"].comment = Comment("As they are called.", "Ann")
    return book


def test_comments_end_the_text_of_their_row() -> None:
    found = documents("a.xlsx", saved(commented()))
    assert [(one.id, one.text) for one in found] == [
        ("a.xlsx!Sheet#2", "name: Ayla; sold: TRUE\nAnn:\nAsk Bo."),
        ("a.xlsx!Sheet#3", "name: Bo; sold: FALSE"),
        ("a.xlsx!Sheet#1", "As they are called."),
    ]
    assert [one.fields.get("sold") for one in found] == [True, False, None]
    assert found[-1].problems == ()


def test_a_thread_of_comments_is_read_instead_of_its_notice() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(commented()))) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("sheet1.xml.rels"):
                content = content.replace(b"</Relationships>", LINK.encode() + b"</Relationships>")
            new.writestr(name, content)
        new.writestr("xl/threads.xml", THREAD)
    assert documents("a.xlsx", target.getvalue())[0].text == "name: Ayla; sold: TRUE\nIs it sold?\nYes, in May."


def test_charts_and_chart_sheets_are_counted() -> None:
    book = openpyxl.Workbook()
    for row in (["name", "n"], ["Ayla", 1], ["Bo", 2]):
        book.active.append(row)
    for sheet in (book.active, book.create_chartsheet("Chart")):
        chart = BarChart()
        chart.add_data(Reference(book.active, min_col=2, min_row=1, max_row=3), titles_from_data=True)
        sheet.add_chart(chart)
    found = documents("a.xlsx", saved(book))
    assert len(found) == 2
    assert found[-1].problems == ("2 charts or diagrams left out",)


def test_text_boxes_are_counted() -> None:
    target = io.BytesIO(xlsx_bytes([["name"], ["Ayla"]]))
    with zipfile.ZipFile(target, "a") as opened:
        opened.writestr(
            "xl/drawings/drawing1.xml",
            "<d:wsDr xmlns:d='d' xmlns:a='a'><d:sp><a:t>Buy soon.</a:t></d:sp><d:sp/></d:wsDr>",
        )
    assert documents("a.xlsx", target.getvalue())[-1].problems == ("1 text box left out",)


@pytest.mark.parametrize("name", ["a.xls", "a.xml"])
def test_the_xml_of_excel_2003_is_read_as_a_workbook(name: str) -> None:
    ayla, bo = documents(name, XML)
    assert (ayla.id, ayla.text, ayla.first_line) == (f"{name}!Herd#4", "name: Ayla; sold: TRUE\nleads", 4)
    assert dict(ayla.fields) == {"sheet": "Herd", "name": "Ayla", "sold": True}
    assert (bo.id, bo.fields["born"]) == (f"{name}!Herd#5", 2021)


def test_cells_far_to_the_right_cannot_fill_the_memory() -> None:
    row = '<Row><Cell ss:Index="99999"><Data ss:Type="String">x</Data></Cell></Row>'
    bomb = f'<?xml version="1.0"?><Workbook {SPACE}><Worksheet><Table>{row * 50}</Table></Worksheet></Workbook>'
    assert "unfold to more than max_file_bytes" in refusal("a.xls", bomb, max_file_bytes=100_000)
