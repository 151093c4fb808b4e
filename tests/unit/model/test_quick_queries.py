"""The first query writes a reader; later ones need no model, and never a reader that is stale, damaged or wrong."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llama2vec.config import EncoderSettings, ModelSettings
from llama2vec.model import quick_queries
from llama2vec.model.encoder import Encoder
from llama2vec.model.quick_queries import SWITCH, QuickQueries, reader_place, remove_old_readers
from llama2vec.model.source import ModelSpec
from llama2vec.model.speed import query_reader, short_reading
from llama2vec.model.speed.query_reader import READER_FILE, WEIGHTS_FILE, QueryReader
from llama2vec.records import Query

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="PyTorch multiplies packed bfloat16 from AVX-512 on"
)
SETTINGS = ModelSettings(dtype="bfloat16", device="cpu")
QUESTION = [Query("q", "a bridge over the river")]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for module in (short_reading, quick_queries):
        monkeypatch.setattr(module, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(short_reading, "_LEAST_WEIGHTS", 0)
    monkeypatch.setenv("LLAMA2VEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "readers"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[ModelSpec]:
    """The spec of each model that is loaded."""
    found: list[ModelSpec] = []
    load = Encoder.from_spec

    def noted(spec: ModelSpec, *arguments: Any) -> Encoder:
        found.append(spec)
        return load(spec, *arguments)

    monkeypatch.setattr(Encoder, "from_spec", noted)
    return found


@pytest.fixture
def model(llama_folder: Path, tmp_path: Path) -> Path:
    """A saved encoder that a test may change."""
    encoder = Encoder.load(llama_folder, settings=SETTINGS, encoder=EncoderSettings(layers=2))
    return encoder.save(tmp_path / "model")


def asked(folder: Path, queries: list[Query] = QUESTION, settings: ModelSettings = SETTINGS) -> np.ndarray[Any, Any]:
    """Return what a new process would: the vectors of queries."""
    return QuickQueries(ModelSpec(path=str(folder)), settings).encode_queries(queries)


def own(folder: Path) -> np.ndarray[Any, Any]:
    """Return the vectors that the encoder gives from its second question on."""
    encoder = Encoder.load(folder, settings=SETTINGS)
    return [encoder.encode_queries(QUESTION) for _ in range(2)][1]


def test_the_first_query_writes_a_reader_and_later_ones_load_no_model(
    model: Path, cache: Path, loads: list[ModelSpec], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        first = asked(model)
    assert caplog.text.count("later searches start faster") == 1
    assert "MB" in caplog.text
    assert (len(loads), len(list(cache.iterdir()))) == (1, 1)
    quick = QuickQueries(ModelSpec(path=str(model)), SETTINGS)
    later = [quick.encode_queries(QUESTION) for _ in range(3)]
    assert quick.contract_hash == Encoder.load(model, settings=SETTINGS).contract_hash
    assert len(loads) == 1
    for vectors in (first, *later):
        np.testing.assert_array_equal(vectors, own(model))


def test_long_work_is_read_by_the_model(model: Path, loads: list[ModelSpec], sentences: list[str]) -> None:
    asked(model)
    many = [Query(str(number), text) for number, text in enumerate(sentences * 5)]
    found = asked(model, many)
    assert len(loads) == 2
    np.testing.assert_array_equal(found, Encoder.load(model, settings=SETTINGS).encode_queries(many))


def test_another_model_under_the_same_path_gets_another_reader(
    model: Path, cache: Path, loads: list[ModelSpec]
) -> None:
    before = asked(model)
    encoder = Encoder.load(model, settings=SETTINGS)
    with torch.no_grad():
        encoder.backbone.model.model.layers[0].mlp.down_proj.weight.mul_(-3)
    encoder.save(model, overwrite=True)
    after = asked(model)
    assert float(before[0] @ after[0]) < 0.999
    np.testing.assert_array_equal(after, own(model))
    assert len(list(cache.iterdir())) == 1
    asked(model)
    assert len(loads) == 2


@pytest.mark.parametrize("part", ["tokenizer.json", "config.json", "llama2vec.json"])
def test_a_model_that_does_not_match_its_contract_is_refused_as_ever(model: Path, part: str) -> None:
    from llama2vec.errors import Llama2VecError

    asked(model)
    content = json.loads((model / part).read_text(encoding="utf-8"))
    if part == "tokenizer.json":
        content["normalizer"] = {"type": "Lowercase"}
    else:
        content["rms_norm_eps" if part == "config.json" else "weights"] = 0.5
    (model / part).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(Llama2VecError):
        asked(model)


def test_other_libraries_processors_and_versions_of_the_format_do_not_share_readers(
    model: Path, loads: list[ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(model)
    for count, (module, name, value) in enumerate(
        (
            (quick_queries, "versions", lambda: {"torch": "0.0"}),
            (torch.cpu, "get_capabilities", lambda: {"amx": "new"}),
            (quick_queries, "FORMAT", {**query_reader.FORMAT, "version": 0}),
        ),
        start=2,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value, raising=False)
            asked(model)
        assert len(loads) == count


@pytest.mark.parametrize("name", [READER_FILE, WEIGHTS_FILE])
def test_a_damaged_reader_is_written_again(model: Path, loads: list[ModelSpec], name: str) -> None:
    expected = asked(model)
    file = reader_place(ModelSpec(path=str(model)), SETTINGS) / name
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    np.testing.assert_array_equal(asked(model), expected)
    assert len(loads) == 2
    np.testing.assert_array_equal(asked(model), expected)
    assert len(loads) == 2


def test_a_reader_with_other_vectors_is_not_kept(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vectors = QueryReader.vectors

    def turned(self: QueryReader, texts: list[str]) -> Any:
        found = vectors(self, texts)
        return found if found is None or "東京" not in texts[0] else np.roll(found, 1, axis=1)

    with monkeypatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(QueryReader, "vectors", turned)
        found = asked(model)
    assert "no query reader was written: it gives another vector" in caplog.text
    assert list(cache.glob("*/*")) == []
    np.testing.assert_array_equal(found, own(model))


def test_a_model_without_a_reader_is_tried_once(
    save_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(tmp_path / "qwen3", "qwen3")
    first = asked(folder)
    monkeypatch.setattr(quick_queries, "write_reader", lambda *_: pytest.fail("tried again"))
    found = asked(folder)
    encoder = Encoder.load(folder, settings=SETTINGS)
    np.testing.assert_array_equal(found, encoder.encode_queries(QUESTION))
    assert float(first[0] @ found[0]) > 0.999


def test_float32_small_models_and_the_switch_write_nothing(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = asked(model, settings=ModelSettings(dtype="float32", device="cpu"))
    np.testing.assert_array_equal(exact, Encoder.load(model, dtype="float32", device="cpu").encode_queries(QUESTION))
    with monkeypatch.context() as patch:
        patch.setenv(SWITCH, "0")
        asked(model)
    with monkeypatch.context() as patch:
        patch.setattr(short_reading, "_LEAST_WEIGHTS", 1 << 40)
        asked(model)
    assert not cache.exists()
    asked(model)
    monkeypatch.setenv(SWITCH, "0")
    monkeypatch.setattr(QueryReader, "open", lambda *_: pytest.fail("opened"))
    asked(model)


def test_a_cache_that_cannot_be_written_costs_only_time(
    model: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("in the way")
    with caplog.at_level(logging.INFO):
        found = asked(model)
    np.testing.assert_array_equal(found, Encoder.load(model, settings=SETTINGS).encode_queries(QUESTION))
    assert caplog.text.count("no query reader was written") == 1


def test_the_readers_that_were_not_used_for_longest_go(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(model)
    first = next(cache.iterdir())
    for number in range(6):
        shutil.copytree(first, cache / f"other-{number}")
        os.utime(cache / f"other-{number}" / READER_FILE, (number, number))
    stranger = cache / "mine"
    stranger.mkdir()
    remove_old_readers(keep=first)
    assert {folder.name for folder in cache.iterdir()} == {first.name, "mine", "other-3", "other-4", "other-5"}
    monkeypatch.setattr(quick_queries, "MOST_BYTES", 1)
    remove_old_readers(keep=first)
    assert {folder.name for folder in cache.iterdir()} == {first.name, "mine"}


def test_with_a_reader_no_process_imports_transformers(model: Path) -> None:
    expected = asked(model)
    script = (
        "import sys\n"
        "from llama2vec.model import quick_queries\n"
        "quick_queries.cpu_has_bfloat16 = lambda: True\n"
        "from llama2vec.config import ModelSettings\n"
        "from llama2vec.model.source import ModelSpec\n"
        "from llama2vec.records import Query\n"
        "import llama2vec.cli.search, llama2vec.retrieve.search.retriever\n"
        "settings = ModelSettings(dtype='bfloat16', device='cpu')\n"
        "quick = quick_queries.QuickQueries(ModelSpec(path=sys.argv[1]), settings)\n"
        "print(quick.encode_queries([Query('q', sys.argv[2])]).tobytes().hex())\n"
        "print([name for name in ('transformers', 'peft', 'gguf', 'accelerate') if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", script, str(model), QUESTION[0].text]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines == [expected.tobytes().hex(), "[]"]
