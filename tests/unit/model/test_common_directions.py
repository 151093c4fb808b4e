from __future__ import annotations

import json

import numpy as np
import pytest

from llama2vec.config import EncoderSettings
from llama2vec.errors import ContractError
from llama2vec.model.common_directions import DIRECTIONS_FILE, CommonDirections
from llama2vec.model.encoder import Encoder

TEXTS = ["Llamas hum.", "Alpacas graze on the high plateau.", "A camelid.", "Vicuñas run fast.", "Guanacos"] * 3


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_a_planted_common_direction_no_longer_decides_the_similarity():
    draw = np.random.default_rng(0)
    meaning = draw.normal(size=(400, 16))
    shared = np.zeros(16)
    shared[3] = 1
    vectors = unit(meaning + (20 + 5 * draw.normal(size=(400, 1))) * shared)
    wanted = meaning.copy()
    wanted[:, 3] = 0

    def agreement(found: np.ndarray) -> float:
        pairs = np.triu_indices(len(found), 1)
        return float(np.corrcoef((found @ found.T)[pairs], (unit(wanted) @ unit(wanted).T)[pairs])[0, 1])

    assert agreement(vectors) < 0.6
    assert agreement(CommonDirections.fit(vectors, 1).remove(vectors)) > 0.9


def test_no_more_components_are_kept_than_the_vectors_span():
    vectors = unit(np.random.default_rng(0).normal(size=(3, 8)))
    assert CommonDirections.fit(vectors, 12).axes.shape == (2, 8)


def test_a_vector_without_a_direction_left_becomes_zero():
    common = CommonDirections(np.float32([1, 0]), np.zeros((0, 2), dtype=np.float32))
    assert common.remove(np.float32([[1, 0]])).tolist() == [[0, 0]]


@pytest.fixture
def encoder(llama_folder) -> Encoder:
    return Encoder.load(llama_folder, encoder=EncoderSettings(query_prompt="next"))


def test_directions_are_learnt_per_prompt_saved_and_loaded_bit_for_bit(encoder, tmp_path):
    plain = encoder.encode_passages(TEXTS[:5])
    encoder.learn_common_directions(TEXTS, 2)
    assert set(encoder.directions) == {"next", "self"}
    found = encoder.encode_passages(TEXTS[:5]), encoder.encode_queries(TEXTS[:5])
    assert np.abs(found[0] - plain).max() > 1e-3
    np.testing.assert_allclose(encoder.directions["self"].remove(plain), found[0], atol=1e-6)
    encoder.save(tmp_path / "saved")
    loaded = Encoder.load(tmp_path / "saved")
    assert loaded.contract_hash == encoder.contract_hash
    np.testing.assert_array_equal(loaded.encode_passages(TEXTS[:5]), found[0])
    np.testing.assert_array_equal(loaded.encode_queries(TEXTS[:5]), found[1])


def test_directions_are_part_of_the_contract(encoder, tmp_path):
    before = encoder.contract_hash
    encoder.learn_common_directions(TEXTS, 2)
    assert encoder.contract_hash != before
    encoder.save(tmp_path / "saved")
    data = json.loads((tmp_path / "saved" / "llama2vec.json").read_text())
    assert data["common_directions"] == 2
    (tmp_path / "saved" / DIRECTIONS_FILE).unlink()
    with pytest.raises(ContractError):
        Encoder.load(tmp_path / "saved")


def test_saving_over_a_model_with_directions_leaves_none_of_them_behind(encoder, llama_folder, tmp_path):
    encoder.learn_common_directions(TEXTS, 2)
    encoder.save(tmp_path / "saved")
    Encoder.load(llama_folder).save(tmp_path / "saved", overwrite=True)
    assert Encoder.load(tmp_path / "saved").directions == {}


def test_learning_again_starts_from_the_models_own_vectors(encoder):
    encoder.learn_common_directions(TEXTS, 2)
    first = encoder.directions["self"].mean.copy()
    encoder.learn_common_directions(TEXTS, 2)
    np.testing.assert_array_equal(encoder.directions["self"].mean, first)
