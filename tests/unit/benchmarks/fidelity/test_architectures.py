"""Every architecture in the table works or is refused in one line, and a few are measured again."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.fidelity import architectures

ROOT = Path(__file__).resolve().parents[4]
RESULTS = json.loads((ROOT / "benchmarks" / "results" / "architectures.json").read_text(encoding="utf-8"))
ROWS = {row["architecture"]: row for row in RESULTS["architectures"]}


@pytest.fixture(scope="module")
def page_maker() -> ModuleType:
    from docs import architectures as module

    return module


def works(row: dict[str, Any]) -> bool:
    return bool(row["verified by llama2vec"] and row["verified by transformers"] and row["difference"] < 1e-5)


def test_every_architecture_works_or_is_refused_in_one_line() -> None:
    assert ROWS.keys() == architectures.KINDS.keys()
    assert len(ROWS) >= 45
    for kind, row in ROWS.items():
        assert "fault" not in row, kind
        assert ("\n" not in row["refused"]) if "refused" in row else works(row), kind
        assert row.get("lora", True), kind


def test_the_page_shows_the_results(page_maker: ModuleType) -> None:
    page = page_maker.PAGE.read_text(encoding="utf-8")
    assert page_maker.with_tables(page, RESULTS) == page
    assert all(f"| `{kind}` |" in page for kind in ROWS)
    changed = {**RESULTS, "architectures": RESULTS["architectures"][1:]}
    assert page_maker.with_tables(page, changed) != page


def test_a_refusal_and_a_fault_are_shown_as_such(page_maker: ModuleType) -> None:
    rows = [
        {"architecture": "one", "group": "dense", "refused": "one: not a causal language model"},
        {"architecture": "two", "group": "dense", "fault": "KeyError: x"},
        {**ROWS["llama"], "architecture": "three", "verified by transformers": False},
    ]
    found = page_maker.tables({"transformers": "5", "architectures": rows})
    assert "| `one` | – | – | – | – | one: not a causal language model |" in found
    assert "| `two` | – | – | – | – | FAULT: KeyError: x |" in found
    assert "| NO, " in found


@pytest.mark.parametrize("kind", ["gemma2", "falcon (ALiBi)", "llama4_text", "qwen3_next"])
def test_a_few_architectures_still_give_what_the_table_says(kind: str, tmp_path: Path) -> None:
    found = architectures.measure(kind, tmp_path)
    assert "fault" not in found, found["fault"]
    assert works(found)
    same = ("group", "attention", "sequences", "lora")
    assert {name: found[name] for name in same} == {name: ROWS[kind][name] for name in same}


def test_a_model_that_cannot_be_used_gives_its_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = architectures.tiny_tokenizer()
    tokenizer.eos_token = None
    monkeypatch.setattr(architectures, "tiny_tokenizer", lambda: tokenizer)
    found = architectures.measure("llama", tmp_path)
    assert "has no EOS token" in found["refused"]
    assert "\n" not in found["refused"]
