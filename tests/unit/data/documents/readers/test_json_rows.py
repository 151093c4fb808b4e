"""JSON and JSON lines: text, id and title fields; faulty lines are named; other JSON is read as text."""

from __future__ import annotations

import json

import pytest
from reading import documents, only_document, refusal

ROWS = [
    {"id": 7, "title": "Llama", "body": "A camelid.", "year": 2020, "tags": ["a", "b"], "deep": {"x": 1}},
    {"id": "x y", "body": "Another."},
]


def lines(rows: list[dict[str, object]]) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def test_fields_of_the_usual_names_are_found() -> None:
    first, second = documents("a.jsonl", lines(ROWS))
    assert (first.id, first.title) == ("a.jsonl#7", "Llama")
    assert first.text == "A camelid.\nid: 7; year: 2020; tags: a, b"
    assert (first.lines, first.first_line, dict(first.fields)) == ("row", 1, {"year": 2020, "tags": "a, b"})
    assert (second.id, second.first_line) == ("a.jsonl#x y", 2)


def test_settings_name_the_fields() -> None:
    rows = [{"k": "1", "head": "H", "text": "short", "long": "the text"}]
    found = only_document("a.jsonl", lines(rows), text_field="long", id_field="k", title_field="head")
    assert (found.id, found.title, found.text, dict(found.fields)) == ("a.jsonl#1", "H", "the text", {"text": "short"})
    assert refusal("a.jsonl", lines(rows), text_field="gone") == (
        "1 row has no gone; name the field that holds it (text_field)"
    )


def test_what_the_title_or_the_text_says_already_is_not_repeated() -> None:
    row = {"title": "Pump 9", "name": "Pump 9", "text": "It leaks.", "note": "It leaks.", "customer": "Müller", "x": ""}
    assert only_document("a.jsonl", lines([row])).text == "It leaks.\ncustomer: Müller"


def test_a_text_that_the_settings_name_stays_alone() -> None:
    row = {"title": "Pump", "text": "It leaks.", "customer": "Müller"}
    found = only_document("a.json", json.dumps([row]), text_field="text")
    assert (found.text, dict(found.fields)) == ("It leaks.", {"customer": "Müller"})


def test_the_longest_text_is_taken_where_no_name_is_known() -> None:
    assert only_document("a.jsonl", lines([{"a": "x", "b": "longer", "c": 1}])).text == "longer\na: x; c: 1"


def test_faulty_lines_are_named_and_the_others_read() -> None:
    found = documents("a.jsonl", lines(ROWS) + "\n{\n\n[1]\n")
    assert [one.id for one in found] == ["a.jsonl#7", "a.jsonl#x y"]
    assert found[-1].problems == ("2 lines are not JSON objects (line 3, 5)",)


def test_one_faulty_line_is_named_in_the_singular() -> None:
    found = documents("a.jsonl", b'{"text": "A"}\n[]\n{"text": "B"}\n')
    assert [one.text for one in found] == ["A", "B"]
    assert found[-1].problems == ("1 line is not a JSON object (line 2)",)


def test_a_json_file_of_objects_is_a_row_each() -> None:
    found = documents("a.json", json.dumps({"count": 2, "items": ROWS}, indent=1))
    assert [(one.id, one.lines) for one in found] == [("a.json#7", "none"), ("a.json#x y", "none")]
    assert [one.id for one in documents("a.json", json.dumps(ROWS))] == ["a.json#7", "a.json#x y"]
    assert only_document("a.json", '{"text": "One article.", "id": 1}').text == "One article.\nid: 1"


def test_another_json_file_is_read_as_text_with_its_lines() -> None:
    text = '{"name": "llama",\n "scripts": {"hum": "hum --loud"}}'
    document = only_document("package.json", text)
    assert (document.id, document.text, document.lines) == ("package.json", text, "file")
    assert only_document("a.json", "{cut").text == "{cut"


def test_half_surrogates_and_repeated_ids_do_no_harm() -> None:
    found = documents("a.jsonl", '{"id": 1, "text": "x \\ud83d", "k\\ud83d": "\\ud83d"}\n{"id": 1, "text": "y"}')
    assert [(one.id, one.text) for one in found] == [
        ("a.jsonl#1", "x ?\nid: 1; k?: ?"), ("a.jsonl#1@2", "y\nid: 1"),
    ]  # fmt: skip
    assert dict(found[0].fields) == {"k?": "?"}


OPENAPI = {
    "info": {"title": "Pumps", "description": "Opens and closes the valves of a pump."},
    "servers": [{"url": "https://pumps.example", "description": "production"}],
    "paths": {"/valves": {"get": {"summary": "List the valves."}}},
}


