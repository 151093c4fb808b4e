"""Where the curves of a training are shown."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from llama2vec.training.settings import TrackingSettings


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
    with pytest.raises(ValidationError, match="unknown tracker 'mlflow'; choose from tensorboard, wandb"):
        TrackingSettings(report_to=["tensorboard", "mlflow"])
