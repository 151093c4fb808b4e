"""What both training stages share: how their folder is recognized, and in which number format they train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llama2vec.config import LoraSettings, ModelSettings
from llama2vec.errors import ModelError, OutputExistsError
from llama2vec.files import write_json
from llama2vec.manifest import MANIFEST_FILE, digest, sealed
from llama2vec.model.source import ModelSource
from llama2vec.stage import (
    PLAN_FORMAT,
    Stage,
    claim_output,
    make_trainable,
    model_fingerprint,
    training_precision,
)
from llama2vec.training.state import CHECKPOINTS

STAGE = Stage("adapt", "an adaptation", "corpus")
PLAN = STAGE.plan({"steps": 2}, "fingerprint", "weights")


def test_a_folder_is_recognized_by_a_plan_that_carries_its_own_hash(tmp_path: Path) -> None:
    assert STAGE.kind.read(tmp_path) is None
    write_json(tmp_path / "adapt.json", PLAN)
    found = STAGE.kind.read(tmp_path)
    assert found is not None
    assert (dict(found.plan), found.finished) == (PLAN, False)
    write_json(tmp_path / MANIFEST_FILE, {})
    found = STAGE.kind.read(tmp_path)
    assert found is not None
    assert found.finished
    (tmp_path / "adapt.json").write_text(json.dumps({**PLAN, "settings": {"steps": 3}}), encoding="utf-8")
    assert STAGE.kind.read(tmp_path) is None


def test_settings_data_and_model_decide_the_plan() -> None:
    others = [({"steps": 3}, "fingerprint", "weights"), ({"steps": 2}, "other", "weights"), ({"steps": 2}, "", "")]
    assert len({PLAN["hash"], *(STAGE.plan(*other)["hash"] for other in others)}) == 4
    assert STAGE.plan({"steps": 2}, "fingerprint", "weights") == PLAN


@pytest.mark.parametrize("finished", [True, False])
def test_a_training_of_an_earlier_version_which_did_not_note_the_model_is_the_same(
    finished: bool, tmp_path: Path
) -> None:
    decides = {"settings": {"steps": 2}, "corpus": "fingerprint"}
    write_json(tmp_path / "adapt.json", {**decides, "hash": digest(decides)})
    checkpoint = tmp_path / CHECKPOINTS / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    write_json(tmp_path / MANIFEST_FILE if finished else checkpoint / "complete.json", {})
    with claim_output(tmp_path, STAGE, PLAN, overwrite=False, device="cpu", model="llm") as work:
        assert work.is_finished == finished
        if not finished:
            work.begin()
            assert checkpoint.is_dir()
            noted = json.loads((tmp_path / "adapt.json").read_text(encoding="utf-8"))
            assert (noted["model"], noted["format"]) == (PLAN["model"], work.format) == ("weights", 1)
            assert STAGE.format_in(tmp_path, PLAN) == 1
            assert STAGE.kind.read(tmp_path) is not None
    other = STAGE.plan({"steps": 3}, "fingerprint", "weights")
    with (
        pytest.raises(OutputExistsError, match="steps: 2 there, 3 now"),
        claim_output(tmp_path, STAGE, other, overwrite=False, device="cpu", model="llm"),
    ):
        pass


def test_the_parts_of_a_packaged_model_are_joined_before_its_fingerprint_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = tmp_path / "llm.gguf"

    def put_together(source: ModelSource) -> ModelSource:
        joined.write_bytes(b"GGUF")
        return source

    monkeypatch.setattr("llama2vec.stage.resolve_model", lambda name: ModelSource(name, str(tmp_path), joined.name))
    monkeypatch.setattr("llama2vec.stage.fetched", put_together)
    assert model_fingerprint("llm") == model_fingerprint("llm")


def test_a_claimed_folder_appears_with_its_plan_and_is_finished_in_place(tmp_path: Path) -> None:
    output = tmp_path / "adapted"
    with claim_output(output, STAGE, PLAN, overwrite=False, device="cpu", model="llm") as work:
        assert not work.is_finished
        assert work.format == PLAN_FORMAT
        assert not output.exists()
        path = work.begin()
        assert json.loads((path / "adapt.json").read_text(encoding="utf-8")) == PLAN
        write_json(path / MANIFEST_FILE, {})
        work.finish()
    assert (output / MANIFEST_FILE).is_file()
    with claim_output(output, STAGE, PLAN, overwrite=False, device="cpu", model="llm") as again:
        assert again.is_finished
    other = STAGE.plan({"steps": 9}, "fingerprint", "weights")
    with (
        pytest.raises(OutputExistsError, match="steps"),
        claim_output(output, STAGE, other, overwrite=False, device="cpu", model="llm"),
    ):
        pass


def test_a_changed_manifest_of_the_start_model_is_refused_before_the_training(tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    for file, content in {"config.json": {}, "llama2vec.json": {}, MANIFEST_FILE: {**sealed({"a": 1}), "a": 2}}.items():
        write_json(start / file, content)
    with (
        pytest.raises(ModelError, match="was changed after it was written"),
        claim_output(tmp_path / "out", STAGE, PLAN, overwrite=False, device="cpu", model=str(start)),
    ):
        pass
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("dtype", "rank", "loaded", "mixed"),
    [("bfloat16", 0, "float32", True), ("bfloat16", 8, "bfloat16", False), ("float32", 0, "float32", False)],
)
def test_full_training_in_bfloat16_keeps_float32_weights(dtype: str, rank: int, loaded: str, mixed: bool) -> None:
    settings = ModelSettings.model_validate({"dtype": dtype, "device": "cpu", "lora": {"rank": rank}})
    found, is_mixed = training_precision(settings)
    assert (found.dtype, is_mixed) == (loaded, mixed)


def test_rank_0_trains_the_model_itself_and_lora_only_its_adapters(llama_folder: Path) -> None:
    from llama2vec.model.backbone import load_backbone

    settings = ModelSettings(name=str(llama_folder), dtype="float32", device="cpu", lora=LoraSettings(rank=0))
    backbone = load_backbone(settings)
    assert make_trainable(backbone, settings, [], 0) is backbone.model
    lora = settings.model_copy(update={"lora": LoraSettings(rank=2, alpha=4)})
    model = make_trainable(load_backbone(lora), lora, [], 0)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
