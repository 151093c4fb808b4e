"""``llama2vec recipes``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from llama2vec.errors import ConfigError
from llama2vec.shipped import recipe_files, stack_files, summary
from llama2vec.terminal import display


class Action(StrEnum):
    """What to do with the recipes."""

    LIST = "list"
    SHOW = "show"


def recipes_command(
    action: Annotated[Action, typer.Argument(help="List all, or show one.")] = Action.LIST,
    name: Annotated[str | None, typer.Argument(help="Recipe or stack example to show.")] = None,
) -> None:
    """List or show the recipes and stack examples that come with llama2vec.

    adapt, finetune and run take a recipe's name instead of a file.
    """
    recipes, stacks = recipe_files(), stack_files()
    if action is Action.SHOW:
        known = recipes | stacks
        if name not in known:
            wanted = f"no recipe called '{name}'" if name else "name the recipe to show"
            raise ConfigError(f"{wanted}; choose from {', '.join(known)}")
        typer.echo(known[name].read_text(encoding="utf-8"), nl=False)
        return
    if name:
        raise ConfigError(f"recipes list {name}: list takes no name; to see one recipe, use `recipes show {name}`")
    for title, files in (("Recipes", recipes), ("Stack examples", stacks)):
        width = max(map(len, files))
        rows = (f"  {key:<{width}}  {summary(path)}" for key, path in files.items())
        display(f"{title} in {next(iter(files.values())).parent}:", *rows)
