"""The files by which sentence-transformers opens a saved encoder; test_portable_encoder.py opens it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from encoders import FLOAT32, encoder_for
from sentence_transformers import SentenceTransformer

from llama2vec.config import EncoderSettings
from llama2vec.errors import ContractError
from llama2vec.model.encoder import Encoder
from llama2vec.model.publish.portable_files import MODULE_FILE, module_source, write_sentence_transformers_files


def test_sentence_transformers_finds_one_module_that_is_our_own_source(tmp_path: Path) -> None:
    write_sentence_transformers_files(tmp_path)
    assert (tmp_path / MODULE_FILE).read_bytes() == module_source()
    modules = json.loads((tmp_path / "modules.json").read_text(encoding="utf-8"))
    assert [(module["path"], module["type"]) for module in modules] == [("", "portable_encoder.PortableEncoder")]
    settings = json.loads((tmp_path / "config_sentence_transformers.json").read_text(encoding="utf-8"))
    assert settings["similarity_fn_name"] == "cosine"
    assert set(settings["prompts"]) == {"query", "document"}


def test_a_servable_encoder_that_sentence_transformers_saved_again_is_refused(
    llama_folder: Path, tmp_path: Path
) -> None:
    encoder = encoder_for(llama_folder, settings=EncoderSettings(servable=True))
    folder = encoder.save(tmp_path / "ours")
    SentenceTransformer(str(folder), device="cpu").save_pretrained(str(tmp_path / "again"))
    with pytest.raises(
        ContractError, match=r"again: a servable encoder that sentence-transformers saved again"
    ) as line:
        Encoder.load(tmp_path / "again")
    assert "give the folder that llama2vec saved" in str(line.value)
    assert Encoder.load(folder, settings=FLOAT32).contract_hash == encoder.contract_hash


@pytest.mark.parametrize(
    ("pooling", "words"),
    [
        ({"pooling_mode": "mean"}, " with pooling mean;"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, " with pooling mean_tokens;"),
        (None, "sentence-transformers; it is read"),
    ],
)
def test_a_model_of_sentence_transformers_is_read_as_a_plain_llm_with_one_line(
    llama_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, pooling: dict[str, object] | None, words: str
) -> None:
    folder = Path(shutil.copytree(llama_folder, tmp_path / "model"))
    (folder / "modules.json").write_text("[]")
    if pooling:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    with caplog.at_level("WARNING"):
        encoder_for(folder)
    (line,) = [one.getMessage() for one in caplog.records if "sentence-transformers" in one.getMessage()]
    assert f"{folder} is a model of sentence-transformers" in line
    assert words in line
    assert "read as a plain LLM" in line
    caplog.clear()
    encoder_for(llama_folder)
    assert "sentence-transformers" not in caplog.text
