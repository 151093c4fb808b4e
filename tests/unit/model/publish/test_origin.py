"""Where a model comes from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cards import MANIFEST, card_of
from encoders import FLOAT32
from huggingface_hub.repocard import metadata_load

from llama2vec.errors import ModelError
from llama2vec.manifest import sealed
from llama2vec.model.encoder import Encoder
from llama2vec.model.publish.origin import Origin, origin_of
from llama2vec.model.publish.publishing import write_model_card


def test_origins_are_followed_through_the_stages_also_after_a_run_was_moved(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    adapted = save().rename(run / "adapted")
    (adapted / "manifest.json").write_text(json.dumps(MANIFEST), encoding="utf-8")
    tuned = Encoder.load(adapted, settings=FLOAT32).save(run / "finetuned")
    second = {**MANIFEST, "stage": "finetune", "settings": {"model": {"name": "gone/run/adapted"}}}
    (tuned / "manifest.json").write_text(json.dumps(second), encoding="utf-8")
    origin = origin_of(str(tuned))
    assert (origin.base, origin.license) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    assert [manifest["stage"] for manifest in origin.manifests] == ["adapt", "finetune"]
    write_model_card(tuned)
    assert "unsupervised adaptation of Llama2Vec and contrastive fine-tuning" in card_of(tuned)
    assert "Training used no labels" not in card_of(tuned)
    # Saved once more, without a manifest of its own, the base is still known.
    again = Encoder.load(tuned, settings=FLOAT32).save(tmp_path / "again")
    assert origin_of(str(again)).base == origin.base


def test_a_manifest_that_was_changed_is_refused(save: Callable[..., Path], tmp_path: Path) -> None:
    adapted = save()
    (adapted / "manifest.json").write_text(json.dumps(sealed(MANIFEST)), encoding="utf-8")
    assert origin_of(str(adapted)).manifests == (MANIFEST,)
    (adapted / "manifest.json").write_text(json.dumps({**sealed(MANIFEST), "stage": "finetune"}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"manifest\.json was changed after it was written; restore it"):
        origin_of(str(adapted))


def test_the_license_of_a_local_base_is_read_from_its_card(save: Callable[..., Path], llama_folder: Path) -> None:
    card = llama_folder / "README.md"
    card.write_text("---\nlicense: mit\n---\n# Base\n", encoding="utf-8")
    try:
        assert origin_of(str(llama_folder)) == Origin(llama_folder.name, "mit")
    finally:
        card.unlink()
    assert origin_of(str(llama_folder)) == Origin(llama_folder.name)
    assert origin_of("someone/model") == Origin("someone/model")
    folder = save()
    assert "license is not stated here" in card_of(folder)
    assert "base_model" not in (metadata_load(folder / "README.md") or {})
