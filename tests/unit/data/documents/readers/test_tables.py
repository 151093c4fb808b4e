"""Tables: which columns are text, rows that name their line, and workbooks."""

from __future__ import annotations

import datetime

import pytest
from made_files import odf_bytes, xlsx_bytes
from reading import documents, refusal

FAQ = """id,question,answer,year,rating
q1,Do llamas hum?,"Yes, they hum when they are
tired or curious.",2020,4.5
q2,Do they spit?,"Rarely at people, often at each other.",2021,
"""


def test_long_columns_are_the_text_and_the_others_fields() -> None:
    first, second = documents("faq.csv", FAQ)
    assert (first.id, first.title, first.lines, first.first_line) == ("faq.csv#2", "Do llamas hum?", "row", 2)
    assert first.text == "Yes, they hum when they are\ntired or curious.\nid: q1; year: 2020; rating: 4.5"
    assert dict(first.fields) == {"id": "q1", "year": 2020, "rating": 4.5}
    assert (second.id, second.first_line, dict(second.fields)) == ("faq.csv#4", 4, {"id": "q2", "year": 2021})


def test_what_the_title_or_the_text_says_already_is_not_repeated() -> None:
    table = "title,name,text,note,customer\nPump 9,Pump 9,It leaks all over the floor.,,Müller\nValve,v2,,,Ayla\n"
    assert [one.text for one in documents("a.csv", table)] == [
        "It leaks all over the floor.\ncustomer: Müller", "name: v2; customer: Ayla",
    ]  # fmt: skip


def test_settings_name_the_columns() -> None:
    found = documents("faq.csv", FAQ, text_columns=["question", "answer"], id_field="id", title_field="year")
    assert [(one.id, one.title) for one in found] == [("faq.csv#q1", "2020"), ("faq.csv#q2", "2021")]
    assert found[1].text == "Do they spit?\nRarely at people, often at each other."
    assert refusal("faq.csv", FAQ, text_columns=["body"]) == (
        "has no column body (its columns: id, question, answer, year, rating)"
    )


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "|"), ("a.tsv", "\t")])
def test_a_table_of_short_cells_is_read_cell_by_cell(name: str, mark: str) -> None:
    rows = [["name", "weight", "color"], ["Ayla", "130", "white"], ["", "", ""], ["Bo", "007", "brown"]]
    found = documents(name, "\r\n".join(mark.join(row) for row in rows))
    assert [(one.id, one.text) for one in found] == [
        (f"{name}#2", "name: Ayla; weight: 130; color: white"),
        (f"{name}#4", "name: Bo; weight: 007; color: brown"),
    ]
    # One cell that is no number, such as 007, keeps its column as text.
    assert dict(found[0].fields) == {"name": "Ayla", "weight": "130", "color": "white"}
    assert found[1].fields["weight"] == "007"


def test_a_table_without_a_header_numbers_its_columns() -> None:
    found = documents("a.csv", "1,Llamas hum when they are tired.\n2,Alpacas hum as well and often.\n")
    assert [(one.id, one.text, dict(one.fields)) for one in found] == [
        ("a.csv#1", "Llamas hum when they are tired.\ncolumn 1: 1", {"column 1": 1}),
        ("a.csv#2", "Alpacas hum as well and often.\ncolumn 1: 2", {"column 1": 2}),
    ]


def test_ids_that_repeat_fall_back_to_the_line() -> None:
    found = documents("a.csv", "k,t\nx,one two three four five\nx,six seven eight nine ten\n", id_field="k")
    assert [one.id for one in found] == ["a.csv#x", "a.csv#3"]


def test_the_sheets_of_a_workbook_are_tables() -> None:
    data = xlsx_bytes(
        [
            ["name", "born", "about"],
            ["Ayla", datetime.datetime(2020, 5, 1), "She leads the herd up the mountain."],
            [None, None, None],
            ["Bo", 2021.0, "He carries the salt back to the valley."],
        ]
    )
    found = documents("a.xlsx", data)
    assert [(one.id, one.title, one.first_line) for one in found] == [
        ("a.xlsx!Herd#2", "Ayla", 2),
        ("a.xlsx!Herd#4", "Bo", 4),
    ]
    assert found[0].text == "She leads the herd up the mountain.\nborn: 2020-05-01"
    assert dict(found[0].fields) == {"sheet": "Herd", "born": "2020-05-01"}
    assert found[1].fields["born"] == 2021
    assert refusal("a.xlsx", data[:-20]) == "its zip data is damaged or cut"


PRODUCTS = [
    ["product", "price", "description"],
    ["Pump", "90", "It lifts the water out of the cellar."],
    ["Valve", "20", ""],
]


