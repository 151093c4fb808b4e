"""JSON and JSON lines: text, id and title fields; faulty lines are named; other JSON is read as text."""

from __future__ import annotations

import json

from reading import documents, only_document, refusal

ROWS = [
    {"id": 7, "title": "Llama", "body": "A camelid.", "year": 2020, "tags": ["a", "b"], "deep": {"x": 1}},
    {"id": "x y", "body": "Another."},
]


def lines(rows: list[dict[str, object]]) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def test_fields_of_the_usual_names_are_found() -> None:
    first, second = documents("a.jsonl", lines(ROWS))
    assert (first.id, first.title, first.text) == ("a.jsonl#7", "Llama", "A camelid.")
    assert (first.lines, first.first_line, dict(first.fields)) == ("row", 1, {"year": 2020, "tags": "a, b"})
    assert (second.id, second.first_line) == ("a.jsonl#x y", 2)


def test_settings_name_the_fields() -> None:
    rows = [{"k": "1", "head": "H", "text": "short", "long": "the text"}]
    found = only_document("a.jsonl", lines(rows), text_field="long", id_field="k", title_field="head")
    assert (found.id, found.title, found.text, dict(found.fields)) == ("a.jsonl#1", "H", "the text", {"text": "short"})
    assert refusal("a.jsonl", lines(rows), text_field="gone") == (
        "1 row has no gone; name the field that holds it (text_field)"
    )


def test_the_longest_text_is_taken_where_no_name_is_known() -> None:
    assert only_document("a.jsonl", lines([{"a": "x", "b": "longer", "c": 1}])).text == "longer"


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
    assert only_document("a.json", '{"text": "One article.", "id": 1}').text == "One article."


def test_another_json_file_is_read_as_text_with_its_lines() -> None:
    text = '{"name": "llama",\n "scripts": {"hum": "hum --loud"}}'
    document = only_document("package.json", text)
    assert (document.id, document.text, document.lines) == ("package.json", text, "file")
    assert only_document("a.json", "{cut").text == "{cut"


def test_half_surrogates_and_repeated_ids_do_no_harm() -> None:
    found = documents("a.jsonl", '{"id": 1, "text": "x \\ud83d", "k\\ud83d": "\\ud83d"}\n{"id": 1, "text": "y"}')
    assert [(one.id, one.text) for one in found] == [("a.jsonl#1", "x ?"), ("a.jsonl#1@2", "y")]
    assert dict(found[0].fields) == {"k?": "?"}
