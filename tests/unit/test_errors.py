"""The tree of errors."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from llama2vec import errors

SOURCE = Path(inspect.getfile(errors)).parent
FOREIGN = {"one_line", "first_line", "last_line", "masked_line"}
CLASSES = [found for _, found in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_every_error_is_a_users_mistake_that_says_what_it_means(error: type[Exception]) -> None:
    assert issubclass(error, errors.Llama2VecError)
    assert error.__doc__
    assert error.__doc__.endswith(".")
    assert "\n" not in error.__doc__
    assert str(error("one line")) == "one line"


def test_whoever_catches_data_errors_catches_every_faulty_file() -> None:
    faulty = {errors.CorpusFormatError, errors.ExampleFormatError, errors.RunFormatError, errors.EmptyCorpusError}
    assert faulty <= {error for error in CLASSES if issubclass(error, errors.DataError)}
    assert not issubclass(errors.ConfigError, errors.DataError)


def test_no_message_ends_in_the_words_of_another_library() -> None:
    ends = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = (
                node.exc.args[0]
                if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args
                else None
            )
            last = text.values[-1] if isinstance(text, ast.JoinedStr) else None
            called = (
                {one.func.id for one in ast.walk(last) if isinstance(one, ast.Call) and isinstance(one.func, ast.Name)}
                if last
                else set()
            )
            if called & FOREIGN:
                ends.append(f"{path.relative_to(SOURCE)}:{node.lineno}")
    assert ends == []
