"""A recipe from a folder has the settings that made it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.config import load_config
from llama2vec.errors import ConfigError
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.manifest import digest
from llama2vec.pipeline.recipe import recipe_of
from llama2vec.pipeline.settings import RunConfig
from llama2vec.shipped import recipe_files


def planned(folder: Path, verb: str, settings: dict[str, Any]) -> Path:
    """Write what a training leaves at its start."""
    folder.mkdir(exist_ok=True)
    plan = {"settings": json.loads(json.dumps(settings)), "data": "fingerprint"}
    (folder / f"{verb}.json").write_text(json.dumps({**plan, "hash": digest(plan)}), encoding="utf-8")
    return folder


def again(folder: Path, schema: Any, tmp_path: Path) -> Any:
    file = tmp_path / "again.toml"
    file.write_text(recipe_of(folder).toml(str(folder)), encoding="utf-8")
    return load_config(schema, file)


def test_every_shipped_recipe_comes_back(tmp_path: Path) -> None:
    seen = set()
    for name, path in recipe_files().items():
        for verb, schema in (("adapt", AdaptConfig), ("finetune", FinetuneConfig), ("run", RunConfig)):
            try:
                config: Any = load_config(schema, path)
            except ConfigError:
                continue
            folder = tmp_path / name.replace("/", "-")
            if verb == "run":
                folder.mkdir()
                recipe = json.loads(json.dumps(config.model_dump(mode="json")))
                (folder / "run.json").write_text(json.dumps({"recipe": recipe}), encoding="utf-8")
            else:
                plan = config.deciding() if verb == "adapt" else config.model_dump(exclude={"tracking"})
                planned(folder, verb, plan)
            assert recipe_of(folder).verb == verb
            assert again(folder, schema, tmp_path).model_dump() == config.model_dump(), name
            seen.add(verb)
            break
    assert seen == {"adapt", "finetune", "run"}


def test_comments_give_the_defaults_where_they_differ(tmp_path: Path) -> None:
    changes = [
        "model.name=smollm2-135m", 'data.sources=["a b.jsonl", "c\\"d.jsonl"]', "optimizer.learning_rate=4e-4",
        "contrastive.dimensions=[64, 128]", "contrastive.false_negatives=self", 'prompts.self_prompt="\\nTab:\\t"',
    ]  # fmt: skip
    config = load_config(FinetuneConfig, None, changes)
    folder = planned(tmp_path / "run", "finetune", config.model_dump(exclude={"tracking"}))
    text = recipe_of(folder).toml("run")
    lines = text.splitlines()
    assert lines[0] == "# llama2vec finetune THIS_FILE: the settings of run"
    assert "learning_rate = 0.0004  # default: 0.0002" in lines
    assert "batch_size = 64" in lines
    assert 'false_negatives = "self"  # default: "none"' in lines
    assert "dimensions = [64, 128]  # default: []" in lines
    assert 'query_prompt = "next"' in lines
    assert tomllib.loads(text)["data"]["sources"] == ["a b.jsonl", 'c"d.jsonl']
    assert again(folder, FinetuneConfig, tmp_path) == config
    assert not recipe_of(folder).notes


def test_a_folder_that_only_has_its_manifest_is_read(tmp_path: Path) -> None:
    content = {"stage": "adapt", "settings": json.loads(json.dumps(AdaptConfig().deciding()))}
    (tmp_path / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    assert recipe_of(tmp_path).config == AdaptConfig()
    assert recipe_of(tmp_path).notes == ("the texts came from Python; name them",)


def test_a_run_that_wrote_down_the_default_language_of_its_evaluation_comes_back(tmp_path: Path) -> None:
    overrides = ["corpus=c", "encode=true", "index.language=de", "evaluate.tasks=['x.tsv']"]
    config = load_config(RunConfig, None, overrides)
    content = json.loads(json.dumps({"format": "llama2vec-run", "recipe": config.model_dump(), "stages": {}}))
    assert content["recipe"]["evaluate"]["language"] == "en"
    (tmp_path / "run.json").write_text(json.dumps(content), encoding="utf-8")
    found = recipe_of(tmp_path).config
    assert isinstance(found, RunConfig)
    assert found.words_language == "de"


def test_a_file_of_stop_words_is_told_by_its_hash(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("and\nor\n", encoding="utf-8")
    config = load_config(AdaptConfig, None, [f"text.stop_words={words}", "text.corpus=c.jsonl"])
    folder = planned(tmp_path / "run", "adapt", config.deciding())
    recipe = recipe_of(folder)
    assert recipe.notes[0].startswith("text.stop_words was a file with sha256:")
    assert f"# {recipe.notes[0]}" in recipe.toml("run")


def test_what_is_no_training_or_was_changed_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no adapt\.json, finetune\.json or run\.json"):
        recipe_of(tmp_path)
    folder = planned(tmp_path / "run", "adapt", AdaptConfig().deciding())
    file = folder / "adapt.json"
    content = file.read_text(encoding="utf-8")
    file.write_text(content.replace('"seed": 0', '"seed": 1'), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"adapt\.json was changed after it was written"):
        recipe_of(folder)
    planned(folder, "adapt", {"optimizer": {"step": 3}})
    with pytest.raises(ConfigError, match=r"optimizer\.step: .* it comes from another version"):
        recipe_of(folder)
