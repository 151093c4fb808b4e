"""The rules of the house: sizes, layers, names of tests, and the list in docs/architecture.md."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from docs import modules

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "llama2vec"
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))
FILES = sorted(path for path in SOURCE.rglob("*") if path.is_file() and path.suffix != ".pyc")

# Half is the method, from a corpus to a table; the other half reads, splits, syncs and filters documents.
MAX_PYTHON_LINES = 51_500
MAX_PYTHON_FILES = 328
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8
MAX_COMMAND_PARAMETERS = 12


def relative(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def line_count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{relative(path)}:{node.name}", node


def parameter_count(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in named)


def test_no_file_is_longer_than_the_limit() -> None:
    assert {relative(path) for path in FILES if line_count(path) > MAX_FILE_LINES} == set()


def test_the_package_stays_within_its_lines_and_files() -> None:
    files = list(SOURCE.rglob("*.py"))
    assert sum(map(line_count, files)) <= MAX_PYTHON_LINES
    assert len(files) <= MAX_PYTHON_FILES


def test_no_function_is_longer_than_the_limit() -> None:
    lengths = {
        name: node.end_lineno - node.lineno + 1
        for path in MODULES
        for name, node in functions(path)
        if node.end_lineno is not None
    }
    assert {name for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == set()


def test_no_function_has_more_parameters_than_the_limit() -> None:
    found = {
        name
        for path in MODULES
        for name, node in functions(path)
        if parameter_count(node) > (MAX_COMMAND_PARAMETERS if path.parent.name == "cli" else MAX_PARAMETERS)
    }
    assert found == set()


def test_every_module_has_a_test_file_of_its_name() -> None:
    tests = ROOT / "tests" / "unit"
    missing = {
        relative(path)
        for path in MODULES
        if not (tests / path.relative_to(SOURCE).parent / f"test_{path.stem}.py").is_file()
    }
    assert missing == set()


def test_imports_form_no_cycle_type_only_imports_included() -> None:
    graph = grimp.build_graph("llama2vec", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"import cycle: {' imports '.join(error.args[1])}")


def test_the_architecture_page_lists_every_file_once_with_the_first_line_of_its_docstring() -> None:
    page = modules.PAGE.read_text(encoding="utf-8")
    files = [path for path in modules.listed(page) if not path.endswith("/")]
    assert sorted(files) == [relative(path) for path in FILES if path.name != "__init__.py"]
    assert modules.with_layers(modules.with_lines(page)) == page, "run `make docs`"
