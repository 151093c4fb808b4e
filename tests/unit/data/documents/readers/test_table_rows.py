"""Which row names the columns of a table, what stands above it, and the values of its columns."""

from __future__ import annotations

import pytest
from made_files import xlsx_bytes
from reading import documents

BANK = """\
"Kontonummer:";"DE12 3456 / Girokonto";

"Von:";"01.01.2024";
"Kontostand vom 31.01.2024:";"1.234,56 EUR";

"Buchungstag";"Verwendungszweck";"Betrag (EUR)";"IBAN"
"02.01.2024";"Miete";"-700,00";"DE11"
"03.01.2024";"Brot";"-3,50";""
"""
TITLES = [
    "Sales report\nproduct,price\nPump,90\nValve,20\n",
    "Sales report\n\nproduct,color\nPump,red\nValve,green\n",
    "Sales report,\nproduct,price\nPump,90\nValve,20\n",
    "Sales report\nproduct,color\nPump,red\nValve,green\n",
    "Sales report,,\nproduct,color,size\nPump,red,big\nValve,green,small\n",
    "Sales report,,\nQuarter,2,\nproduct,price,color\nPump,90,red\nValve,20,green\n",
    "Sales, March and April\n\nproduct;price\nPump;90\nValve;20\n",
]


def test_the_lines_above_the_table_of_a_bank_are_a_document_of_their_own() -> None:
    above, rent, bread = documents("a.csv", BANK)
    assert (above.id, above.lines, above.first_line, dict(above.fields)) == ("a.csv#1", "row", 1, {})
    assert above.text.splitlines() == [
        "Kontonummer: DE12 3456 / Girokonto", "Von: 01.01.2024", "Kontostand vom 31.01.2024: 1.234,56 EUR",
    ]  # fmt: skip
    assert rent.id == "a.csv#7"
    assert rent.text == "Buchungstag: 02.01.2024; Verwendungszweck: Miete; Betrag (EUR): -700,00; IBAN: DE11"
    assert bread.fields["Betrag (EUR)"] == "-3,50"


@pytest.mark.parametrize("content", TITLES)
def test_a_title_names_no_column(content: str) -> None:
    above, pump, valve = documents("a.csv", content)
    assert above.text.count("\n") == content.count("\n", 0, content.index("product")) - 1 - content.count("\n\n")
    assert above.text.startswith("Sales")
    assert set(pump.fields) >= {"product"}
    assert valve.fields["product"] == "Valve"
    assert not any(name.startswith(("Sales", "column")) for name in valve.fields)


def test_a_title_above_the_table_of_a_sheet_names_no_column() -> None:
    rows = [["Sales 2024"], [], ["product", "price"], ["Pump", 90], ["Valve", 20]]
    above, pump, _ = documents("a.xlsx", xlsx_bytes(rows))
    assert (above.id, above.text, dict(above.fields)) == ("a.xlsx!Herd#1", "Sales 2024", {"sheet": "Herd"})
    assert dict(pump.fields) == {"sheet": "Herd", "product": "Pump", "price": 90}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a,b\nx,y\nz,w\n", ["a", "b"]),
        (",name,color\n1,Ayla,white\n2,Bo,brown\n", ["column 1", "name", "color"]),  # The numbers of pandas
        (",name,color\nx,Ayla,white\ny,Bo,brown\n", ["column 1", "name", "color"]),
        ("name,,\nAyla,white,12\nBo,brown,13\n", ["column 1", "column 2", "column 3"]),
        ("name,\nAyla,white\nBo,brown\n", ["name", "column 2"]),
        ("name,color\nAyla\nBo,brown\n", ["name", "color"]),
        ("name,color\nAyla,white,and,more\nBo,brown\n", ["name", "color"]),
        ("1,Foo\n2,Bar\n3,Baz\n", ["column 1", "column 2"]),
        ("note\nfirst\nsecond\n", ["note"]),
        ("Fruits\napple,red\npear,green\nVegetables\nleek,white\n", ["Fruits", "column 2"]),
    ],
)  # fmt: skip
def test_a_table_without_lines_above_it_is_read_from_its_first_row(content: str, expected: list[str]) -> None:
    found = documents("a.csv", content)
    assert {one.first_line for one in found} >= {2, 3}
    texts = " ".join([one.text for one in found] + [key for one in found for key in one.fields])
    assert [name for name in expected if name not in texts] == []
    assert (found[0].first_line == 1) == (expected[0] == "column 1" and expected[-1].startswith("column"))


def test_a_short_first_answer_is_no_name_of_the_others() -> None:
    answers = ["Yes", "Yes.", "A hum"]
    for first in answers:
        table = f'question,\nDo they hum?,{first}\nDo they spit?,"Rarely at people, often at others."\n'
        assert [one.first_line for one in documents("a.csv", table)] == [2, 3]


def test_a_column_of_the_name_of_a_field_of_all_rows_takes_its_place() -> None:
    found = documents("a.xlsx", xlsx_bytes([["Sheet", "n"], ["front", 1], ["back", 2]]))
    assert dict(found[0].fields) == {"Sheet": "front", "n": 1}


def test_columns_hold_numbers_truth_values_or_text() -> None:
    table = "commit,version,price,phone,active\n1234e56,1.10,12.50,+49 40,TRUE\nabcdef1,1.9,3.00,+43,FALSE\n"
    first, _ = documents("a.csv", table)
    assert dict(first.fields) == {
        "commit": "1234e56", "version": "1.10", "price": 12.5, "phone": "+49 40", "active": True
    }  # fmt: skip


def test_a_title_does_not_let_a_quote_swallow_rows() -> None:
    found = documents("a.csv", 'Words\n\nid,word,n\n1,"open,x\n2,b,y\n3,c,z\n')
    assert [one.first_line for one in found] == [1, 4, 5, 6]
