"""What made an artifact, and when two plans are the same."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llama2vec import manifest
from llama2vec.manifest import build_manifest, canonical_json, code_version, digest, first_difference, sealed, unsealed


def test_equal_data_has_one_text_and_one_digest_whatever_its_order() -> None:
    first, second = {"b": [1, 2.5], "a": {"y": None, "x": "é"}}, {"a": {"x": "é", "y": None}, "b": [1, 2.5]}
    assert canonical_json(first) == canonical_json(second) == '{"a":{"x":"é","y":null},"b":[1,2.5]}'
    assert digest(first) == hashlib.sha256(canonical_json(second).encode()).hexdigest()
    assert digest({"a": 1}) != digest({"a": 1.5})


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"a": 1}, {}, ("a", 1, None)),
        ({}, {"a": 1}, ("a", None, 1)),
        ({"a": {"b": {"c": 1}}, "z": 0}, {"a": {"b": {"c": 2}}, "z": 1}, ("a.b.c", 1, 2)),
        ({"a": {"b": 1}}, {"a": 3}, ("a", {"b": 1}, 3)),
    ],
)
def test_the_first_difference_is_named_by_its_dotted_key(
    old: dict[str, Any], new: dict[str, Any], expected: tuple[str, object, object] | None
) -> None:
    assert first_difference(old, new) == expected


def test_a_seal_shows_every_change() -> None:
    content = sealed({"steps": 6, "loss": 1.5})
    assert unsealed(content) == {"steps": 6, "loss": 1.5}
    assert unsealed({**content, "steps": 7}) is None
    assert unsealed({**content, "more": 1}) is None
    assert unsealed({"steps": 6}) == {"steps": 6}, "earlier versions wrote no seal"
    assert sealed({**content, "steps": 7}) == sealed({"steps": 7, "loss": 1.5})
    assert sealed({"steps": 6}, "hash") == {"steps": 6, "hash": digest({"steps": 6})}


def test_a_manifest_holds_settings_inputs_results_versions_and_machine() -> None:
    made = build_manifest("adapt", {"steps": 2}, {"corpus": "abc"}, {"loss": 1.5})
    assert (made["stage"], made["settings"], made["inputs"], made["results"]) == (
        "adapt", {"steps": 2}, {"corpus": "abc"}, {"loss": 1.5},
    )  # fmt: skip
    assert {"python", "llama2vec", "numpy", "torch"} <= set(made["versions"])
    assert made["machine"]["cores"] >= 1


def test_without_git_or_a_checkout_the_code_version_is_the_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_version() == manifest.package_version()

    def fail(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(subprocess, "run", fail)
    assert code_version() == manifest.package_version()
