"""One row of training data: what it may be called, and every problem in it."""

import json
from pathlib import Path

import pytest
from sample_files import complaint, jsonl, written

from llama2vec.data.examples.labeled import read_examples, scan_examples
from llama2vec.records import TrainingExample


def test_the_names_of_other_tools_mean_the_same(tmp_path: Path) -> None:
    rows = [
        {"query": "q", "pos": ["a"], "neg": ["b"], "pos_id": 1, "neg_ids": ["2"], "prompt": "", "type": "normal"},
        {"anchor": "q", "positive": "a", "negative": "b"},
        {"anchor": "q", "positive": ["a"], "negative_2": "c", "negative_1": "b"},
        {"query": "q", "pos": ["a"], "neg": None},
    ]
    assert list(read_examples(written(tmp_path / "a.jsonl", jsonl(rows)))) == [
        TrainingExample("q", ("a",), ("b",), positive_ids=("1",), negative_ids=("2",)),
        TrainingExample("q", ("a",), ("b",)),
        TrainingExample("q", ("a",), ("b", "c")),
        TrainingExample("q", ("a",)),
    ]


def test_tevatron_rows_keep_ids_and_join_titles(tmp_path: Path) -> None:
    row = {
        "query_id": 7,
        "query": "q",
        "positive_passages": [{"docid": "p", "title": "Llama", "text": "A camelid."}],
        "negative_passages": [{"docid": 3, "text": "A stone."}],
        "answers": ["x"],
    }
    expected = TrainingExample(
        "q", ("Llama A camelid.",), ("A stone.",), query_id="7", positive_ids=("p",), negative_ids=("3",)
    )
    assert list(read_examples(written(tmp_path / "a.jsonl", jsonl([row])))) == [expected]


def test_the_number_0_is_an_id(tmp_path: Path) -> None:
    rows = [
        {"query_id": 0, "query": "q", "positive_passages": [{"docid": 0, "text": "a"}]},
        {"query_id": 0, "query": "q", "pos": ["a"], "pos_ids": [0]},
        {"query_id": 0, "query": "q", "positive": "a", "pos_id": 0},
        {"query_id": "", "query": "q", "pos": ["a"]},
    ]
    found = list(read_examples(written(tmp_path / "a.jsonl", jsonl(rows))))
    assert [(one.query_id, one.positive_ids) for one in found] == [("0", ("0",))] * 3 + [("", ())]


