"""Benchmarks and examples, which no other test runs whole, name only what the package and the benchmarks have."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = sorted([*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "examples").rglob("*.py")])
AUTHORS_SIDE = ROOT / "benchmarks" / "fidelity" / "authors_side.py"
PAGES = [
    *(page for page in ROOT.glob("*.md") if page.name != "CHANGELOG.md"),  # Its rows name what there was
    *(page for folder in ("benchmarks", "docs", "models") for page in (ROOT / folder).rglob("*.md")),
    *(page for folder in ("benchmarks", "docs", "src") for page in (ROOT / folder).rglob("*.py")),
    *(ROOT / "benchmarks").rglob("*.sh"),
    *(ROOT / "benchmarks").rglob("*.toml"),
    *(ROOT / "recipes").glob("*.toml"),
    ROOT / "Makefile",
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_name_that_a_script_imports_exists(script: Path) -> None:
    missing = []
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "llama2vec":
            module = importlib.import_module(str(node.module))
            missing += [f"{node.module}.{one.name}" for one in node.names if not _has(module.__name__, one.name)]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "benchmarks":
            missing += [f"{node.module}.{one.name}" for one in node.names if not _defines(str(node.module), one.name)]
    assert not missing


def _has(module: str, name: str) -> bool:
    if hasattr(importlib.import_module(module), name):
        return True
    try:
        importlib.import_module(f"{module}.{name}")
    except ImportError:
        return False
    return True


def _defines(module: str, name: str) -> bool:
    """Return whether a benchmark has the name, without loading it: it may need packages that are not installed."""
    path = ROOT.joinpath(*module.split("."))
    if path.is_dir():
        return (path / f"{name}.py").is_file() or (path / name).is_dir()
    tree = ast.parse(path.with_suffix(".py").read_text(encoding="utf-8"))
    return name in {name for node in tree.body for name in _bound(node)}


def _bound(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Assign() | ast.AnnAssign():
            return [one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)]
        case ast.ImportFrom() | ast.Import():
            return [one.asname or one.name for one in node.names]
    return []


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").rglob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_names_its_neighbors_in_full(script: Path) -> None:
    """They start as ``python -m benchmarks.…`` in a checkout: a neighbor's bare name is not on the path."""
    text = script.read_text(encoding="utf-8")
    neighbors = {path.stem for path in (ROOT / "benchmarks").rglob("*.py")} | {"study"}
    assert {name.split(".")[0] for name in _imported(script)} & neighbors == set()
    assert "sys.path" not in text or script == AUTHORS_SIDE


def test_the_authors_side_needs_neither_the_package_nor_the_benchmarks() -> None:
    assert [name for name in _imported(AUTHORS_SIDE) if name.split(".")[0] in ("llama2vec", "benchmarks")] == []


def _imported(script: Path) -> list[str]:
    nodes = list(ast.walk(ast.parse(script.read_text(encoding="utf-8"))))
    names = [one.name for node in nodes if isinstance(node, ast.Import) for one in node.names]
    return names + [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_benchmark_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    modules = set(re.findall(r"\bbenchmarks(?:\.[a-z]\w*)+(?=[\s\"`])", text))
    lost = {name for name in modules if not _starts(name)}
    paths = set(re.findall(r"(?<![\w/])benchmarks/[a-z0-9_/]+\.(?:py|sh)\b", text))
    lost |= {path for path in paths if not (ROOT / path).is_file()}
    lost |= set(re.findall(r"python3? (?:benchmarks|docs)/\S+", text))
    assert lost == set()


def _starts(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()
