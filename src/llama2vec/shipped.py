"""Recipes, models and stack examples that come with llama2vec, found by name from a wheel and from a checkout alike."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
# `setup.py` copies these folders of the repository into the wheel.
_FOLDERS = {
    "recipes": ("*.toml", Path("recipes")),
    "stacks": ("*.py", Path("examples/stacks")),
    "models": ("*/compact.json", Path("models")),
}


def recipe_files() -> dict[str, Path]:
    """Return every recipe by its name, which is its file's without ``.toml``."""
    return {path.stem: path for path in _files("recipes")}


def stack_files() -> dict[str, Path]:
    """Return every example of another stack by its file's name."""
    return {path.name: path for path in _files("stacks")}


def model_folders() -> dict[str, Path]:
    """Return the folder of every compact encoder by its name."""
    return {path.parent.name: path.parent for path in _files("models")}


def find_recipe(name: str | Path) -> Path:
    """Return the recipe that a command means: a file of the user's, else ours of that name.

    A name that is neither comes back as a path, for its reader to refuse.
    """
    path = Path(name)
    return path if path.is_file() else recipe_files().get(str(name), path)


def summary(path: Path) -> str:
    """Return what a recipe or example says it is: the line after a recipe's command, or the docstring's first."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return lines[1].removeprefix("# ") if path.suffix == ".toml" else lines[0].strip('"')


def _files(folder: str) -> list[Path]:
    pattern, in_repository = _FOLDERS[folder]
    installed, checkout = _PACKAGE / "shipped" / folder, _PACKAGE.parent.parent / in_repository
    return sorted((installed if installed.is_dir() else checkout).glob(pattern))