GOOD = {"query": "q", "pos": ["a"], "neg": ["b"]}
TEVATRON = [{"docid": "1", "text": "a"}, {"text": "b"}]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{broken", "is not JSON (Expecting property name"),
        ("[1]", "is a JSON list; write an object"),
        ({"pos": ["a"]}, 'has no "query" (only pos)'),
        ({**GOOD, "query": " "}, "has an empty query"),
        ({**GOOD, "query": 7}, "has the query 7; write a string"),
        ({**GOOD, "query": None}, "has the query None"),
        ({"query": "q"}, 'has no positive; give "pos" at least one text'),
        ({**GOOD, "pos": []}, "has no positive"),
        ({**GOOD, "pos": "abc"}, "has the pos 'abc'; write a list"),
        ({**GOOD, "pos": ["a", 1]}, "has 1 in pos (number 2); write a string"),
        ({**GOOD, "neg": {"a": 1}}, "has the neg {'a': 1}; write a list"),
        ({**GOOD, "pos": [" "]}, 'has an empty text in "pos" (number 1)'),
        ({**GOOD, "neg": ["b", ""]}, 'has an empty text in "neg" (number 2)'),
        ({**GOOD, "neg": ["b", " a\n"]}, "has a negative (' a\\n', number 2) that is also a positive"),
        ({"query": "q", "pos": ["A  Llama"], "neg": ["b", "\x1fa\x1fLLAMA "]}, "number 2) that is also a positive"),
        ({"query": "q", "pos": ["ａ llama"], "neg": ["A llama"]}, "number 1) that is also a positive"),
        ({"query": "q", "pos": ["a llama"], "neg": ["ａ\u00a0llama"]}, "number 1) that is also a positive"),
        ({"query": "q", "pos": ["x" * 99], "neg": ["X" * 98, " " + "X" * 99]}, "number 2) that is also a positive"),
        ({**GOOD, "pos_ids": ["x"], "neg_ids": ["x"]}, "has the id 'x' among its positives and its negatives"),
        ({**GOOD, "pos_ids": ["x", "y"]}, 'has 2 pos_ids for 1 text in "pos"'),
        ({**GOOD, "neg_ids": [" "]}, "has ' ' in neg_ids (number 1); an id is not empty"),
        ({**GOOD, "query_id": [1]}, "has the query_id [1]; write a string"),
        ({**GOOD, "query_id": False}, "has the query_id False; write a string"),
        ({"query": "q", "positive_passages": TEVATRON}, "has no docid in positive_passages (number 2); name every"),
        ({"query": "q", "positive_passages": TEVATRON[:1], "negative_passages": TEVATRON[::-1]}, "(number 1); name"),
        ({**GOOD, "pos_scores": [1, 2]}, 'has 2 pos_scores for 1 text in "pos"; give one each'),
        ({**GOOD, "neg_scores": [1]}, "has neg_scores without pos_scores; give both or neither"),
        ({**GOOD, "pos_scores": [1]}, "has pos_scores without neg_scores; give both or neither"),
        ({**GOOD, "neg_scores": ["1"]}, "has '1' in neg_scores (number 1); write a finite number"),
        ({**GOOD, "neg_scores": [True]}, "has True in neg_scores (number 1); write a finite number"),
        ({**GOOD, "neg_scores": [10**400]}, "in neg_scores (number 1); write a finite number"),
        ('{"query": "q", "pos": ["a"], "pos_scores": [NaN]}', "has [nan] as pos_scores; scores are finite"),
        ('{"query": "q", "pos": ["\\ud83d"]}', "has half a surrogate pair (\\ud83d)"),
        ({**GOOD, "possitive": ["a"]}, "has the unknown field 'possitive'; did you mean 'positive'?"),
        ({**GOOD, "zzz": 1}, "has the unknown field 'zzz'; known here: query, pos, neg"),
        ({**GOOD, "prompt": "Find: "}, "has the prompt 'Find: ', which has no effect here"),
        ({**GOOD, "type": "symmetric_class"}, "has the type 'symmetric_class', which has no effect here"),
        ({**GOOD, "anchor": "q"}, 'has both "query" and "anchor"; keep one'),
        ({"query": "q", "positive_passages": "x"}, "has the positive_passages 'x'; write a list"),
        ({"query": "q", "positive_passages": [{"docid": "1"}]}, "has {'docid': '1'} in positive_passages (number 1)"),
        ({**GOOD, "question": "a"}, "has the unknown field 'question'; did you mean 'query'?"),
        ({**GOOD, "answer": "a"}, "has the unknown field 'answer'; did you mean 'pos'?"),
        ({"query": "q", "positive_passages": [], "negative_pasages": []}, "did you mean 'negative_passages'?"),
    ],
)
def test_a_faulty_row_is_reported_with_its_line(tmp_path: Path, line: object, problem: str) -> None:
    text = line if isinstance(line, str) else json.dumps(line)
    message = complaint(written(tmp_path / "a.jsonl", f"{json.dumps(GOOD)}\n\n{text}\n"))
    assert message.startswith(f"{tmp_path / 'a.jsonl'}:3 ")
    assert problem in message


def test_every_problem_of_a_row_is_found_and_the_scan_goes_on(tmp_path: Path) -> None:
    rows = [{"query": "", "pos": [], "neg": ["", "b"], "pos_scores": [], "neg_scores": [1.0]}, GOOD]
    path = written(tmp_path / "a.jsonl", b"{broken\n" + jsonl(rows).encode())
    unreadable, faulty, good = scan_examples(path)
    assert [problem.kind for problem in unreadable.problems] == ["unreadable"]
    assert [problem.kind for problem in faulty.problems] == [
        "empty query",
        "no positive",
        "empty text",
        "scores",
        "scores",
    ]
    assert {problem.where for problem in faulty.problems} == {f"{path}:2"}
    assert good.example == TrainingExample("q", ("a",), ("b",))
    assert "a.jsonl:1 is not JSON" in complaint(path)
    assert "a.jsonl:1 is not UTF-8 (byte 0xff)" in complaint(written(path, b"\xff\n"))
