"""A seeded cut of ``python -m tests.attacks``: kills, damaged files, bad invocations and full disks on every verb."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CUT = {"kills": 20, "damages": 50, "invocations": 60, "disk-full": 10}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the cut in a process of its own: it forks, which pytest's threads would disturb."""
    folder = tmp_path_factory.mktemp("attacks")
    command = [sys.executable, "-m", "tests.attacks", "--seed", "13", "--work", str(folder / "work")]
    command += [word for kind, count in CUT.items() for word in (f"--{kind}", str(count))]
    command += ["--json", str(folder / "counts.json")]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (folder / "counts.json").is_file(), ended.stdout + ended.stderr
    return json.loads((folder / "counts.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("kind", "count"), CUT.items())
def test_every_attack_is_withstood(attacked: dict[str, Any], kind: str, count: int) -> None:
    assert sum(attacked["counts"][kind].values()) == count
    assert [failure for failure in attacked["failures"] if f" {kind}:" in failure["repeat"]] == []
