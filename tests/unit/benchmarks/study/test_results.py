"""The results file: cells add up over machines, nothing is ever replaced, and what has not run is missing."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.study.cells import Arm, Cell, adapted, raw_mean
from benchmarks.study.command import main
from benchmarks.study.protocol import Protocol
from benchmarks.study.results import Results, add, merged, missing_sets, no_results, read_results, state, wanted_sets
from llama2vec.errors import DataError, EvaluationError

Make = Callable[..., Results]
BOTH = Arm("both", steps=2)


def test_what_is_added_is_read_back_with_a_line_for_each_score(made_results: Make, tmp_path: Path) -> None:
    results = made_results({(BOTH, 0): {"one": [1.0, 0.25], "two": [0.0]}, (raw_mean(), 0): {"one": [0.5, 0.5]}})
    path = tmp_path / "folder" / "study.json"
    add(path, results)
    assert read_results(path) == results
    lines = path.read_text(encoding="utf-8").splitlines()
    assert sum('"values"' in line for line in lines) == 3
    assert list(path.parent.iterdir()) == [path]
    before = path.read_bytes()
    add(path, results)
    assert path.read_bytes() == before


def test_runs_of_two_machines_add_up_in_either_order(made_results: Make) -> None:
    first = made_results({(BOTH, 0): {"one": [1.0, 0.25]}})
    first["cells"]["toy"][Cell(BOTH).key]["training"] = {"adapt": {"seconds": 1}}
    second = made_results({(BOTH, 0): {"two": [0.5]}, (BOTH, 1): {"one": [0.0, 0.0]}})
    third = made_results({(BOTH, 0): {"one": [0.5]}}, budget="gpu")
    found = merged(merged(first, second), third)
    assert found == merged(third, merged(second, first))
    assert found["cells"]["toy"][Cell(BOTH).key]["scores"].keys() == {"one", "two"}
    assert found["cells"]["toy"][Cell(BOTH).key]["training"] == {"adapt": {"seconds": 1}}
    assert len(found["cells"]["toy"]) == 2
    # Another budget's cell of the same name stands by itself.
    assert found["cells"]["gpu"][Cell(BOTH).key]["scores"]["one"]["values"] == [0.5]


def test_one_cell_with_two_scores_is_refused_and_the_file_left_alone(made_results: Make, tmp_path: Path) -> None:
    path, other = tmp_path / "here.json", tmp_path / "other.json"
    add(path, made_results({(BOTH, 0): {"one": [1.0, 0.25]}}))
    add(other, made_results({(BOTH, 0): {"one": [1.0, 0.5]}, (BOTH, 1): {"one": [1.0, 1.0]}}))
    before = path.read_bytes()
    with pytest.raises(EvaluationError, match=r"toy: adaptation=both .*: one has the score 0.6250 there and 0.7500"):
        add(path, read_results(other))
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["--output", str(path), "--merge", str(other)])
    assert path.read_bytes() == before
    same = made_results({(BOTH, 0): {"one": [1.0, 0.25]}})
    same["cells"]["toy"][Cell(BOTH).key]["scores"]["one"]["seconds"] = 99
    add(path, same)
    assert path.read_bytes() == before


def test_other_settings_data_or_samples_are_not_mixed_into_a_budget(toy: Protocol, made_results: Make) -> None:
    first = made_results({(BOTH, 0): {"one": [1.0, 0.25]}})
    first["budgets"], first["inputs"] = {"toy": toy.frozen()}, {"toy": {"text.jsonl": "a"}}
    for part, change, message in (
        (
            "budgets",
            lambda data: data["sets"].update(max_tokens=64),
            r"setting sets.max_tokens is 32 there and 64 here",
        ),
        ("inputs", lambda data: data.update({"text.jsonl": "b"}), r"the data text.jsonl is 'a' there and 'b' here"),
        ("sets", lambda data: data["one"].update(fingerprint="g"), r"the sample one.fingerprint is 'f' there"),
    ):
        second = copy.deepcopy(first)
        change(second[part]["toy"])
        with pytest.raises(EvaluationError, match=message):
            merged(first, second)
    without_a_setting = copy.deepcopy(first)
    del without_a_setting["budgets"]["toy"]["model"]
    with pytest.raises(EvaluationError, match="the setting model"):
        merged(first, without_a_setting)


def test_processes_that_write_at_once_lose_nothing(made_results: Make, tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    writers = [
        threading.Thread(target=add, args=(path, made_results({(BOTH, seed): {"one": [seed / 10, 0.5]}})))
        for seed in range(6)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(read_results(path)["cells"]["toy"]) == 6


def test_a_cell_is_done_when_every_set_is_there_and_sentence_pairs_are_for_the_first_stage(
    toy: Protocol, made_results: Make
) -> None:
    both = Cell(adapted(toy, "both"))
    assert wanted_sets(toy, both) == ["one", "two", "pairs.tsv"]
    assert wanted_sets(toy, Cell(Arm("bm25"))) == ["one", "two"]
    assert wanted_sets(toy, Cell(Arm("minilm"))) == ["one", "two", "pairs.tsv"]
    assert wanted_sets(toy, Cell(Arm("both", steps=2, stage="labels", pairs=8))) == ["one", "two"]
    assert state(no_results(), toy, both) == "missing"
    part = made_results({(both.arm, 0): {"two": [1.0]}})
    assert state(part, toy, both) == "1 of 3"
    assert missing_sets(part, toy, both) == ["one", "pairs.tsv"]
    assert state(made_results({(both.arm, 0): {"one": [1.0], "two": [1.0], "pairs.tsv": [1.0]}}), toy, both) == "done"


@pytest.mark.parametrize("content", ["{", "[]", '{"arms": {}}', '{"format": 2}'])
def test_a_file_of_something_else_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"study\.json"):
        read_results(path)
    with pytest.raises(DataError):
        add(path, no_results())
    assert path.read_text(encoding="utf-8") == content


def test_a_cell_that_was_renamed_by_hand_is_refused(made_results: Make, tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    add(path, made_results({(BOTH, 0): {"one": [1.0, 0.25]}}))
    data = json.loads(path.read_text(encoding="utf-8"))
    (record,) = data["cells"]["toy"].values()
    data["cells"]["toy"] = {"both, seed 0": record}
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["--output", str(path), "--tables", str(tmp_path / "study.md")])
    assert not (tmp_path / "study.md").exists()
