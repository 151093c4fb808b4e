"""``--list-settings``: every key that ``--set`` and a recipe know, with its default and meaning."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import typer

from llama2vec.config import Settings, section_of

_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n {6,}.*)*)", re.MULTILINE)
_WIDTH, _INDENT = 100, "    "


def settings_option(schema: type[Settings]) -> Any:
    """Return the option ``--list-settings``, which prints the keys of a schema and exits."""

    def show(wanted: bool) -> None:
        if wanted:
            typer.echo("\n".join(settings_lines(schema)))
            raise typer.Exit

    return typer.Option("--list-settings", help="List all keys of --set and exit.", callback=show, is_eager=True)


def settings_lines(schema: type[Settings], prefix: str = "") -> Iterator[str]:
    """Yield ``key = default`` for every setting, each followed by its description, sections in full."""
    # A subclass describes only what it adds or changes.
    documents = [inspect.cleandoc(one.__doc__ or "").replace("``", "") for one in reversed(schema.__mro__)]
    described = {name: " ".join(text.split()) for document in documents for name, text in _ATTRIBUTE.findall(document)}
    for name, field in schema.model_fields.items():
        section = section_of(field.annotation)
        if section is not None and not isinstance(field.get_default(call_default_factory=True), list):
            yield from settings_lines(section, f"{prefix}{name}.")
            continue
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        yield f"{prefix}{name}" + ("" if default is None else f" = {json.dumps(default, ensure_ascii=False)}")
        yield from textwrap.wrap(described.get(name, ""), _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT)
