"""Vectors that are the mean of several layers."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from llama2vec.config import EncoderSettings, ModelSettings
from llama2vec.errors import ContractError
from llama2vec.manifest import digest
from llama2vec.model.encoder import Encoder
from llama2vec.model.prompt import prompted_texts

TEXTS = ["Llamas hum.", "Alpacas graze on the high plateau all day long.", "A camelid.", ""]


def load(folder: Path, **settings: object) -> Encoder:
    float32 = ModelSettings(dtype="float32")
    return Encoder.load(folder, settings=float32, encoder=EncoderSettings.model_validate(settings))


def test_a_vector_is_the_mean_of_the_last_layers_at_unit_length(llama_folder: Path) -> None:
    encoder = load(llama_folder, layers=2)
    found = encoder.encode_passages(TEXTS)
    for text, vector in zip(TEXTS, found, strict=True):
        (ids,) = prompted_texts(encoder.backbone.tokenizer, [text], encoder.contract.ids, "self", 512)
        with torch.no_grad():
            states = encoder.backbone.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        slots = [state[0, -1] / state[0, -1].norm() for state in states[-2:]]
        expected = (slots[0] + slots[1]) / (slots[0] + slots[1]).norm()
        np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)


def test_mean_pooling_takes_the_layers_too_and_does_not_see_the_padding(llama_folder: Path) -> None:
    encoder = load(llama_folder, layers=2, pooling="mean")
    together = encoder.encode_passages(TEXTS)
    alone = np.concatenate([encoder.encode_passages([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(together - load(llama_folder, pooling="mean").encode_passages(TEXTS)).max() > 1e-3


def test_more_layers_than_the_model_has_are_cut_and_said(llama_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        encoder = load(llama_folder, layers=99)
    depth = encoder.backbone.model.config.num_hidden_layers
    assert encoder.contract.encoder.layers == depth
    assert f"cut to {depth} from 99" in caplog.text


def test_layers_are_part_of_the_contract_and_survive_saving(llama_folder: Path, tmp_path: Path) -> None:
    encoder = load(llama_folder, layers=2)
    assert encoder.contract_hash != load(llama_folder).contract_hash
    encoder.save(tmp_path / "saved")
    loaded = Encoder.load(tmp_path / "saved", settings=ModelSettings(dtype="float32"))
    assert loaded.contract.encoder.layers == 2
    np.testing.assert_array_equal(loaded.encode_queries(TEXTS), encoder.encode_queries(TEXTS))


def test_a_contract_of_one_layer_is_written_as_before_there_was_a_choice(llama_folder: Path, tmp_path: Path) -> None:
    load(llama_folder).save(tmp_path / "saved")
    assert "layers" not in json.loads((tmp_path / "saved" / "llama2vec.json").read_text())["encoder"]
    assert Encoder.load(tmp_path / "saved").contract.encoder.layers == 1


def test_a_contract_with_a_setting_that_nobody_here_knows_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    folder = load(llama_folder).save(tmp_path / "saved")
    contract = json.loads((folder / "llama2vec.json").read_text())
    contract.pop("hash")
    contract["common_directions"] = 12
    (folder / "llama2vec.json").write_text(json.dumps({**contract, "hash": digest(contract)}))
    with pytest.raises(ContractError, match="has settings that this llama2vec does not know; save the model again"):
        Encoder.load(folder)
