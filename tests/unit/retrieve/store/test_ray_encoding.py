"""What needs no cluster: who is refused, how many workers there are, missing packages. tests/stacks has the cluster."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from encoders import encoder_for
from running import CommandLine

from llama2vec.config import ModelSettings
from llama2vec.errors import ClusterError, ConfigError, MissingDependencyError
from llama2vec.model.source import ModelSpec, resolve_model
from llama2vec.retrieve.settings import PlacingSettings
from llama2vec.retrieve.store import ray_encoding
from llama2vec.retrieve.store.ray_encoding import WorkerFacts, ray_encoder

FACTS = WorkerFacts("1.0", "2.9", "abc", "bfloat16", "cuda", "10.0.0.1")


@pytest.mark.parametrize(
    ("name", "other"),
    [("llama2vec", "1.1"), ("torch", "3.0"), ("contract", "abd"), ("numbers", "float32"), ("device", "cpu")],
)
def test_a_worker_that_differs_is_refused_by_what_differs(name: str, other: str) -> None:
    worker = replace(FACTS, node="10.0.0.7", **{name: other})
    with pytest.raises(ClusterError, match=rf"on 10\.0\.0\.7 has {name} {other} instead of {getattr(FACTS, name)};"):
        FACTS.check(worker)


def test_the_node_and_what_is_not_known_yet_refuse_nobody() -> None:
    FACTS.check(replace(FACTS, node="10.0.0.7"))
    WorkerFacts("1.0").check(FACTS)
    FACTS.check(WorkerFacts("1.0", "2.9"))


def node(alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("device", "placing", "expected"),
    [
        ("auto", {}, (6, {"num_gpus": 1.0})),
        ("cuda", {"workers": 2}, (2, {"num_gpus": 1.0})),
        ("cpu", {}, (4, {"num_cpus": 8.0})),
        ("cpu", {"worker_cpus": 3}, (10, {"num_cpus": 3.0})),
    ],
)
def test_workers_follow_the_gpus_or_the_cpus(
    device: str, placing: dict[str, int], expected: tuple[int, dict[str, float]]
) -> None:
    nodes = [node(CPU=8, GPU=2), node(CPU=24, GPU=4), node(alive=False, CPU=4, GPU=8), node(memory=1)]
    assert ray_encoding._layout(nodes, device, PlacingSettings(engine="ray", **placing)) == expected


def test_a_cluster_without_room_says_what_it_lacks() -> None:
    with pytest.raises(ClusterError, match="no GPU; add one, or name with --workers"):
        ray_encoding._layout([node(CPU=8)], "cuda", PlacingSettings(engine="ray"))
    with pytest.raises(ClusterError, match="no machine with 16 CPUs"):
        ray_encoding._layout([node(CPU=8)], "cpu", PlacingSettings(engine="ray", worker_cpus=16))
    assert ray_encoding._layout([node(CPU=8)], "cuda", PlacingSettings(engine="ray", workers=3))[0] == 3


def test_a_saved_encoder_names_its_contract_before_any_worker_starts(llama_folder: Path, tmp_path: Path) -> None:
    encoder = encoder_for(llama_folder)
    bare = ModelSpec.of_source(resolve_model(str(llama_folder)))
    assert ray_encoding._known_here(bare).contract == ""
    saved = ModelSpec.of_source(resolve_model(str(encoder.save(tmp_path / "saved"))))
    assert ray_encoding._known_here(saved).contract == encoder.contract_hash


def test_without_ray_the_line_says_how_to_install_it(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    spec = ModelSpec.of_source(resolve_model(str(llama_folder)))
    with (
        pytest.raises(MissingDependencyError, match=r"pip install 'llama2vec\[ray\]'"),
        ray_encoder(spec, ModelSettings(), PlacingSettings(engine="ray")),
    ):
        pytest.fail("there is no Ray")


def test_a_client_address_is_refused(llama_folder: Path) -> None:
    pytest.importorskip("ray")
    spec = ModelSpec.of_source(resolve_model(str(llama_folder)))
    with (
        pytest.raises(ConfigError, match="HOST:PORT or auto"),
        ray_encoder(spec, ModelSettings(), PlacingSettings(engine="ray", address="ray://head:10001")),
    ):
        pytest.fail("Ray's client is not for this")


def test_options_of_ray_need_the_engine(
    command_line: CommandLine, llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    line = command_line.refused("encode", llama_folder, corpus_file, "-o", tmp_path / "store", "--address", "auto")
    assert "--engine ray" in line
