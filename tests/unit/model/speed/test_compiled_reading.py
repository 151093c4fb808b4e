"""Encoding with compiled layers gives the stock layers' vectors, compiles once, and falls back in one line."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llama2vec.config import EncoderSettings, ModelSettings
from llama2vec.model.encoder import Encoder
from llama2vec.model.speed import compiled, compiled_reading
from llama2vec.model.speed.compiled_reading import CompiledReading


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def pieces() -> int:
    """How many pieces of code were compiled so far."""
    return int(torch._dynamo.utils.counters["frames"]["ok"])


def loaded(
    folder: Path, compile_layers: Any, dtype: str = "float32", backend: str = "aot_eager", **settings: Any
) -> Encoder:
    # aot_eager traces as inductor does, without seconds of compiling.
    encoder = Encoder.load(
        folder,
        settings=ModelSettings(dtype=dtype, device="cpu", compile=compile_layers),
        encoder=EncoderSettings(**settings),
    )
    encoder._reading = CompiledReading(encoder.backbone, compile_layers, backend=backend)
    return encoder


@pytest.fixture
def mixed(sentences: list[str]) -> list[str]:
    """Texts of many lengths, the empty one too."""
    return ["", "river", *sentences[:6], " ".join(sentences[:5]), " ".join(sentences[:9])]


@pytest.mark.parametrize("settings", [{}, {"layers": 2}, {"pooling": "mean"}], ids=["slot", "layers", "mean"])
def test_float32_vectors_are_the_stock_ones_and_new_lengths_compile_nothing(
    llama_folder: Path, mixed: list[str], settings: dict[str, Any]
) -> None:
    stock, found = (loaded(llama_folder, wanted, **settings) for wanted in (False, True))
    expected = stock.encode_passages(mixed)
    assert pieces() == 0
    np.testing.assert_allclose(found.encode_passages(mixed), expected, atol=1e-5)
    once = pieces()
    assert once == 1  # One layer's code serves them all, and nothing in it stops the compiler
    assert found._reading.is_on(2, 1)
    for cells in (40, 90, 4096):
        found.batch_tokens = cells
        np.testing.assert_allclose(found.encode_passages(mixed), expected, atol=1e-5)
    assert pieces() == once


def test_the_compiler_itself_gives_the_stock_vectors_in_both_number_formats(
    llama_folder: Path, mixed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    for dtype, least in (("float32", 1 - 1e-6), ("bfloat16", 0.999)):
        expected = loaded(llama_folder, False, dtype, layers=2).encode_passages(mixed)
        with caplog.at_level(logging.INFO):
            vectors = loaded(llama_folder, True, dtype, "inductor", layers=2).encode_passages(mixed)
        cosines = (vectors.astype(np.float64) * expected).sum(axis=1)
        assert cosines.min() >= least
        if dtype == "float32":
            np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert caplog.text.count("layers compiled in") == 2


def test_the_model_is_as_before_between_batches(llama_folder: Path, mixed: list[str]) -> None:
    encoder = loaded(llama_folder, True)
    encoder.batch_tokens = 60
    batches = 0
    for _ in encoder.passage_batches(mixed):
        batches += 1
        assert not any("forward" in module.__dict__ for module in encoder.backbone.model.modules())
    assert batches > 2
    assert pieces() > 0


def test_a_single_text_compiles_nothing(llama_folder: Path) -> None:
    encoder = loaded(llama_folder, True)
    encoder.encode_queries("a bridge over the river")
    assert pieces() == 0


def test_auto_compiles_long_work_in_native_bfloat16_and_decides_by_the_texts_alone(
    llama_folder: Path, mixed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_reading, "cpu_has_bfloat16", lambda: True)
    encoder = loaded(llama_folder, "auto", "bfloat16")
    weights = sum(weight.numel() for weight in encoder.backbone.model.model.layers.parameters())
    monkeypatch.setattr(compiled_reading, "_PAYS_FROM", 200 * weights)
    encoder.encode_passages(mixed[:3])
    assert pieces() == 0
    whole = [vectors for _, vectors in encoder.passage_batches(mixed)]
    assert pieces() > 0
    # Work that is resumed reads what is left as the whole would.
    monkeypatch.setattr("llama2vec.model.encoder._CHUNK", 4)
    encoder.batch_tokens = 60
    rows = list(encoder.passage_batches(mixed))
    left = list(encoder.passage_batches(mixed, [row in rows[0][0] for row in range(len(mixed))]))
    for (_, one), (_, other) in zip(left, rows[1:], strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(np.concatenate(whole)) == len(mixed)


@pytest.mark.parametrize(("dtype", "native"), [("float32", True), ("bfloat16", False)])
def test_auto_leaves_the_layers_alone_where_it_would_gain_little(
    llama_folder: Path, mixed: list[str], monkeypatch: pytest.MonkeyPatch, dtype: str, native: bool
) -> None:
    monkeypatch.setattr(compiled_reading, "cpu_has_bfloat16", lambda: native)
    monkeypatch.setattr(compiled_reading, "_PAYS_FROM", 0)
    loaded(llama_folder, "auto", dtype).encode_passages(mixed)
    assert pieces() == 0


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [record for record in caplog.records if record.name == compiled_reading.logger.name]
    return [record.getMessage() for record in records if record.levelno >= logging.WARNING]


def refused(*_: Any, **__: Any) -> Any:
    raise ValueError("the linker is missing")


def wrong(graph: Any, _: Any) -> Any:
    return lambda *inputs: tuple(2 * out for out in graph(*inputs))


@pytest.mark.parametrize(("backend", "reason"), [(refused, "the linker is missing"), (wrong, "they give other states")])
def test_a_compiler_that_fails_or_errs_leaves_the_stock_vectors_and_one_line(
    llama_folder: Path, mixed: list[str], caplog: pytest.LogCaptureFixture, backend: Any, reason: str
) -> None:
    expected = loaded(llama_folder, False).encode_passages(mixed)
    encoder = loaded(llama_folder, True, backend=backend)
    for _ in range(2):
        np.testing.assert_array_equal(encoder.encode_passages(mixed), expected)
    lines = warned(caplog)
    assert len(lines) == 1
    assert "encodes without compiled layers: " in lines[0]
    assert reason in lines[0]
    assert "\n" not in lines[0]


def test_without_a_compiler_there_is_one_line_and_the_stock_vectors(
    llama_folder: Path, mixed: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda _: None)
    expected = loaded(llama_folder, False).encode_passages(mixed)
    np.testing.assert_array_equal(loaded(llama_folder, True).encode_passages(mixed), expected)
    assert [line.count("needs a C++ compiler") for line in warned(caplog)] == [1]


def test_a_failure_at_a_later_batch_goes_on_with_the_stock_layers(
    llama_folder: Path, mixed: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = loaded(llama_folder, False).encode_passages(mixed)
    encoder = loaded(llama_folder, True)
    encoder.encode_passages(mixed)
    layer, _ = encoder._reading._forwards[0]
    encoder._reading._forwards[0] = (layer, refused)
    np.testing.assert_allclose(encoder.encode_passages(mixed), expected, atol=1e-5)
    assert caplog.text.count("the linker is missing") == 1


def test_other_architectures_agree_too(
    save_model: Callable[..., Path], tmp_path: Path, architecture: str, mixed: list[str]
) -> None:
    folder = save_model(tmp_path, architecture)
    expected = loaded(folder, False).encode_passages(mixed)
    np.testing.assert_allclose(loaded(folder, True).encode_passages(mixed), expected, atol=1e-5)


def test_in_sixteen_bits_single_positions_may_differ_and_most_may_not() -> None:
    states = torch.randn(3, 24, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    odd, all_wrong, broken = states.clone(), -states, states.clone()
    odd[0, 7] = -odd[0, 7]
    broken[1, 3] = torch.nan
    assert compiled_reading._distance(states, odd) == 0
    assert compiled_reading._distance(states, all_wrong) == pytest.approx(2)
    assert not compiled_reading._distance(states, broken) <= 0.1
    assert compiled_reading._distance(states.float(), odd.float()) == pytest.approx(2)
