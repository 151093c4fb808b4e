"""Recipes and overrides: strict about names, clear about what is wrong."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.config import PROMPT_RECIPES, EncoderSettings, load_config
from llama2vec.data.settings import PassageSettings
from llama2vec.errors import ConfigError, SettingsError
from llama2vec.finetune.settings import FinetuneConfig


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_recipe_the_defaults_are_filled_in() -> None:
    assert load_config(AdaptConfig, None) == AdaptConfig()


def test_a_recipe_is_read_and_overrides_go_on_top(tmp_path: Path) -> None:
    path = recipe(tmp_path, '[optimizer]\nsteps = 7\nseed = 3\n[model]\nname = "x"\n')
    config = load_config(AdaptConfig, path, ["optimizer.steps=9", "model.lora.rank=0"])
    assert (config.optimizer.steps, config.optimizer.seed, config.model.name, config.model.lora.rank) == (9, 3, "x", 0)


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("optimizer.learning_rate=1e-3", lambda config: config.optimizer.learning_rate == 1e-3),
        ("optimizer.steps=12", lambda config: config.optimizer.steps == 12),
        ("text.draw_lengths=false", lambda config: config.text.draw_lengths is False),
        ("text.corpus=some/folder", lambda config: config.text.corpus == "some/folder"),
        ('text.corpus="a b"', lambda config: config.text.corpus == "a b"),
        ('model.lora.targets=["q_proj", "v_proj"]', lambda config: config.model.lora.targets == ["q_proj", "v_proj"]),
        ("prompts.self_prompt= same: ", lambda config: config.prompts.self_prompt == " same: "),
        ("text.corpus=a=b", lambda config: config.text.corpus == "a=b"),
        (" optimizer.seed = 4", lambda config: config.optimizer.seed == 4),
    ],
)
def test_an_override_is_read_as_toml_where_it_can_be_and_else_as_text(override: str, read: object) -> None:
    assert read(load_config(AdaptConfig, None, [override]))  # type: ignore[operator]


def test_a_prompt_recipe_can_be_named_as_a_whole(tmp_path: Path) -> None:
    released = PROMPT_RECIPES["released"]
    assert load_config(AdaptConfig, None, ["prompts=released"]).prompts == released
    assert load_config(AdaptConfig, recipe(tmp_path, 'prompts = "released"\n')).prompts == released
    assert load_config(AdaptConfig, recipe(tmp_path, '[prompts]\nrecipe = "released"\n')).prompts == released


def test_a_named_prompt_recipe_can_be_changed_in_part(tmp_path: Path) -> None:
    changed = load_config(AdaptConfig, None, ["prompts=released", "prompts.slots=2"]).prompts
    assert changed == PROMPT_RECIPES["released"].model_copy(update={"slots": 2})
    path = recipe(tmp_path, '[prompts]\nrecipe = "released"\nslots = 3\n')
    assert load_config(AdaptConfig, path).prompts == PROMPT_RECIPES["released"].model_copy(update={"slots": 3})


def test_the_published_wordings_add_no_line_and_the_default_keeps_its_own() -> None:
    published = [PROMPT_RECIPES[name] for name in ("paper-v1", "paper-v2", "released")]
    assert not any("\n" in wording.prefix + wording.self_prompt + wording.next_prompt for wording in published)
    assert [(one.self_prompt, one.next_prompt) for one in published[:2]] == [
        (" The original sentence:", " The next sentence:"),
        (" The input sentence is:", " The next sentence is:"),
    ]
    assert all(wording.recipe == name for name, wording in PROMPT_RECIPES.items())
    # Saved contracts say `paper` and hold this wording.
    assert PROMPT_RECIPES["paper"].self_prompt == "\nThe original sentence: "


def test_an_unknown_prompt_recipe_is_named_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match="no recipe called 'relesed'; choose from paper, paper-v1, paper-v2, released"
    ):
        load_config(AdaptConfig, None, ["prompts=relesed"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.stepz=9", r"unknown key 'optimizer\.stepz'; did you mean 'optimizer\.steps'\?"),
        ("optimzer.steps=9", r"unknown key 'optimzer'; did you mean 'optimizer'\?"),
        ("model.lora.rnk=9", r"unknown key 'model\.lora\.rnk'; did you mean 'model\.lora\.rank'\?"),
        ("encoder.zzz=9", r"unknown key 'encoder\.zzz'; known here: query_prompt, passage_prompt"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_known_one(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(AdaptConfig, None, [override])


def test_an_unknown_key_in_a_recipe_names_the_file(tmp_path: Path) -> None:
    path = recipe(tmp_path, "[text]\nmax_wrds = 3\n")
    with pytest.raises(
        ConfigError, match=r"recipe\.toml: unknown key 'text\.max_wrds'; did you mean 'text\.max_words'"
    ):
        load_config(AdaptConfig, path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.steps=many", r"optimizer\.steps: .*got 'many'"),
        ("optimizer.steps=0", r"optimizer\.steps: .*greater than or equal to 1.*got 0"),
        ("model.dtype=float8", r"model\.dtype: .*'float8'"),
        ("text.held_out=1", r"text\.held_out: .*less than 1"),
        ("text.min_words=500", r"text: min_words \(500\) is larger than max_words \(\d+\)"),
        ("model=tiny", r"model: .*got 'tiny'"),
    ],
)
def test_a_wrong_value_is_told_with_its_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(AdaptConfig, None, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("optimizer.steps", "true"), ("optimizer.average_last", "true"), ("optimizer.learning_rate", "true"),
        ("text.held_out", "false"), ("model.lora.rank", "false"), ("text.limit", "false"),
    ],
)  # fmt: skip
def test_true_and_false_are_no_numbers(tmp_path: Path, key: str, given: str) -> None:
    section, _, name = key.rpartition(".")
    path = recipe(tmp_path, f"[{section}]\n{name} = {given}\n")
    for file, overrides in ((None, [f"{key}={given}"]), (path, [])):
        with pytest.raises(ConfigError, match=rf"{re.escape(key)}: write a number, not true or false"):
            load_config(AdaptConfig, file, overrides)


def test_true_is_no_number_in_a_list_or_beside_none() -> None:
    with pytest.raises(ConfigError, match=r"contrastive\.dimensions: write a number"):
        load_config(FinetuneConfig, None, ["contrastive.dimensions=[32, true]"])
    with pytest.raises(ConfigError, match=r"tokens: write a number"):
        load_config(PassageSettings, None, ["tokens=true"])


def test_numbers_and_switches_keep_their_kinds(tmp_path: Path) -> None:
    path = recipe(tmp_path, "[optimizer]\nsteps = 3\nlearning_rate = 1\nwarmup = 0.5\n[model]\ncompile = true\n")
    config = load_config(AdaptConfig, path, ["text.draw_lengths=false", "text.max_words=12.0", "model.lora.alpha=8"])
    assert (config.optimizer.steps, config.optimizer.learning_rate, config.optimizer.warmup) == (3, 1.0, 0.5)
    assert (config.model.compile, config.text.draw_lengths, config.text.max_words) == (True, False, 12)
    assert config.model.lora.alpha == 8


def test_what_is_wrong_between_sections_has_no_key_before_it(tmp_path: Path) -> None:
    path = recipe(tmp_path, "[optimizer]\naverage_last = 2\n")
    with pytest.raises(ConfigError) as caught:
        load_config(FinetuneConfig, path)
    assert str(caught.value).startswith(f"{path}: optimizer.average_last and validation.keep_best both choose")


def test_a_recipe_with_nothing_to_learn_is_refused() -> None:
    with pytest.raises(ConfigError, match="objective: self_weight and next_weight are both 0"):
        load_config(AdaptConfig, None, ["objective.self_weight=0", "objective.next_weight=0"])


@pytest.mark.parametrize("override", ["steps", "=3", "model.name.inner=3"])
def test_an_override_that_is_no_assignment_to_a_key_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=f"--set {override}"):
        load_config(AdaptConfig, None, ["model.name=x", override])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[text\n", "cannot be read as TOML: Expected"),
        (b"a = 1\na = 2\n", "cannot be read as TOML: Cannot overwrite"),
        (b"name = \xff\n", "is not valid UTF-8; save it"),
        (b"steps = " + b"1" * 5000, "cannot be read as TOML: it has numbers too long or"),
        (b"steps = " + b"[" * 5000, "cannot be read as TOML: .* values too nested$"),
        (b".".join([b"a"] * 5000) + b" = 1", "cannot be read as TOML: .* values too nested$"),
    ],
    ids=["syntax", "twice", "utf-8", "digits", "nested list", "nested keys"],
)
def test_an_unreadable_recipe_is_named(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"recipe\.toml: {told}"):
        load_config(AdaptConfig, path)


@pytest.mark.parametrize("text", ["1" * 5000, "[" * 5000])
def test_an_override_that_python_cannot_read_is_one_short_line(text: str) -> None:
    with pytest.raises(
        ConfigError,
        match=r"--set: optimizer\.steps: (Input should be a valid|Unable to parse input string as an) integer",
    ) as caught:
        load_config(AdaptConfig, None, [f"optimizer.steps={text}"])
    assert len(str(caught.value)) < 400


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml: no such recipe"):
        load_config(AdaptConfig, tmp_path / "gone.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(AdaptConfig, tmp_path)


def test_settings_are_frozen() -> None:
    with pytest.raises(SettingsError, match="frozen"):
        AdaptConfig().optimizer.steps = 3  # type: ignore[misc]


def test_a_settings_model_can_be_filled_on_its_own() -> None:
    assert load_config(EncoderSettings, None, ["pooling=mean"]).pooling == "mean"


def test_resolved_settings_survive_a_round_trip() -> None:
    config = load_config(AdaptConfig, None, ["prompts=released", "model.lora.rank=4"])
    assert AdaptConfig.model_validate(config.model_dump()) == config


def test_keys_of_earlier_versions_load_with_one_warning_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = tmp_path / "old.toml"
    recipe.write_text("[optimiser]\nsteps = 7\n", encoding="utf-8")
    config = load_config(AdaptConfig, recipe, ["optimiser.batch_size=3"])
    assert (config.optimizer.steps, config.optimizer.batch_size) == (7, 3)
    assert [record.getMessage() for record in caplog.records] == [
        f"{recipe}: 'optimiser' is now called 'optimizer'; please rename it",
        "--set: 'optimiser' is now called 'optimizer'; please rename it",
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes by name")
def test_a_recipe_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "recipe.toml")
    with pytest.raises(ConfigError, match=r"recipe\.toml: cannot be read \(not a regular file\)"):
        load_config(AdaptConfig, tmp_path / "recipe.toml")


def test_settings_that_earlier_versions_lacked_are_written_down_only_where_they_are_set() -> None:
    from llama2vec.finetune.settings import FinetuneConfig
    from llama2vec.mine.settings import MineSettings

    written = FinetuneConfig().model_dump()
    assert not {"false_negatives", "distillation"} & written["contrastive"].keys()
    assert FinetuneConfig.model_validate(written) == FinetuneConfig()
    changed = load_config(FinetuneConfig, None, ["contrastive.false_negatives=self"])
    assert changed.model_dump()["contrastive"]["false_negatives"] == "self"
    assert FinetuneConfig.model_validate(changed.model_dump()) == changed
    assert not {"teacher", "teacher_share_of_positive"} & MineSettings().model_dump().keys()
    assert MineSettings(teacher="x").model_dump(include={"teacher", "seed"}) == {"teacher": "x", "seed": 0}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["servable=true"], ("self", "self", 512, 512)),
        (["servable=true", "query_prompt='next'", "query_max_tokens=64"], ("next", "next", 64, 64)),
        (["servable=true", "passage_max_tokens=256", "layers=1"], ("self", "self", 256, 256)),
        (["servable=false"], ("self", "self", 128, 512)),
    ],
)
def test_what_is_not_set_follows_from_servable(given: list[str], expected: tuple[object, ...]) -> None:
    found = load_config(AdaptConfig, None, [f"encoder.{one}" for one in given]).encoder
    assert (found.query_prompt, found.passage_prompt, found.query_max_tokens, found.passage_max_tokens) == expected
    assert found.layers == (1 if found.servable else 8)
    assert ("servable" in found.model_dump()) == found.servable
    assert found.model_fields_set == {one.partition("=")[0] for one in given}


@pytest.mark.parametrize(
    "given", ["layers=8", "query_prompt='next'\n[encoder]passage_prompt='self'", "query_max_tokens=64"]
)
def test_settings_that_no_other_program_can_follow_are_refused_with_servable(given: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("")
    both = [f"encoder.{one}" for one in given.split("\n[encoder]")]
    more = ["encoder.passage_max_tokens=128"] if "max_tokens" in given else []
    told = rf"encoder: servable allows one layer and one reading of all texts, and not {both[0][8:].split('=')[0]} = "
    with pytest.raises(ConfigError, match=told):
        load_config(AdaptConfig, tmp_path / "recipe.toml", ["encoder.servable=true", *both, *more])
