"""Settings that contradict each other."""

from __future__ import annotations

import pytest

from llama2vec.mine.settings import MineSettings


def test_an_empty_window_is_refused_by_the_settings() -> None:
    with pytest.raises(ValueError, match=r"first_rank \(11\) must be at most last_rank \(10\)"):
        MineSettings(first_rank=11, last_rank=10)
