"""``llama2vec recipes``."""

from __future__ import annotations

from running import CommandLine

from llama2vec.shipped import recipe_files, stack_files


def test_recipes_and_stack_examples_are_listed_with_what_they_are(command_line: CommandLine) -> None:
    lines = command_line("recipes").out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [*recipe_files(), *stack_files()]
    assert any("smollm2-cpu" in line and "SmolLM2-135M on your own text" in line for line in lines)


def test_a_recipe_or_example_is_shown_as_it_is(command_line: CommandLine) -> None:
    for name, path in (recipe_files() | stack_files()).items():
        assert command_line("recipes", "show", name).out == path.read_text(encoding="utf-8")


def test_an_unknown_or_missing_name_is_one_line(command_line: CommandLine) -> None:
    assert "no recipe called 'gone'; choose from 7b-1x24gb-qlora, " in command_line.refused("recipes", "show", "gone")
    assert "name the recipe to show" in command_line.refused("recipes", "show")
    assert "use `recipes show demo`" in command_line.refused("recipes", "list", "demo")
