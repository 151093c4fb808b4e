"""Options made from a settings model, and ``--list-settings``, which shows every key that ``--set`` takes."""

from __future__ import annotations

import inspect
import json
from typing import Annotated

import pytest
from pydantic import Field
from running import CommandLine

from llama2vec.cli.settings_options import lists_settings, options_from, settings_lines
from llama2vec.config import Settings, load_config
from llama2vec.data.settings import PassageSettings
from llama2vec.errors import ConfigError
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.pipeline.settings import RunConfig
from llama2vec.retrieve.settings import IndexSettings, LibrarySettings
from llama2vec.score.settings import ScoringSettings


@pytest.mark.parametrize("schema", [RunConfig, FinetuneConfig])
def test_every_key_has_a_description(schema: type[Settings]) -> None:
    lines = list(settings_lines(schema))
    keys = [place for place, line in enumerate(lines) if not line.startswith(" ")]
    undescribed = [lines[place] for place in keys if place + 1 in keys or place + 1 == len(lines)]
    assert undescribed == []
    assert len(keys) > 20


def test_some_keys_of_a_schema_are_listed_under_a_prefix() -> None:
    keys = [line for line in settings_lines(RunConfig, "a.", ("corpus", "reading")) if line[0] != " "]
    assert keys[0] == 'a.corpus = ""'
    assert len(keys) > 2
    assert all(key.startswith("a.reading.") for key in keys[1:])


def test_a_listed_default_can_be_set() -> None:
    pairs = [line.partition(" = ") for line in settings_lines(FinetuneConfig) if not line.startswith(" ")]
    known = [f"{key}={value}" for key, mark, value in pairs if mark and json.loads(value) is not None]
    assert load_config(FinetuneConfig, None, known) == FinetuneConfig()


@pytest.mark.parametrize("schema", [RunConfig, FinetuneConfig, PassageSettings, ScoringSettings])
def test_a_key_without_a_value_is_called_unset_because_toml_has_no_none(schema: type[Settings]) -> None:
    listed = " ".join(" ".join(settings_lines(schema)).split())
    assert "None" not in listed
    assert "unset =" in listed


def test_the_command_prints_the_list_and_does_nothing_else(command_line: CommandLine) -> None:
    done = command_line("run", "--list-settings")
    assert done.code == 0
    assert "adapt.optimizer.steps = 32\n    Optimizer steps." in done.out


@pytest.mark.parametrize("schema", [IndexSettings, LibrarySettings])
def test_the_kinds_of_index_that_are_exact_are_named(schema: type[Settings]) -> None:
    lines = list(settings_lines(schema))
    described = lines[lines.index('kind = "exact"') + 1]
    assert described.strip() == "exact and faiss-flat compare with every vector; the others are approximate"


class Limits(Settings):
    most_texts: Annotated[int, Field(ge=1, description="Texts at once.")] = 3
    timeout_seconds: Annotated[float, Field(gt=0, description="Longest wait.")] = 1.5


@options_from(Limits, "limits", panel="Limits")
def command(limits: Limits, name: str = "a") -> tuple[Limits, str]:
    """Do it."""
    return limits, name


def test_each_field_is_an_option_with_its_help_and_default() -> None:
    parameters = inspect.signature(command).parameters
    assert list(parameters) == ["name", "most_texts", "timeout"]
    assert parameters["most_texts"].default == 3
    assert parameters["most_texts"].annotation.__metadata__[0].help == "Texts at once."
    bounds = [parameters[name].annotation.__metadata__[0].min for name in ("most_texts", "timeout")]
    assert bounds == [1, None]
    assert command.__doc__ == "Do it."


def test_the_command_gets_the_settings() -> None:
    assert command(name="b", most_texts=7, timeout=2.0) == (Limits(most_texts=7, timeout_seconds=2), "b")


def test_a_value_that_does_not_fit_names_its_option() -> None:
    with pytest.raises(ConfigError, match=r"^--most-texts 0: input should be greater than or equal to 1$"):
        command(name="b", most_texts=0, timeout=2.0)


@options_from(Limits, "limits", panel="Limits")
@lists_settings(Limits)
def listing(limits: Limits, sets: list[str] | None = None, name: str = "a") -> tuple[Limits, list[str] | None, str]:
    return limits, sets, name


def test_the_option_that_lists_the_settings_follows_that_which_sets_them_and_the_command_never_sees_it() -> None:
    assert list(inspect.signature(listing).parameters) == ["sets", "list_settings", "name", "most_texts", "timeout"]
    found = listing(sets=["a=1"], list_settings=False, name="b", most_texts=3, timeout=1.5)
    assert found == (Limits(), ["a=1"], "b")
