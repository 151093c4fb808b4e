"""One user's hour: which passages become files, how interrupted encodings add up, and what the table extrapolates."""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def settings(tmp_path: Path) -> argparse.Namespace:
    """Three of four passages have 80 to 160 words; two are asked for."""
    (tmp_path / "wiki").mkdir()
    counts = {"1-000": 100, "1-001": 20, "2-000": 80, "3-000": 160}
    with gzip.open(tmp_path / "wiki" / "train.jsonl.gz", "wt", encoding="utf-8") as lines:
        for name, count in counts.items():
            lines.write(json.dumps({"id": name, "text": " ".join(["word"] * count)}) + "\n")
    (tmp_path / "work").mkdir()
    found = argparse.Namespace(
        work=str(tmp_path / "work"), output=tmp_path / "hour.json", data=str(tmp_path), passages=2
    )
    found.share, found.minutes, found.shard_size, found.model, found.only = 1, 10.0, 64, "tiny", ["before", "after"]
    return found


def test_passages_of_the_right_length_become_files(settings: argparse.Namespace) -> None:
    from benchmarks.speed.hour import Hour

    hour = Hour(settings)
    hour.write_files()
    files = sorted(file.relative_to(hour.files).as_posix() for file in hour.files.rglob("*.txt"))
    assert files == ["1/1-000.txt", "2/2-000.txt"]
    assert hour.corpus == {"source": "wiki/train.jsonl.gz", "files": 2, "words": 90.0}


def test_the_windows_of_an_interrupted_encoding_add_up(
    settings: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.speed.hour import Hour

    answers = iter(
        [(100.0, False), (50.0, True), (3.0, True), (3.0, True), (3.0, True), (9.0, True), (7.0, True), (8.0, True)]
    )
    commands: list[list[str]] = []

    def run(_: Hour, arguments: list[str], *, interrupt: bool = False) -> tuple[float, bool]:
        commands.append(arguments)
        return next(answers)

    monkeypatch.setattr(Hour, "_run", run)
    first = Hour(settings)
    first.write_files()
    first.passages.write_text("a row\nanother row\n", encoding="utf-8")
    first._encode("after")
    assert "seconds" not in first.rows["encode after"]
    again = Hour(settings)
    again._encode("after")
    assert again.rows["encode after"]["seconds"] == 150.0
    assert (again.work / "1.jsonl").read_text(encoding="utf-8") == "a row\n"
    assert [command[0] for command in commands] == ["encode", "encode", *["index"] * 3, *["search"] * 3]
    assert commands[0][commands[0].index("--set") + 1] == "model.compile=auto"
    assert again.rows["search"]["seconds"] == 8.0


def test_a_share_is_multiplied_and_marked_and_a_search_is_not(settings: argparse.Namespace) -> None:
    from benchmarks.speed.hour import table

    rows: dict[str, Any] = {
        "read": {"passages": 20_000, "seconds": 8.0},
        "start": {"passages": 8, "seconds": 10.0},
        "encode after": {"passages": 2_000, "seconds": 90.0},
        "search": {"passages": 2_000, "seconds": 3.21},
    }
    lines = table({"rows": rows, "corpus": {"files": 20_000}}).splitlines()
    assert lines[2:] == [
        "| `read`: files read and split | 20,000 | 8.0 | 8.0 s |",
        "| `encode` of 8 passages: the start of program and model, part of the next two | 8 | 10.0 | 10.0 s |",
        "| `encode`, as shipped (`auto`) | 2,000 | 90.0 | 13.5 minutes, extrapolated |",
        "| `search`: from the shell to the first hybrid answer | 2,000 | 3.2 | 3.2 s |",
    ]


def test_rows_of_another_model_are_not_completed(settings: argparse.Namespace) -> None:
    from benchmarks.speed.hour import Hour

    Hour(settings).save()
    settings.model = "large"
    with pytest.raises(SystemExit, match=r"hour\.json is of the model tiny; choose another --output"):
        Hour(settings)
