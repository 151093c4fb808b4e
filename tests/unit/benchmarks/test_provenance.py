"""What a results file says of where its numbers come from."""

from __future__ import annotations

import sys

import pytest


def test_facts_are_the_machines_and_a_command_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    from provenance import made_by

    monkeypatch.setattr(sys, "argv", ["benchmarks/speed.py", "--only", "a b"])
    found = made_by(["numpy", "not-installed"], threads=2)
    assert list(found) == ["machine", "versions", "code", "command"]
    assert found["machine"]["threads"] == 2
    assert "numpy" in found["versions"]
    assert "not-installed" not in found["versions"]
    assert found["command"] == "benchmarks/speed.py --only 'a b'"


def test_cells_that_several_commands_have_scored_are_of_one_maker(monkeypatch: pytest.MonkeyPatch) -> None:
    from study.results import maker

    one = maker("cpu")
    monkeypatch.setattr(sys, "argv", ["another"])
    assert maker("cpu") == one
    assert list(one[1]) == ["machine", "versions", "code"]
    assert maker("cuda")[0] != one[0]
