"""Base of all settings: frozen models, strict about names and values, with hints for misspelled names."""

from __future__ import annotations

import difflib
from collections.abc import Set
from typing import Any, ClassVar, Self, get_args, get_origin

from annotated_types import Le, Lt
from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from llama2vec.errors import SettingsError, too_large
from llama2vec.languages import Language


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


class LanguageSettings(Settings):
    """Settings of which several sections have a language; one ``language`` is that of all that set none of their own.

    Attributes:
        language: ISO 639 code of the texts and queries, for sentence ends, stop words and stemmers, unless a section
            sets its own ``language``; None = English.
    """

    language: Language | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_one_language(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(language := data.get("language"), str):
            return data
        return merged(cls.below_language(data, {"language": language}), data)

    @classmethod
    def below_language(cls, data: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
        """Return ``own`` under the name of each section that has a language."""
        sections = {name: section_of(field.annotation) for name, field in cls.model_fields.items()}
        return {name: own for name, section in sections.items() if section and "language" in section.model_fields}


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Merge one tree of settings into another, overriding its values.

    >>> merged({"a": {"b": 1, "c": 1}}, {"a": {"b": 2}})
    {'a': {'b': 2, 'c': 1}}
    """
    found = dict(below)
    for key, value in above.items():
        under = found.get(key)
        found[key] = merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return found


def first_problem(schema: type[Settings], error: ValidationError, where: str) -> str:
    """Return the first problem that pydantic found, on one line that begins with ``where``."""
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key '{key}'; {_hint(schema, location)}"
    message = schema.worded(location[0] if location else "", problem["msg"].removeprefix("Value error, "))
    given = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r:.200})"
    # What is wrong between sections has no key, and its message names the sections.
    return f"{where}: {key}: {message}{given}" if key else f"{where}: {message}{given}"


_MOST_MEANT = 3
"""A hint names at most so many keys."""


def _hint(schema: type[Settings], location: list[str]) -> str:
    """Return what may be meant by an unknown key: the same name in a section below, else the nearest name here.

    Each is the whole key, as the recipe or --set would have it.
    """
    *sections, name = location
    section = _section(schema, sections)
    if section is None:
        return "known here: "
    below = sorted(_places(section, name), key=len)
    near = difflib.get_close_matches(name, section.model_fields, n=1, cutoff=0.5)
    meant = [place for place in below if len(place) == len(below[0])][:_MOST_MEANT] or [[one] for one in near]
    if not meant:
        return f"known here: {', '.join(section.model_fields)}"
    keys = " or ".join(f"'{'.'.join([*sections, *place])}'" for place in meant)
    return f"did you mean {keys}?"


def _places(schema: type[Settings], name: str) -> list[list[str]]:
    """Return the keys below a schema whose last part has a name, as their parts; items of lists have no keys."""
    found: list[list[str]] = []
    for key, field in schema.model_fields.items():
        if key == name:
            found.append([key])
        if get_origin(field.annotation) is not list and (section := section_of(field.annotation)):
            found += [[key, *place] for place in _places(section, name)]
    return found


def _section(schema: type[Settings], location: list[str]) -> type[Settings] | None:
    found: Any = schema
    for part in location:
        # A number is a position in a list, whose item type is already resolved.
        found = found if part.isdigit() else section_of(found.model_fields[part].annotation)
        if found is None:
            return None
    section: type[Settings] = found
    return section


def section_of(annotation: Any) -> type[Settings] | None:
    """Return the settings model inside an annotation: itself, or a member of a union or list."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    return next((found for part in get_args(annotation) if (found := section_of(part))), None)
