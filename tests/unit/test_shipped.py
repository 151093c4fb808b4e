"""Recipes and stack examples, in a checkout and in a wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from llama2vec import shipped
from llama2vec.adapt.settings import AdaptConfig
from llama2vec.config import load_config
from llama2vec.errors import ConfigError

REPOSITORY = Path(shipped.__file__).parents[2]


def test_a_recipe_is_found_by_its_name() -> None:
    config = load_config(AdaptConfig, "smollm2-cpu")
    assert config == load_config(AdaptConfig, REPOSITORY / "recipes" / "smollm2-cpu.toml")
    assert config.model.name == "smollm2-135m"


def test_a_file_of_the_users_comes_before_a_recipe_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo").write_text("[optimizer]\nsteps = 3\n", encoding="utf-8")
    assert load_config(AdaptConfig, "demo").optimizer.steps == 3
    Path("demo").unlink()
    Path("demo").mkdir()
    assert load_config(AdaptConfig, "demo").model.name == "smollm2-135m"


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"gone: no such recipe; .*TOML file, or one of 7b-1x24gb-qlora, 7b-8x80gb-fsdp, demo, "
    ):
        load_config(AdaptConfig, "gone")


def test_every_file_says_what_it_is() -> None:
    for path in [*shipped.recipe_files().values(), *shipped.stack_files().values()]:
        assert 20 < len(shipped.summary(path)) < 120, path
    assert shipped.summary(shipped.recipe_files()["demo"]).startswith("SmolLM2-135M on the documentation")


def test_an_example_that_imports_another_one_says_how_to_get_it() -> None:
    files = shipped.stack_files()
    for path in files.values():
        text = path.read_text(encoding="utf-8")
        for other in {Path(name).stem for name in files} - {path.stem}:
            if f"from {other} import" in text:
                assert f"recipes show {other}.py > {other}.py" in text.split('"""')[1], path
    assert "recipes show reference.py > reference.py" in (REPOSITORY / "docs" / "stacks.md").read_text(encoding="utf-8")


def test_a_model_is_found_by_its_name() -> None:
    assert shipped.model_folders() == {"llama2vec-smollm2-135m": REPOSITORY / "models" / "llama2vec-smollm2-135m"}


@pytest.mark.slow
def test_a_wheel_holds_every_file_of_the_package_every_recipe_and_example_and_finds_them(tmp_path: Path) -> None:
    # In a folder of its own: a build leaves its files beside the source.
    build = "import shutil, sys; from setuptools import build_meta\nprint(build_meta.build_wheel(sys.argv[1]))"
    copy = tmp_path / "copy"
    (copy / "src").mkdir(parents=True)
    for name in (
        "src/llama2vec",
        "recipes",
        "examples",
        "models",
        "pyproject.toml",
        "setup.py",
        "README.md",
        "LICENSE",
    ):
        (copy / name).symlink_to(REPOSITORY / name)
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=copy, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    files = [path.relative_to(REPOSITORY / "src") for path in (REPOSITORY / "src" / "llama2vec").rglob("*.*")]
    assert [path for path in files if path.suffix != ".pyc" and not (tmp_path / "site" / path).exists()] == []
    command = [sys.executable, "-m", "llama2vec.cli", "recipes"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    listing = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    assert str(tmp_path / "site") in listing
    for name in (*shipped.recipe_files(), *shipped.stack_files()):
        assert f"  {name} " in listing
    for name, folder in shipped.model_folders().items():
        files = {path.name for path in (tmp_path / "site" / "llama2vec" / "shipped" / "models" / name).iterdir()}
        assert files == {path.name for path in folder.iterdir()}
