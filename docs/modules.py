"""Write modules and layers into docs/architecture.md, from docstrings and import contracts; or --check the page."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

PAGE = Path(__file__).with_name("architecture.md")
_ROOT = Path(__file__).resolve().parent.parent
SOURCE, PYPROJECT = _ROOT / "src" / "llama2vec", _ROOT / "pyproject.toml"
_LAYERS = re.compile(r"(?P<mark><!-- layers of (?P<package>[\w.]+) -->\n\n)(?: {4}.*\n)*")
_ENTRY = re.compile(r"^(?P<indent>(?:  )*)- `(?P<name>[\w./]+)`(?:: ?(?P<line>.*))?$", re.MULTILINE)


def listed(page: str) -> list[str]:
    """Return the files and folders that the page lists, relative to the package; a folder ends in ``/``."""
    folders: list[str] = []
    found = []
    for entry in _ENTRY.finditer(page):
        del folders[len(entry["indent"]) // 2 :]
        found.append("".join([*folders, entry["name"]]))
        if entry["name"].endswith("/"):
            folders.append(entry["name"])
    return found


def with_lines(page: str) -> str:
    """Return the page with the line of every module and package; its order and all else stay as they are."""
    paths = iter(listed(page))

    def written(entry: re.Match[str]) -> str:
        line = first_line(SOURCE / next(paths))
        return f"{entry['indent']}- `{entry['name']}`: {line}" if line else entry[0]

    return _ENTRY.sub(written, page)


def with_layers(page: str) -> str:
    """Return the page with the layers of each package that pyproject.toml has import-linter check."""
    contracts = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    layers = {one["containers"][0]: one["layers"] for one in contracts if one["type"] == "layers"}

    def written(block: re.Match[str]) -> str:
        return block["mark"] + "".join(f"    {line}\n" for line in layers[block["package"]])

    return _LAYERS.sub(written, page)


def first_line(path: Path) -> str:
    """Return the first line of a module's or package's docstring as Markdown; "" for any other file or folder."""
    module = path / "__init__.py" if path.is_dir() else path
    if module.suffix != ".py" or not module.is_file():
        return ""
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].replace("``", "`").removesuffix(".")


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    if "--check" not in sys.argv:
        PAGE.write_text(with_layers(with_lines(page)), encoding="utf-8")
    elif with_layers(with_lines(page)) != page:
        sys.exit("docs/architecture.md is out of date: run `make docs`")
