"""Where the weights are kept and the curves are shown decides no result."""

from __future__ import annotations

import pytest

from llama2vec.errors import SettingsError
from llama2vec.finetune.settings import FinetuneOptimizerSettings
from llama2vec.training.settings import OptimizerSettings, TrackingSettings


@pytest.mark.parametrize(
    ("given", "trackers"),
    [
        ("none", []),
        ("wandb", ["wandb"]),
        (["tensorboard", "none", "trackio", "tensorboard"], ["tensorboard", "trackio"]),
    ],
)
def test_trackers_are_named_once(given: str | list[str], trackers: list[str]) -> None:
    assert TrackingSettings(report_to=given).trackers == trackers


def test_an_unknown_tracker_is_named_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="unknown tracker 'mlflow'; choose from tensorboard, wandb"):
        TrackingSettings(report_to=["tensorboard", "mlflow"])


@pytest.mark.parametrize("schema", [OptimizerSettings, FinetuneOptimizerSettings])
def test_sharding_is_no_part_of_a_plan_so_that_a_run_may_be_resumed_by_more_processes(
    schema: type[OptimizerSettings],
) -> None:
    shared = schema(sharding="fsdp", offload=True)
    assert shared.model_dump() == schema().model_dump()
    assert shared.model_copy(update={"batch_size": 3}).sharding == "fsdp"


def test_only_shares_can_be_kept_in_the_memory_of_the_cpu() -> None:
    with pytest.raises(SettingsError, match="offload moves the shares of sharding to the CPU; set sharding"):
        OptimizerSettings(offload=True)