@pytest.mark.parametrize("name", ["a.csv", "a.xlsx", "a.ods"])
def test_a_row_without_its_text_is_read_cell_by_cell(name: str) -> None:
    blank = ["", "", ""]
    rows = [*PRODUCTS, blank, blank]
    cells = "<table:table-cell><text:p>{}</text:p></table:table-cell>".format
    sheet = "".join(f"<table:table-row>{''.join(map(cells, row))}</table:table-row>" for row in rows)
    made = {
        "a.csv": "\n".join(map(",".join, rows)).encode(),
        "a.xlsx": xlsx_bytes([[cell or None for cell in row] for row in rows]),
        "a.ods": odf_bytes(
            f'<office:spreadsheet><table:table table:name="Herd">{sheet}</table:table></office:spreadsheet>'
        ),
    }
    pump, valve = documents(name, made[name])
    assert pump.text == "It lifts the water out of the cellar.\nproduct: Pump; price: 90"
    assert (valve.text, valve.first_line) == ("product: Valve; price: 20", 3)
    assert pump.problems == valve.problems == ()


def test_rows_without_text_in_the_columns_that_are_asked_for_are_counted() -> None:
    table = "\n".join(map(",".join, PRODUCTS))
    [pump] = documents("a.csv", table, text_columns=["description"])
    assert pump.problems == ("1 of 2 documents in it holds no text (#3)",)


def test_formulas_that_no_program_has_computed_are_named() -> None:
    rows = [["name", "about", "total"], ["Ayla", "leads the herd up the mountain", "=1+1"], ["Bo", "=1", 2]]
    found = documents("a.xlsx", xlsx_bytes(rows))
    assert found[-1].problems == ("2 formulas without a value; open and save it in a spreadsheet program",)


def rows(name: str, content: str) -> list[tuple[int, list[object]]]:
    return [(one.first_line, list(one.fields.values())) for one in documents(name, content)]


def test_a_quote_that_nothing_ends_swallows_no_rows() -> None:
    table = 'id{0}word{0}n\n1{0}"open{0}x\n2{0}b{0}y\n3{0}c{0}z\n'
    for name, mark in (("a.tsv", "\t"), ("a.csv", ",")):
        assert rows(name, table.format(mark)) == [(2, [1, '"open', "x"]), (3, [2, "b", "y"]), (4, [3, "c", "z"])]
    # It seems to end in another row.
    assert rows("a.tsv", 'id\tword\tn\n1\t"a\tx\n2\tb"\ty\n3\tc\tz\n') == [
        (2, [1, '"a', "x"]), (3, [2, 'b"', "y"]), (4, [3, "c", "z"])
    ]  # fmt: skip
    assert rows("a.csv", 'id,word\n1,"a ""b""\nc, d"\n2,"x" y\n') == [(2, [1, 'a "b"\nc, d']), (4, [2, "x y"])]


def test_years_are_names_of_columns() -> None:
    [france, _] = documents("a.csv", "Country,2019,2020\nFrance,1.5,2\nPeru,3,4\n")
    assert france.text == "Country: France; 2019: 1.5; 2020: 2"
    assert [one.first_line for one in documents("a.csv", "1999,Foo\n2000,Bar\n")] == [1, 2]


def test_a_long_question_is_the_name_of_its_answers() -> None:
    question = "How satisfied are you with the support that you received from our team during the last year?"
    anna, _ = documents("a.csv", f'Name,"{question}"\nAnna,very much and I would come again\nBert,not at all\n')
    assert (anna.title, anna.text) == ("Anna", "very much and I would come again")
    text = "A text of many words that goes on and on until it is longer than any name of a column is."
    assert [one.first_line for one in documents("a.csv", f"{text},x\n{text} More.,y\n")] == [1, 2]


def test_names_that_repeat_are_numbered() -> None:
    [first] = documents("a.csv", "score,score,score 2\nx,y,z\n")
    assert dict(first.fields) == {"score": "x", "score 2": "y", "score 2 2": "z"}
    assert len(documents("a.csv", "yes,yes,no\nyes,no,no\n")) == 2


def test_the_line_with_which_excel_names_its_delimiter_is_not_a_row() -> None:
    [found] = documents("a.csv", "sep=|\nname|text\npump|It moves water, up; and fast\n")
    assert (found.title, found.text, found.first_line) == ("pump", "It moves water, up; and fast", 3)


def test_delimiters_within_quotes_do_not_count() -> None:
    [first, _] = documents("a.csv", '1;"Who, how, and what, when";3\n2;"Yes, no, but, or, and";4\n')
    assert dict(first.fields) == {"column 1": 1, "column 3": 3}


def test_texts_of_scripts_without_spaces_are_texts() -> None:
    crane = "鹤是一种大型涉禽，栖息在沼泽和浅水中，以鱼和昆虫为食。"
    [found] = documents("a.csv", f"title,text,year\n鹤,{crane},2020\n")
    assert (found.title, found.text, dict(found.fields)) == ("鹤", f"{crane}\nyear: 2020", {"year": 2020})
