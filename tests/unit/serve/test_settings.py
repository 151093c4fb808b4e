"""Limits that make no sense are refused."""

from __future__ import annotations

import pytest

from llama2vec.config import load_config
from llama2vec.errors import ConfigError
from llama2vec.serve.settings import ServeSettings


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="the largest request could never be accepted"):
        load_config(ServeSettings, None, ["max_waiting=3", "max_texts=4"])
