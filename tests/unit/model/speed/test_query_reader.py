"""A query reader gives its encoder's vectors to the last bit, and does not open where a file was changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llama2vec.config import EncoderSettings, ModelSettings, PromptSettings
from llama2vec.model.encoder import Encoder
from llama2vec.model.speed import short_reading
from llama2vec.model.speed.query_reader import (
    READER_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    QueryReader,
    reader_facts,
    write_reader,
)

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="PyTorch multiplies packed bfloat16 from AVX-512 on"
)
PLAN = {"model": "tiny"}
TEXTS = ("a bridge over the river", "Ünïcode 東京 мир", "", "  two  spaces\tand a tab ", "bridge " * 40)


@pytest.fixture(autouse=True)
def tiny_models_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_reading, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(short_reading, "_LEAST_WEIGHTS", 0)


def loaded(folder: Path, prompts: PromptSettings | None = None, **settings: Any) -> Encoder:
    found = EncoderSettings(**settings)
    return Encoder.load(folder, settings=ModelSettings(dtype="bfloat16", device="cpu"), prompts=prompts, encoder=found)


def opened(folder: Path) -> QueryReader:
    reader = QueryReader.open(folder)
    assert reader is not None
    return reader


@pytest.mark.parametrize(
    ("prompts", "settings"),
    [
        (None, {}),
        (PromptSettings(slots=3), {"layers": 2, "query_prompt": "next", "query_max_tokens": 9}),
        (None, {"pooling": "mean", "layers": 2}),
    ],
    ids=["last", "slots", "mean"],
)
def test_vectors_are_those_of_the_encoder_to_the_last_bit(
    llama_folder: Path, tmp_path: Path, prompts: PromptSettings | None, settings: dict[str, Any]
) -> None:
    encoder = loaded(llama_folder, prompts, **settings)
    assert write_reader(tmp_path, PLAN, encoder) is None
    reader = opened(tmp_path)
    assert reader.contract_hash == encoder.contract_hash
    for text in TEXTS:  # The first one is read before the weights are packed.
        found = reader.vectors([text])
        assert found is not None
        np.testing.assert_array_equal(found[0], encoder.encode_queries(text))
    together = reader.vectors(TEXTS[:3])
    np.testing.assert_array_equal(together, encoder.encode_queries(list(TEXTS[:3])))
    assert reader.vectors([]).shape == (0, encoder.dimension)  # type: ignore[union-attr]


def test_more_than_a_few_questions_are_left_to_the_model(llama_folder: Path, tmp_path: Path) -> None:
    write_reader(tmp_path, PLAN, loaded(llama_folder, query_max_tokens=200))
    reader = opened(tmp_path)
    assert reader.vectors(["bridge " * 400]) is not None
    assert reader.vectors(["bridge " * 400] * 2) is None
    assert reader.vectors(["bridge"] * 300) is None
    assert reader.vectors(["bridge over the river " * 3] * 40) is None


def test_a_changed_file_does_not_open(llama_folder: Path, tmp_path: Path) -> None:
    write_reader(tmp_path, PLAN, loaded(llama_folder))
    for name in (WEIGHTS_FILE, TOKENIZER_FILE, READER_FILE):
        file = tmp_path / name
        before = file.read_bytes()
        middle = len(before) // 2
        for damaged in (before[:middle] + bytes([before[middle] ^ 1]) + before[middle + 1 :], before[:-5]):
            file.write_bytes(damaged)
            assert QueryReader.open(tmp_path) is None, name
        file.unlink()
        assert QueryReader.open(tmp_path) is None, name
        file.write_bytes(before)
        opened(tmp_path)


def test_a_seal_over_other_content_does_not_hold(llama_folder: Path, tmp_path: Path) -> None:
    write_reader(tmp_path, PLAN, loaded(llama_folder))
    content = json.loads((tmp_path / READER_FILE).read_text())
    content["contract"]["encoder"]["query_max_tokens"] = 3
    (tmp_path / READER_FILE).write_text(json.dumps(content))
    assert reader_facts(tmp_path) is None
    assert QueryReader.open(tmp_path) is None


def test_a_model_of_another_plan_is_refused_in_writing(save_model: Any, tmp_path: Path) -> None:
    encoder, folder = loaded(save_model(tmp_path / "model", "qwen3")), tmp_path / "reader"
    folder.mkdir()
    assert "Llama's plan" in str(write_reader(folder, PLAN, encoder))
    facts = reader_facts(folder)
    assert facts is not None
    assert (facts["plan"], "refused" in facts) == (PLAN, True)
    assert QueryReader.open(folder) is None


def test_questions_that_are_cut_are_counted_and_the_next_one_is_still_cut(llama_folder: Path, tmp_path: Path) -> None:
    encoder = loaded(llama_folder, query_max_tokens=6)
    write_reader(tmp_path, PLAN, encoder)
    reader = opened(tmp_path)
    texts = ["bridge", "bridge over the river and the castle", "bridge over the river " * 9]
    assert (reader.count_cut(texts), reader.most_tokens) == (encoder.cut_queries(texts).texts, 6)
    assert reader.count_cut(texts) == 2
    np.testing.assert_array_equal(reader.vectors([texts[2]])[0], encoder.encode_queries(texts[2]))  # type: ignore[index]
