"""Examples and the report beside them appear together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama2vec.artifact import claim, new_path
from llama2vec.data.examples.labeled import read_examples
from llama2vec.data.examples.reported import check_reported, finish_reported, report_path, reported_kind, settle_report
from llama2vec.errors import ConfigError, OutputExistsError
from llama2vec.files import file_sha256
from llama2vec.records import TrainingExample

KIND = reported_kind("a file of made examples")
EXAMPLES = [TrainingExample("q", ("a",)), TrainingExample("r", ("b",))]
MANIFEST = {"stage": "make", "settings": {"n": 1}, "inputs": {}}


def made(output: Path) -> None:
    with claim(output, KIND, {"settings": {"n": 1}, "inputs": {}}) as work:
        if not work.is_finished:
            finish_reported(work, EXAMPLES, MANIFEST)


def test_the_report_says_what_made_which_bytes(tmp_path: Path) -> None:
    made(tmp_path / "a.jsonl")
    report = json.loads(report_path(tmp_path / "a.jsonl").read_text())
    assert report == {
        **MANIFEST,
        "output": {"bytes": (tmp_path / "a.jsonl").stat().st_size, "sha256": file_sha256(tmp_path / "a.jsonl")},
    }
    assert list(read_examples(str(tmp_path / "a.jsonl"))) == EXAMPLES
    before = (tmp_path / "a.jsonl").stat().st_mtime_ns
    made(tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").stat().st_mtime_ns == before
    with (
        pytest.raises(OutputExistsError, match="settings"),
        claim(tmp_path / "a.jsonl", KIND, {"settings": {"n": 2}, "inputs": {}}),
    ):
        pass


def test_a_failure_leaves_neither(tmp_path: Path) -> None:
    def broken() -> Iterator[TrainingExample]:
        yield EXAMPLES[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), claim(tmp_path / "a.jsonl", KIND, {}) as work:
        finish_reported(work, broken(), MANIFEST)
    assert list(tmp_path.iterdir()) == []


def test_a_report_of_other_bytes_is_swept_and_the_right_one_put_in_place(tmp_path: Path) -> None:
    made(tmp_path / "a.jsonl")
    report, waiting = report_path(tmp_path / "a.jsonl"), new_path(report_path(tmp_path / "a.jsonl"))
    report.rename(waiting)
    settle_report(tmp_path / "a.jsonl")
    assert (report.exists(), waiting.exists()) == (True, False)
    waiting.write_text(json.dumps({"output": {"sha256": "another"}}))
    settle_report(tmp_path / "a.jsonl")
    assert (report.exists(), waiting.exists()) == (True, False)


def test_what_is_not_such_a_file_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.jsonl or \.jsonl\.gz"):
        check_reported(tmp_path / "a.txt", "make")
    report_path(tmp_path / "a.jsonl").write_text('{"stage": "thesis"}')
    with pytest.raises(OutputExistsError, match="did not come from `llama2vec make`"):
        check_reported(tmp_path / "a.jsonl", "make")
