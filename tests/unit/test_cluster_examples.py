"""examples/cluster: the files parse, and their commands have the options that they name."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main

from llama2vec.cli import app

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "cluster"
CONSTRAINTS = EXAMPLES.parent.parent / "constraints.txt"


def kuberay() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    (job,) = yaml.safe_load_all((EXAMPLES / "kuberay.yaml").read_text(encoding="utf-8"))
    assert isinstance(job, dict)
    return job


def slurm_command() -> str:
    script = re.sub(r"\\\n\s*", "", (EXAMPLES / "ray.slurm").read_text(encoding="utf-8"))
    (command,) = [line for line in script.splitlines() if line.startswith("llama2vec ")]
    return command


def test_the_slurm_script_is_bash_and_asks_for_what_it_uses() -> None:
    script = EXAMPLES / "ray.slurm"
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    text = script.read_text(encoding="utf-8")
    gpus = re.search(r"#SBATCH --gpus-per-node=(\d+)", text)
    assert gpus is not None
    assert set(re.findall(r"--num-gpus=(\d+)", text)) == {gpus[1]}
    assert f"SLURM_JOB_NUM_NODES * {gpus[1]}" in slurm_command()


def test_the_ray_job_has_a_worker_for_every_gpu_and_the_pinned_ray() -> None:
    job = kuberay()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert f"ray=={cluster['rayVersion']}" in CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    (group,) = cluster["workerGroupSpecs"]
    assert f"--workers {group['maxReplicas']}" in job["spec"]["entrypoint"]
    for spec in (cluster["headGroupSpec"], group):
        pod = spec["template"]["spec"]
        mounted = {mount["name"] for one in pod["containers"] for mount in one["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("read", [slurm_command, lambda: kuberay()["spec"]["entrypoint"]], ids=["slurm", "kuberay"])
def test_the_commands_have_the_options_that_they_name(read: Any) -> None:
    program, verb, *words = shlex.split(re.sub(r"\$\(\(.*?\)\)", "1", read()))
    assert program == "llama2vec"
    group: Any = typer.main.get_command(app)
    known = {name for parameter in group.get_command(None, verb).params for name in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known
