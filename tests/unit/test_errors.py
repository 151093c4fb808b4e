"""The tree of errors."""

from __future__ import annotations

import inspect

import pytest

from llama2vec import errors

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
