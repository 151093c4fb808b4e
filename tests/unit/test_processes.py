"""Several processes that train one model; here two that exchange over gloo, and one alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llama2vec.errors import ConfigError
from llama2vec.processes import (
    average_gradients,
    check_same,
    connect,
    first_fault,
    from_all,
    gather_rows,
    largest_everywhere,
    launched_processes,
    on_first_process,
    process_count,
    process_rank,
    sum_everywhere,
    wait_for_all,
)
from llama2vec.terminal import is_first_process

TWO = """
import os, sys
import torch, torch.distributed as dist
from llama2vec.errors import ConfigError, TrainingError
from llama2vec.processes import *

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
wait_for_all()
rows = torch.arange(2.0 * (rank + 1)).reshape(rank + 1, 2) + 10 * rank
assert [part.tolist() for part in gather_rows(rows)] == [[[0.0, 1.0]], [[10.0, 11.0], [12.0, 13.0]]]
assert sum_everywhere(torch.tensor([rank + 1.0])).item() == 3
weight = torch.zeros(2, requires_grad=True)
weight.grad = torch.tensor([rank, 4.0 * rank])
average_gradients([weight, torch.zeros(1)])
assert weight.grad.tolist() == [0.5, 2.0]
calls = []
assert on_first_process(lambda: calls.append(rank) or "made") == "made"
assert calls == ([0] if rank == 0 else [])


def fail():
    raise ConfigError("no corpus; name one")


for work, error, words in (
    (lambda: on_first_process(fail), ConfigError, "no corpus; name one"),
    (lambda: check_same("digest of %d" % rank, "recipe"), TrainingError, "process 1 of 2 was started with other"),
):
    try:
        work()
    except error as found:
        assert words in str(found), found
    else:
        raise AssertionError(words)
check_same("the same", "recipe")
print("done", process_rank(), process_count())
"""


@pytest.mark.slow
def test_two_processes_exchange_rows_sums_gradients_results_and_errors(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        found = [process.communicate(timeout=100) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [out.strip() for out, _ in found] == ["done 0 2", "done 1 2"], found


def test_one_process_has_nothing_to_exchange() -> None:
    rows, weight = torch.ones(2, 3), torch.zeros(1, requires_grad=True)
    weight.grad = torch.tensor([3.0])
    wait_for_all()
    check_same("anything", "recipe")
    average_gradients([weight])
    assert (process_count(), process_rank(), on_first_process(lambda: "made")) == (1, 0, "made")
    assert [part is rows for part in gather_rows(rows)] == [True]
    assert sum_everywhere(rows) is rows
    assert weight.grad.tolist() == [3.0]


def test_alone_every_exchange_gives_back_what_it_was_given() -> None:
    assert from_all({"a": 1}) == [{"a": 1}]
    assert first_fault("") == ""
    assert first_fault("a weight") == "a weight"
    assert largest_everywhere(7, torch.device("cpu")) == 7


@pytest.mark.parametrize(("given", "count"), [("", 1), (" ", 1), ("8", 8)])
def test_an_empty_world_size_is_one_process(given: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", given)
    assert launched_processes() == count


@pytest.mark.parametrize("given", ["many", "0", "-1"])
def test_a_world_size_that_counts_nothing_is_one_line(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", given)
    with pytest.raises(
        ConfigError, match=f"WORLD_SIZE is '{given}', which does not count processes; start them with torchrun"
    ):
        launched_processes()


def test_processes_that_cannot_find_each_other_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"WORLD_SIZE": "8", "LOCAL_RANK": "0", "MASTER_PORT": "29500", "RANK": ""}
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"^WORLD_SIZE is 8, and RANK, MASTER_ADDR are not set, .*unset WORLD_SIZE$"):
        connect(torch.device("cpu"))


def test_a_process_without_a_rank_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, first in (("", True), ("0", True), ("1", False)):
        monkeypatch.setenv("RANK", given)
        assert is_first_process() == first
