"""Errors over a model's files are one line, and the cache holds whole models that others can read."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

import pytest

from llama2vec.errors import ModelError, one_line
from llama2vec.model.loading import into_cache, model_errors
from llama2vec.model.source import ModelSource


def test_any_error_over_a_models_files_is_one_line() -> None:
    with (
        pytest.raises(
            ModelError,
            match=r"^m: transformers cannot load this model \(two lines\); update transformers, or take another model$",
        ),
        model_errors(ModelSource("m", "m")),
    ):
        raise RuntimeError("two\nlines")
    assert one_line(ValueError("x" * 200), width=10) == "x" * 9 + "…"


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_an_unpacked_model_can_be_read_by_the_user_of_a_service(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with into_cache(tmp_path / "cache" / "model") as partial:
            weights = partial / "model.safetensors"
            weights.write_bytes(b"weights")
            weights.chmod(0o600)  # As safetensors writes it
    finally:
        os.umask(before)
    modes = [
        path.stat().st_mode & 0o777
        for path in (tmp_path / "cache" / "model", partial.with_name("model") / weights.name)
    ]
    assert modes == [0o755, 0o644]


@pytest.mark.parametrize(
    "problem", [OSError(errno.ENOSPC, "No space left on device"), ValueError("I/O error: No space left (os error 28)")]
)
def test_a_full_disk_of_the_cache_is_one_line_that_names_its_setting(tmp_path: Path, problem: Exception) -> None:
    said = r"cannot be written \(the disk is full\); set LLAMA2VEC_CACHE to a folder"
    with pytest.raises(ModelError, match=said), into_cache(tmp_path / "cache" / "model"):
        raise problem
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(FileNotFoundError), into_cache(tmp_path / "cache" / "model"):
        (tmp_path / "missing").read_bytes()


def test_what_a_killed_process_unpacked_goes_with_the_next_model(tmp_path: Path) -> None:
    left = tmp_path / f".unpacking-{uuid.uuid4().hex}"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    with into_cache(tmp_path / "one") as first, into_cache(tmp_path / "other") as second:
        assert not left.exists()
        assert first.is_dir()  # its owner lives
        assert second.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]
