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
CUTS = ({"kills": 20, "disk-full": 10}, {"damages": 50, "invocations": 60})
"""Two processes of about the same length, for two processors."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Run the cut in processes of its own: they fork, which pytest's threads would disturb."""
    started = []
    for number, counts in enumerate(CUTS):
        folder = tmp_path_factory.mktemp(f"attacks{number}")
        command = [sys.executable, "-m", "tests.attacks", "--seed", "13", "--work", str(folder / "work")]
        command += [word for kind, count in counts.items() for word in (f"--{kind}", str(count))]
        command += ["--json", str(folder / "counts.json")]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        output = (folder / "output").open("w", encoding="utf-8")
        with output:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        started.append((folder, process))
    summaries = []
    for folder, process in started:
        process.wait()
        assert (folder / "counts.json").is_file(), (folder / "output").read_text(encoding="utf-8")
        summaries.append(json.loads((folder / "counts.json").read_text(encoding="utf-8")))
    return summaries


@pytest.mark.parametrize(("kind", "count"), [one for cut in CUTS for one in cut.items()])
def test_every_attack_is_withstood(attacked: list[dict[str, Any]], kind: str, count: int) -> None:
    assert sum(sum(summary["counts"][kind].values()) for summary in attacked) == count
    failures = [failure for summary in attacked for failure in summary["failures"]]
    assert [failure for failure in failures if f" {kind}:" in failure["repeat"]] == []
