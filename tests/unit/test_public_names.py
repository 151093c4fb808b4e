"""What `import llama2vec` promises."""

from __future__ import annotations

import subprocess
import sys

import pytest

import llama2vec

PROMISED = [
    "AdaptConfig",
    "Encoder",
    "FinetuneConfig",
    "Llama2VecError",
    "Passage",
    "PassageSettings",
    "Query",
    "Retriever",
    "VectorStore",
    "adapt_model",
    "build_index",
    "evaluate_run",
    "finetune_model",
    "open_index",
    "read_passages",
]


def test_the_public_names_are_these_and_at_most_fifteen() -> None:
    assert llama2vec.__all__ == PROMISED
    assert len(PROMISED) <= 15


@pytest.mark.parametrize("name", PROMISED)
def test_every_public_name_can_be_imported_and_is_documented(name: str) -> None:
    assert (getattr(llama2vec, name).__doc__ or "").strip()
    assert callable(getattr(llama2vec, name))
    assert name in dir(llama2vec)


def test_importing_a_module_does_not_hide_a_public_name() -> None:
    code = """
import importlib, llama2vec, pathlib
for module in pathlib.Path(llama2vec.__file__).parent.rglob("*.py"):
    name = ".".join(["llama2vec", *module.relative_to(pathlib.Path(llama2vec.__file__).parent).with_suffix("").parts])
    if not name.endswith(("__init__", "__main__")) and not set(name.split(".")[1:]) & {"integrations", "publish"}:
        importlib.import_module(name)
print([name for name in llama2vec.__all__ if not callable(getattr(llama2vec, name))])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout.strip()) == (0, "[]"), found.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'encode'"):
        llama2vec.encode  # noqa: B018


def test_evaluation_data_and_settings_import_without_torch() -> None:
    code = """
import importlib, pkgutil, sys
import llama2vec, llama2vec.config, llama2vec.records, llama2vec.manifest, llama2vec.cli
for package in ("llama2vec.data",):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        importlib.import_module(module.name)
print([name for name in ("torch", "transformers") if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout.strip()) == (0, "[]"), found.stderr