@pytest.mark.parametrize(
    "value",
    [
        OPENAPI,
        {"train": [{"text": "A"}, {"text": "B"}], "test": [{"text": "C"}]},
        {"text": "An article.", "chapters": [{"text": "One"}], "notes": [{"text": "Two"}]},
    ],
)
def test_an_object_with_several_nested_values_is_read_as_text(value: dict[str, object]) -> None:
    document = only_document("openapi.json", json.dumps(value))
    assert (document.id, document.text, document.problems) == ("openapi.json", json.dumps(value), ())


def test_a_list_that_holds_most_of_an_object_gives_its_rows_and_the_rest_is_named() -> None:
    value = {"meta": {"page": 1}, "data": [{"id": "a", "text": "One."}, {"id": "b", "text": "Two."}]}
    found = documents("a.json", json.dumps(value))
    assert [(one.id, one.text) for one in found] == [("a.json#a", "One.\nid: a"), ("a.json#b", "Two.\nid: b")]
    assert found[-1].problems == ("1 nested value left out (meta)",)
    [named] = documents("a.json", json.dumps(OPENAPI), text_field="description")
    assert (named.text, named.problems) == ("production", ("2 nested values left out (info, paths)",))


def test_features_on_lines_of_their_own_are_rows() -> None:
    rows: list[dict[str, object]] = [{"id": "a", "text": "One."}, {"id": "b", "text": "Two."}]
    assert [one.id for one in documents("a.geojson", lines(rows))] == ["a.geojson#a", "a.geojson#b"]


def test_a_text_next_to_the_only_list_of_a_file_is_a_row_of_its_own() -> None:
    about = "All the pumps that the works still sell."
    file = json.dumps({"version": 2, "about": about, "data": [{"text": "A"}]})
    assert [(one.id, one.text) for one in documents("a.json", file)] == [
        ("a.json#1", "A"), ("a.json#2", f"{about}\nversion: 2"),
    ]  # fmt: skip
    article = json.dumps({"text": "Short.", "comments": [{"text": "A"}]})
    assert [one.text for one in documents("a.json", article)] == ["A", "Short."]
    # Whoever names the field of the text has no other one in mind.
    [named] = documents("a.json", json.dumps({"about": about, "data": [{"body": "A"}]}), text_field="body")
    assert (named.text, named.problems) == ("A", ())


def test_what_an_article_holds_besides_texts_and_numbers_is_named() -> None:
    document = only_document("a.json", '{"text": "A.", "tags": ["x"], "meta": {"by": "B"}, "spans": [[1, 2]]}')
    assert (document.text, dict(document.fields)) == ("A.\ntags: x", {"tags": "x"})
    assert document.problems == ("2 nested values left out (meta, spans)",)


@pytest.mark.parametrize("name", ["a.json", "a.geojson", "a.jsonl"])
def test_a_row_of_which_more_is_nested_than_its_longest_text_is_text_as_a_whole(name: str) -> None:
    row = {"title": "Llama", "paragraphs": [{"context": "Llamas hum when they are tired."}]}
    whole = json.dumps(row)
    file = whole if name == "a.jsonl" else json.dumps({"type": "FeatureCollection", "features": [row]}, indent=1)
    document = only_document(name, file)
    assert (document.id, document.title, document.text) == (f"{name}#1", "Llama", whole)
    longer = {"page": "A text that is longer than what is nested in its row.", "meta": {"by": "B"}}
    assert only_document("a.jsonl", json.dumps(longer)).text == longer["page"]


def test_rows_without_text_are_counted_and_named() -> None:
    rows: list[dict[str, object]] = [{"id": "a", "text": "A"}, {"id": "b", "text": ""}, {"id": "c", "text": " "}]
    [found] = documents("a.jsonl", lines(rows), text_field="text")
    assert (found.id, found.problems) == ("a.jsonl#a", ("2 of 3 documents in it hold no text (#b, #c)",))
    [found] = documents("a.jsonl", lines([{"text": "A"}, {"text": 1}]))
    assert found.problems == ("1 row has no text; name the field that holds it (text_field)",)


def test_escapes_in_a_file_read_as_text_become_letters_and_lines_stay() -> None:
    text = '{"a": {"b": "Gr\\u00f6\\u00dfe \\ud83d\\ude00",\n "c": "x\\u000ay C:\\\\\\\\users \\\\u00fc"}}'
    document = only_document("a.json", text)
    assert document.text == '{"a": {"b": "Größe 😀",\n "c": "x\\u000ay C:\\\\\\\\users \\\\u00fc"}}'
    assert only_document("a.json", '{cut "\\u00fc').text == '{cut "ü'


def test_a_number_beyond_all_floats_stays_as_it_is_written_and_a_missing_one_is_left_out() -> None:
    document = only_document("a.jsonl", '{"text": "x", "a": 1e999, "b": 1.5, "c": NaN, "d": Infinity}')
    assert dict(document.fields) == {"a": "1e999", "b": 1.5}
