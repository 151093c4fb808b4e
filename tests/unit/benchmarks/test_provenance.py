"""What a results file says of where its numbers come from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def test_facts_are_the_machines() -> None:
    from benchmarks.provenance import made_by

    found = made_by(["numpy", "not-installed"], threads=2)
    assert list(found) == ["machine", "versions", "code", "command"]
    assert found["machine"]["threads"] == 2
    assert "numpy" in found["versions"]
    assert "not-installed" not in found["versions"]


@pytest.mark.parametrize(
    ("started", "written"),
    [
        (["-m", "scripts.room.one"], "python -m scripts.room.one --only 'a b'"),
        (["-m", "scripts.room"], "python -m scripts.room --only 'a b'"),
        (["scripts/room/one.py"], "one.py --only 'a b'"),
    ],
)
def test_the_command_of_a_process_can_be_pasted_on_another_machine(
    started: list[str], written: str, tmp_path: Path
) -> None:
    room = tmp_path / "scripts" / "room"
    room.mkdir(parents=True)
    for name in ("one.py", "__main__.py"):
        (room / name).write_text("from benchmarks.provenance import command\nprint(command())\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, *started, "--only", "a b"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == written


def test_the_command_holds_no_path_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from benchmarks.provenance import command

    output, data = ROOT / "benchmarks" / "results" / "one.json", ROOT.parent / "shared" / "data"
    given = ["--output", str(output), f"--data={data}", "--work", str(tmp_path / "work"), "--set", "a=/b", "x/y"]
    monkeypatch.setattr(sys, "argv", ["name", *given])
    assert command().endswith(" --output benchmarks/results/one.json --data=../shared/data --work work --set a=/b x/y")


def test_cells_that_several_commands_have_scored_are_of_one_maker(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.study.results import maker

    one = maker("cpu")
    monkeypatch.setattr(sys, "argv", ["another"])
    assert maker("cpu") == one
    assert list(one[1]) == ["machine", "versions", "code"]
    assert maker("cuda")[0] != one[0]
