"""How a server is asked."""

from __future__ import annotations

import pytest

from llama2vec.errors import SettingsError
from llama2vec.verify.settings import ServerSettings


@pytest.mark.parametrize("given", [{"timeout_seconds": 0}, {"timeout_seconds": float("nan")}, {"port": 1}])
def test_settings_that_make_no_sense_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        ServerSettings.model_validate(given)
