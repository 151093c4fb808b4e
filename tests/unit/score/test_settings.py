"""Settings of an evaluation."""

import pytest

from llama2vec.config import load_config
from llama2vec.errors import ConfigError
from llama2vec.score.settings import EvaluateSettings, ScoringSettings


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("depth=0", "depth"),
        ("windows=sump", "windows"),
        ("stride=0", "stride"),
        ("language=english", "language"),
        ("metricks=AP", "did you mean 'metrics'"),
    ],
)
def test_values_out_of_range_and_unknown_keys_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(ScoringSettings, None, [override])


def test_an_evaluation_without_tasks_is_refused() -> None:
    with pytest.raises(ConfigError, match="tasks"):
        load_config(EvaluateSettings, None, ["depth=10"])
