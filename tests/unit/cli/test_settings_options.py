"""``--list-settings`` shows every key that ``--set`` takes."""

from __future__ import annotations

import json

import pytest
from running import CommandLine

from llama2vec.cli.settings_options import settings_lines
from llama2vec.config import Settings, load_config
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.pipeline.settings import RunConfig


@pytest.mark.parametrize("schema", [RunConfig, FinetuneConfig])
def test_every_key_has_a_description(schema: type[Settings]) -> None:
    lines = list(settings_lines(schema))
    keys = [place for place, line in enumerate(lines) if not line.startswith(" ")]
    undescribed = [lines[place] for place in keys if place + 1 in keys or place + 1 == len(lines)]
    assert undescribed == []
    assert len(keys) > 20


def test_a_listed_default_can_be_set() -> None:
    pairs = [line.partition(" = ") for line in settings_lines(FinetuneConfig) if not line.startswith(" ")]
    known = [f"{key}={value}" for key, mark, value in pairs if mark and json.loads(value) is not None]
    assert load_config(FinetuneConfig, None, known) == FinetuneConfig()


def test_the_command_prints_the_list_and_does_nothing_else(command_line: CommandLine) -> None:
    done = command_line("run", "--list-settings")
    assert done.code == 0
    assert "adapt.optimizer.steps = 32\n    Optimizer steps." in done.out
