"""DOCX and PPTX: headings, tables and notes; slides are pages; nothing outside the file is read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from made_files import docx_bytes, docx_paragraph, pptx_bytes, zip_bytes
from reading import blocks, only_document, refusal

TABLE = "<w:tbl><w:tr>{}</w:tr><w:tr>{}</w:tr></w:tbl>"


def row(*cells: str) -> str:
    return "".join(f"<w:tc>{docx_paragraph(cell)}</w:tc>" for cell in cells)


def test_a_docx_has_headings_paragraphs_lists_and_tables() -> None:
    body = [
        docx_paragraph("Install", "Heading1"),
        docx_paragraph("Get the package first."),
        docx_paragraph("Linux", "Heading2"),
        docx_paragraph("Run &amp; wait."),
        TABLE.format(row("Option", "Use"), row("-j", "jobs")),
    ]
    document = only_document("a.docx", docx_bytes("".join(body), title="The guide", author="A. Writer"))
    assert (document.title, document.lines, document.problems) == ("The guide", "none", ())
    assert dict(document.fields) == {"author": "A. Writer", "date": "2024-02-29"}
    assert blocks(document) == [
        ("heading", ("Install",), "Install"),
        ("text", ("Install",), "Get the package first."),
        ("heading", ("Install", "Linux"), "Linux"),
        ("text", ("Install", "Linux"), "Run & wait."),
        ("table", ("Install", "Linux"), "Option | Use\n-j | jobs"),
    ]


def test_a_docx_without_properties_is_titled_by_its_first_heading() -> None:
    assert only_document("a.docx", docx_bytes(docx_paragraph("Llamas", "Heading1"))).title == "Llamas"


def test_a_cut_or_encrypted_docx_says_so() -> None:
    whole = docx_bytes(docx_paragraph("x"))
    assert refusal("a.docx", whole[: len(whole) // 2]) == "its zip data is damaged or cut"
    assert refusal("a.docx", b"\xd0\xcf\x11\xe0" + bytes(600)) == "encrypted, or an old Office format"
    assert refusal("a.docx", zip_bytes({"a.txt": "x"})).startswith("damaged (")


def test_a_docx_that_names_outside_files_gets_none_of_them(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    entity = f'<!DOCTYPE w:document [<!ENTITY x SYSTEM "file://{secret}">]>'
    data = docx_bytes(docx_paragraph("Seen.") + docx_paragraph("&x;"), before=entity)
    assert only_document("a.docx", data).text == "Seen."


def test_a_slide_is_a_page_with_its_title_texts_tables_and_notes() -> None:
    document = only_document("a.pptx", pptx_bytes())
    assert (document.title, document.problems) == ("Camelids", ("slide 3 without text (pictures?)",))
    found = [(one.page, one.kind, one.headings, document.text[one.begin : one.end].strip()) for one in document.blocks]
    assert found == [
        (1, "heading", ("Wool",), "Wool"),
        (1, "text", ("Wool",), "Soft\nWarm\n\nSay it twice."),
        (2, "table", ("Slide 2",), "a | b\n1 | 2"),
    ]


@pytest.mark.parametrize("suffix", [".docx", ".pptx"])
def test_office_files_that_unfold_to_too_much_are_refused(suffix: str) -> None:
    data = zip_bytes({"[Content_Types].xml": "<x/>", "word/document.xml": b" " * 9_000_000})
    assert refusal(f"a{suffix}", data) == "unfolds to more than 300 times its size (a bomb?)"


def test_entities_that_multiply_do_not_fill_the_memory() -> None:
    lol = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    before = f'<!DOCTYPE w:document [<!ENTITY l0 "lol">{lol}]>'
    data = docx_bytes(docx_paragraph("&l9;"), before=before)
    assert refusal("a.docx", data).startswith("damaged (")


def test_a_docx_cell_of_several_paragraphs_stays_in_its_table() -> None:
    cell = f"<w:tc>{docx_paragraph('one')}{docx_paragraph('two')}</w:tc>"
    table = f"<w:tbl><w:tr>{row('Part', 'Use').strip()}</w:tr><w:tr>{cell}{row('x')}</w:tr></w:tbl>"
    assert blocks(only_document("a.docx", docx_bytes(table))) == [("table", (), "Part | Use\none two | x")]


def test_a_docx_is_read_with_its_equations_fields_and_ruby_text() -> None:
    math = 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
    equation = f"<m:oMath {math}><m:r><m:t>E=m</m:t></m:r><m:r><m:t>c2</m:t></m:r></m:oMath>"
    above, base = (f"<w:r><w:t>{text}</w:t></w:r>" for text in ("ami", "wool"))
    ruby = f"<w:r><w:ruby><w:rt>{above}</w:rt><w:rubyBase>{base}</w:rubyBase></w:ruby></w:r>"
    field = '<w:fldSimple w:instr="SEQ"><w:r><w:t>Table 1</w:t></w:r></w:fldSimple>'
    parts = [equation, f"<m:oMathPara {math}>{equation}</m:oMathPara>", ruby, field]
    document = only_document("a.docx", docx_bytes("".join(f"<w:p>{part}</w:p>" for part in parts)))
    assert document.text == "E=m c2\n\nE=m c2\n\nwool\n\nTable 1"
    assert document.problems == ("2 equations, read as letters and signs alone",)


def test_charts_of_slides_are_read_and_other_objects_named() -> None:
    from pptx import Presentation
    from pptx.chart.data import CategoryChartData
    from pptx.enum.chart import XL_CHART_TYPE

    made, chart = Presentation(), CategoryChartData()
    chart.categories = ["Berlin", "Rome"]
    chart.add_series("Energy", (1, 2.5))
    slide = made.slides.add_slide(made.slide_layouts[5])
    slide.shapes.title.text = "Costs"
    slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, 0, 0, 9, 9, chart)
    slide.shapes.add_ole_object(io.BytesIO(b"x"), "Excel.Sheet.12", 0, 0, 9, 9)
    target = io.BytesIO()
    made.save(target)
    document = only_document("a.pptx", target.getvalue())
    assert document.text == "Costs\n\n| Energy\nBerlin | 1\nRome | 2.5"
    assert document.problems == ("slide 1: an embedded object left out",)


def test_shapes_that_old_programs_cannot_show_are_read() -> None:
    from pptx import Presentation

    made = Presentation()
    shapes = made.slides.add_slide(made.slide_layouts[6]).shapes
    box = shapes.add_textbox(0, 0, 9, 9)
    box.text_frame.text = "E=mc2"
    space = "http://schemas.openxmlformats.org/markup-compatibility/2006"
    choice = box._element.makeelement(f"{{{space}}}Choice")
    alternatives = box._element.makeelement(f"{{{space}}}AlternateContent")
    shapes._spTree.append(alternatives)
    alternatives.append(choice)
    choice.append(box._element)
    target = io.BytesIO()
    made.save(target)
    assert only_document("a.pptx", target.getvalue()).text == "E=mc2"


def test_a_file_that_has_only_a_title_holds_no_text() -> None:
    assert refusal("a.docx", docx_bytes(docx_paragraph(""), title="The guide")) == "holds no text"
