from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from encoders import encoder_for
from tokenizers import Tokenizer

from llama2vec.config import EncoderSettings
from llama2vec.errors import ConfigError, ModelError, OutputExistsError
from llama2vec.model.golden import GOLDEN_TEXTS
from llama2vec.model.publish.exporting import QUERY_TOKENIZER, Export, OnnxExport, export_encoder
from llama2vec.model.publish.gguf_file import GGUF_FILE
from llama2vec.model.source import EXPORT_FILE
from llama2vec.records import SIDES


def test_the_folder_s_own_files_give_the_encoder_s_vectors_without_llama2vec(exported: Path) -> None:
    encoder = encoder_for(exported.parent / "encoder")
    expected = {"query": encoder.encode_queries(GOLDEN_TEXTS), "passage": encoder.encode_passages(GOLDEN_TEXTS)}
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    for side, name in (("query", QUERY_TOKENIZER), ("passage", "tokenizer.json")):
        batch = Tokenizer.from_file(str(exported / name)).encode_batch(list(GOLDEN_TEXTS))
        inputs = {"input_ids": [one.ids for one in batch], "attention_mask": [one.attention_mask for one in batch]}
        (vectors,) = session.run(["sentence_embedding"], {key: np.array(rows) for key, rows in inputs.items()})
        assert np.abs(vectors - expected[side]).max() < 1e-5


def test_every_way_of_batching_gives_the_same_vectors(exported: Path) -> None:
    for side in SIDES:
        right, left, alone = OnnxExport(exported).embed_every_way(side, GOLDEN_TEXTS).values()
        assert np.abs(right - left).max() < 1e-5
        assert np.abs(right - alone).max() < 1e-5


def test_it_says_what_it_was_made_from_and_how_near_it_is(exported: Path) -> None:
    found = Export.read(exported, "onnx")
    assert found.contract == encoder_for(exported.parent / "encoder").contract_hash
    assert Path(found.encoder.path) == exported.parent / "encoder"
    assert found.quantize == "none"
    assert (found.cosine or 0) > 0.99999
    assert (found.difference or 1) < 1e-5


def test_a_second_call_does_nothing_and_other_settings_need_overwrite(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("nothing is to be done")

    monkeypatch.setattr("llama2vec.model.publish.onnx_file.write_onnx", fail)
    assert export_encoder(exported.parent / "encoder", exported) == Export.read(exported, "onnx")
    with pytest.raises(OutputExistsError, match="quantize: 'none' there, 'int8' now"):
        export_encoder(exported.parent / "encoder", exported, quantize="int8")


def test_gguf_is_one_file_that_nothing_was_compared_with_yet(exported: Path, tmp_path: Path) -> None:
    encoder_for(exported.parent / "base", None, EncoderSettings(servable=True)).save(tmp_path / "model")
    made = export_encoder(tmp_path / "model", tmp_path / "out", runtime="llama.cpp", quantize="float16")
    assert (made.cosine, made.quantize) == (None, "float16")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [EXPORT_FILE, "llama2vec.json", GGUF_FILE]
    with pytest.raises(ConfigError, match="no export for onnx"):
        Export.read(tmp_path / "out", "onnx")
    with pytest.raises(ConfigError, match="--quantize float16: onnx takes none, int8"):
        export_encoder(tmp_path / "model", tmp_path / "onnx", quantize="float16")


def test_a_folder_of_somebody_else_stays(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="does not hold an exported encoder"):
        export_encoder(exported.parent / "encoder", tmp_path, overwrite=True)


def test_a_failed_export_leaves_nothing(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ModelError("no")

    monkeypatch.setattr("llama2vec.model.publish.onnx_file.write_onnx", fail)
    with pytest.raises(ModelError):
        export_encoder(exported.parent / "encoder", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_contract_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="give an encoder that llama2vec saved"):
        export_encoder(llama_folder, tmp_path / "out")


def damaged(exported: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    facts = json.loads((exported / EXPORT_FILE).read_text())
    change(facts)
    (folder / EXPORT_FILE).write_text(json.dumps(facts))
    return folder


def test_a_folder_that_holds_no_export_or_a_damaged_one_is_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no export for onnx"):
        Export.read(tmp_path, "onnx")
    with pytest.raises(ModelError, match="damaged"):
        Export.read(damaged(exported, tmp_path, lambda facts: facts.pop("cosine")), "onnx")


def test_a_broken_tokenizer_is_one_line(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").symlink_to(exported / "model.onnx")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="its tokenizer cannot be read"):
        OnnxExport(tmp_path)
