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
COUNTS = {"kills": 40, "damages": 60, "invocations": 60, "disk-full": 25}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the cut in a process of its own: it forks, which pytest's threads would disturb."""
    folder = tmp_path_factory.mktemp("attacks")
    counts = [word for kind, count in COUNTS.items() for word in (f"--{kind}", str(count))]
    command = [sys.executable, "-m", "tests.attacks", *counts, "--seed", "13", "--work", folder / "work"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [*command, "--json", folder / "counts.json"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (folder / "counts.json").is_file(), done.stdout + done.stderr
    summary: dict[str, Any] = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
    return summary


@pytest.mark.parametrize("kind", COUNTS)
def test_every_attack_is_withstood(attacked: dict[str, Any], kind: str) -> None:
    assert sum(attacked["counts"][kind].values()) == COUNTS[kind]
    assert [failure for failure in attacked["failures"] if f" {kind}:" in failure["repeat"]] == []
