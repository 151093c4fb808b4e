"""Base of all settings: frozen models, strict about names and values, with hints for misspelled names."""

from __future__ import annotations

import difflib
from collections.abc import Set
from typing import Any, ClassVar, Self, get_args

from annotated_types import Le, Lt
from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from llama2vec.errors import SettingsError, too_large


class Settings(BaseModel):
    """Base of every settings model: frozen, and strict about names.

    Raises:
        SettingsError: A name is unknown (with the nearest known one), or a value is invalid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(first_problem(type(self), error, type(self).__name__)) from None

    # Sections are built without this method, as with pydantic's own, so that a problem names all keys down to its own.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except ValidationError:
            how = f"make a changed copy: settings.model_copy(update={{{name!r}: …}})"
            raise SettingsError(
                f"{type(self).__name__}: settings are frozen, so {name} keeps its value; {how}"
            ) from None

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Return the settings of a mapping; errors as where they are made by name."""
        try:
            return cls.parsed(obj, **options)
        except ValidationError as error:
            raise SettingsError(first_problem(cls, error, cls.__name__)) from None

    @classmethod
    def parsed(cls, obj: Any, **options: Any) -> Self:
        """Return the settings of a mapping; a ValidationError of pydantic for callers that put it into other words."""
        return super().model_validate(obj, **options)

    def idle(self, sets: Set[str]) -> str:
        """Say which setting cannot act beside the others, and what to do; "" where all can. ``sets``: keys of --set."""
        return ""

    @classmethod
    def worded(cls, section: str, problem: str) -> str:
        """Return a problem of a section with the names by which the whole knows the settings."""
        return problem

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_switch(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false for a number, which pydantic would read as 1 and 0."""
        kinds = _plain_kinds(cls.model_fields[str(info.field_name)].annotation)
        given = value if isinstance(value, list | tuple) else [value]
        is_number = (int in kinds or float in kinds) and bool not in kinds
        if is_number and any(isinstance(one, bool) for one in given):
            raise ValueError("write a number, not true or false")
        return value

    @field_validator("*")
    @classmethod
    def _is_bounded(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse numbers beyond what the libraries below can count with, where a field has no bound of its own."""
        bounds = cls.model_fields[str(info.field_name)].metadata
        numbers = value if isinstance(value, list) else [value]
        if not any(isinstance(one, Le | Lt) for one in bounds):
            for number in numbers:
                if isinstance(number, int) and (problem := too_large(number)):
                    raise ValueError(problem)
        return value


def _plain_kinds(annotation: Any) -> list[Any]:
    """Return the innermost types of an annotation.

    >>> _plain_kinds(list[int] | None)
    [<class 'int'>, <class 'NoneType'>]
    """
    return [kind for part in get_args(annotation) for kind in _plain_kinds(part)] or [annotation]


class StableHashSettings(Settings):
    """Settings in the hash of a contract or a plan, which must stay when fields are added.

    Those are written down only where they are set: saved encoders stay whole, and begun work continues.
    """

    added_later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _as_earlier(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unset = {name for name in self.added_later if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in serialize(self).items() if name not in unset}


def first_problem(schema: type[Settings], error: ValidationError, where: str) -> str:
    """Return the first problem that pydantic found, on one line that begins with ``where``."""
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = _keys(schema, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        # The whole key, as the recipe or --set would have it.
        meant = ".".join([*location[:-1], *near])
        hint = f"did you mean '{meant}'?" if near else f"known here: {', '.join(known)}"
        return f"{where}: unknown key '{key}'; {hint}"
    message = schema.worded(location[0] if location else "", problem["msg"].removeprefix("Value error, "))
    given = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r:.200})"
    # What is wrong between sections has no key, and its message names the sections.
    return f"{where}: {key}: {message}{given}" if key else f"{where}: {message}{given}"


def _keys(schema: type[Settings], location: list[str]) -> list[str]:
    found: Any = schema
    for part in location:
        # A number is a position in a list, whose item type is already resolved.
        found = found if part.isdigit() else section_of(found.model_fields[part].annotation)
        if found is None:
            return []
    return list(found.model_fields)


def section_of(annotation: Any) -> type[Settings] | None:
    """Return the settings model inside an annotation: itself, or a member of a union or list."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    return next((found for part in get_args(annotation) if (found := section_of(part))), None)
