"""Settings on the command line: options made from a settings model, and ``--list-settings``."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

import typer
from annotated_types import Ge, Le
from pydantic import ValidationError

from llama2vec.config import Settings, section_of
from llama2vec.errors import ConfigError
from llama2vec.terminal import display

ResultT = TypeVar("ResultT")


def options_from(
    schema: type[Settings], parameter: str, panel: str
) -> Callable[[Callable[..., ResultT]], Callable[..., ResultT]]:
    """Replace one parameter of a command by an option for each field of its settings.

    ``max_texts`` becomes ``--max-texts``; a unit of time is dropped (``timeout_seconds`` → ``--timeout``). The bounds
    ``ge`` and ``le`` become those of the option, which its help shows.

    Args:
        schema: The settings; the description of a field becomes the option's help.
        parameter: The parameter that takes them.
        panel: Heading of the options in the help.
    """
    names = {field: _parameter_name(field) for field in schema.model_fields}

    def decorate(command: Callable[..., ResultT]) -> Callable[..., ResultT]:
        @functools.wraps(command)
        def run(**given: Any) -> ResultT:
            values = {field: given.pop(name) for field, name in names.items()}
            return command(**given, **{parameter: _validated(schema, values, names)})

        kept = [one for one in _parameters(command) if one.name != parameter]
        return _with_parameters(run, [*kept, *(_option(schema, field, name, panel) for field, name in names.items())])

    return decorate


def _parameters(command: Callable[..., object]) -> list[inspect.Parameter]:
    return list(inspect.signature(command, eval_str=True).parameters.values())


def _with_parameters(run: Callable[..., ResultT], parameters: Sequence[inspect.Parameter]) -> Callable[..., ResultT]:
    """Let Typer see these parameters, whatever those of the function itself are."""
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def given_options(settings: Settings) -> dict[str, object]:
    """Return the options behind settings whose values differ from the defaults, by name."""
    return {
        _option_name(_parameter_name(field)): value
        for field, value in settings.model_dump(exclude_defaults=True).items()
    }


def refuse_options(options: Mapping[str, object], problem: str) -> None:
    """Raise a ConfigError for the first option that was given; None and False = not given.

    Args:
        options: Value of each option, by name.
        problem: Why it would change nothing; follows the option's name in the message.
    """
    for option, value in options.items():
        if value is not None and value is not False:
            raise ConfigError(f"{option} {problem}; leave it out")


def _parameter_name(field: str) -> str:
    return field.removesuffix("_seconds")


def _option_name(parameter: str) -> str:
    return f"--{parameter.replace('_', '-')}"


def _option(schema: type[Settings], field: str, name: str, panel: str) -> inspect.Parameter:
    facts = schema.model_fields[field]
    # Naming a flag leaves out its --no- twin.
    named = [_option_name(name)] if facts.annotation is bool else []
    least: Any = next((bound.ge for bound in facts.metadata if isinstance(bound, Ge)), None)
    most: Any = next((bound.le for bound in facts.metadata if isinstance(bound, Le)), None)
    option = typer.Option(*named, help=facts.description, rich_help_panel=panel, min=least, max=most)
    annotation = Annotated[facts.annotation, option]  # type: ignore[name-defined]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=facts.default, annotation=annotation)


def _validated(schema: type[Settings], values: dict[str, Any], names: dict[str, str]) -> Settings:
    try:
        return schema.parsed(values)
    except ValidationError as error:
        first = error.errors()[0]
        problem = first["msg"].removeprefix("Value error, ")
        given = first["input"]
        shown = " ".join(map(str, given)) if isinstance(given, list) else given
        option = "".join(f"{_option_name(names[str(field)])} {shown}: " for field in first["loc"])
        raise ConfigError(f"{option}{problem[0].lower()}{problem[1:]}") from None


_COMMENT = re.compile(r"^    (\w+): .*  # (.+)$", re.MULTILINE)
_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n {6,}.*)*)", re.MULTILINE)
_PYTHONS_NONE = re.compile(r"\bNone(?= =)")  # TOML has no such value: a key is left out
_INDENT = "    "


class Keys(NamedTuple):
    """Some keys of a schema, under a prefix."""

    schema: type[Settings]
    prefix: str
    names: Sequence[str]


def lists_settings(*schemas: type[Settings] | Keys) -> Callable[[Callable[..., ResultT]], Callable[..., ResultT]]:
    """Give a command the option ``--list-settings``, which prints all keys of schemas, or some, and exits.

    It follows ``--set`` in the help.
    """

    def show(wanted: bool) -> None:
        if wanted:
            for one in schemas:
                lines = settings_lines(*one) if isinstance(one, Keys) else settings_lines(one)
                display(*lines)
            raise typer.Exit

    option = typer.Option("--list-settings", help="List all keys of --set and exit.", callback=show, is_eager=True)
    kind, annotation = inspect.Parameter.POSITIONAL_OR_KEYWORD, Annotated[bool, option]
    listing = inspect.Parameter("list_settings", kind, default=False, annotation=annotation)

    def decorate(command: Callable[..., ResultT]) -> Callable[..., ResultT]:
        @functools.wraps(command)
        def run(*, list_settings: bool = False, **given: Any) -> ResultT:
            return command(**given)

        shown = _parameters(command)
        shown.insert([one.name for one in shown].index("sets") + 1, listing)
        return _with_parameters(run, shown)

    return decorate


def settings_lines(schema: type[Settings], prefix: str = "", names: Sequence[str] = ()) -> Iterator[str]:
    """Yield ``key = default`` for every setting or the named ones, each followed by its description."""
    described: dict[str, str] = {}
    for one in reversed(schema.__mro__):
        if issubclass(one, Settings):
            found = _ATTRIBUTE.findall(inspect.cleandoc(one.__doc__ or "")) + _COMMENT.findall(inspect.getsource(one))
            described |= {name: " ".join(text.replace("``", "").split()) for name, text in found}
    for name, field in schema.model_fields.items():
        if names and name not in names:
            continue
        section = section_of(field.annotation)
        if section is not None and not isinstance(field.get_default(call_default_factory=True), list):
            yield from settings_lines(section, f"{prefix}{name}.")
            continue
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        yield f"{prefix}{name}" + ("" if default is None else f" = {json.dumps(default, ensure_ascii=False)}")
        what = _PYTHONS_NONE.sub("unset", described.get(name) or field.description or "")
        if what:
            yield f"{_INDENT}{what}"
