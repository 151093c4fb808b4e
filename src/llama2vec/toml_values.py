"""Single values in TOML: as ``--set`` reads them, and as recipes are written."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from typing import Any


def set_value(text: str) -> Any:
    """Return the value of a ``--set``: TOML, or else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def toml_value(value: object) -> str:
    """Write a value as TOML does.

    >>> toml_value([1, 0.5, True, "a \\"b\\""])
    '[1, 0.5, true, "a \\\\"b\\\\""]'
    """
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{json.dumps(name)} = {toml_value(one)}' for name, one in value.items())}}}"
    if value is None:
        return "none"
    # A TOML string takes what JSON's does, except two \\u escapes for one character and a bare DEL.
    is_plain = isinstance(value, bool | int | float)
    return json.dumps(value if is_plain else str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
