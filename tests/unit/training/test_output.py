"""How the folder of a training is recognized, and who may write it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from llama2vec.errors import ModelError, OutputExistsError
from llama2vec.files import write_json
from llama2vec.manifest import MANIFEST_FILE, digest, sealed
from llama2vec.model.source import ModelSource
from llama2vec.training.output import Stage, claim_output, model_fingerprint
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


@pytest.mark.parametrize("left", ["manifest.json", f"{CHECKPOINTS}/checkpoint-1/complete.json", "log.jsonl"])
@pytest.mark.parametrize("plan_format", [{}, {"format": 3}])
def test_a_training_that_a_development_version_began_is_told_and_goes_only_with_overwrite(
    plan_format: dict[str, int], left: str, tmp_path: Path
) -> None:
    output = tmp_path / "adapted"
    decides = {"settings": {"steps": 2}, "corpus": "fingerprint", "model": "weights", **plan_format}
    (output / left).parent.mkdir(parents=True)
    write_json(output / "adapt.json", {**decides, "hash": digest(decides)})
    write_json(output / left, {})
    noun = "an adaptation" if left == MANIFEST_FILE else "an unfinished adaptation"
    told = (
        f"{output}: holds {noun} that a development version of llama2vec began, which cannot be continued; "
        "choose another output or pass --overwrite"
    )
    with (
        pytest.raises(OutputExistsError, match=f"^{re.escape(told)}$"),
        claim_output(output, STAGE, PLAN, overwrite=False, device="cpu", model="llm"),
    ):
        pass
    assert (output / left).is_file()
    with claim_output(output, STAGE, PLAN, overwrite=True, device="cpu", model="llm") as work:
        assert not work.is_finished
        write_json(work.begin() / MANIFEST_FILE, {})
        work.finish()
    assert json.loads((output / "adapt.json").read_text(encoding="utf-8")) == PLAN
    assert (output / left).is_file() == (left == MANIFEST_FILE)


def test_the_plan_of_a_begun_training_keeps_its_bytes() -> None:
    assert json.dumps(PLAN) == (
        '{"settings": {"steps": 2}, "corpus": "fingerprint", "model": "weights", "format": 4, '
        '"hash": "62cb6096f4ab5ff7bd14bd825d62454248ef41edd1b13f878c9bc800980a398c"}'
    )


def test_the_parts_of_a_packaged_model_are_joined_before_its_fingerprint_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = tmp_path / "llm.gguf"

    def put_together(source: ModelSource) -> ModelSource:
        joined.write_bytes(b"GGUF")
        return source

    source = ModelSource("llm", str(tmp_path), joined.name)
    monkeypatch.setattr("llama2vec.training.output.resolve_model", lambda name: source)
    monkeypatch.setattr("llama2vec.training.output.fetched", put_together)
    assert model_fingerprint("llm") == model_fingerprint("llm")


def test_a_claimed_folder_appears_with_its_plan_and_is_finished_in_place(tmp_path: Path) -> None:
    output = tmp_path / "adapted"
    with claim_output(output, STAGE, PLAN, overwrite=False, device="cpu", model="llm") as work:
        assert not work.is_finished
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


def test_what_decides_memory_alone_may_change_before_a_training_goes_on(tmp_path: Path) -> None:
    held: dict[str, Any] = {
        "model": {"gradient_checkpointing": False}, "objective": {"micro_batch_tokens": 0},
        "contrastive": {"graph_tokens": 8192, "micro_batch_tokens": 0},
        "optimizer": {"steps": 2, "workers": 4, "log_every": 5, "keep_checkpoints": 2},
        "validation": {"split": "test"},
    }  # fmt: skip
    less = {
        "model": {"gradient_checkpointing": True}, "objective": {"micro_batch_tokens": 512},
        "contrastive": {"graph_tokens": 2048, "micro_batch_tokens": 512},
        "optimizer": {"steps": 2, "workers": 0, "log_every": 1, "keep_checkpoints": 1},
        "validation": {"split": "dev"},
    }  # fmt: skip
    output = tmp_path / "adapted"
    with claim_output(output, STAGE, STAGE.plan(held, "", ""), overwrite=False, device="cpu", model="llm") as work:
        checkpoint = work.begin() / CHECKPOINTS / "checkpoint-1"
        checkpoint.mkdir(parents=True)
        write_json(checkpoint / "complete.json", {})
    now = STAGE.plan(less, "", "")
    with claim_output(output, STAGE, now, overwrite=False, device="cpu", model="llm") as work:
        assert (work.begin() / CHECKPOINTS / "checkpoint-1" / "complete.json").is_file()
        assert json.loads((work.path / "adapt.json").read_text(encoding="utf-8")) == now  # As it goes on
    other = STAGE.plan({**less, "optimizer": {"steps": 3}}, "", "")
    with (
        pytest.raises(OutputExistsError, match=r"optimizer\.steps: 2 there, 3 now"),
        claim_output(output, STAGE, other, overwrite=False, device="cpu", model="llm"),
    ):
        pass


def test_another_spelling_of_a_path_is_the_same_training(tmp_path: Path) -> None:
    output = tmp_path / "adapted"
    first = {"model": {"name": "llm"}, "text": {"corpus": "texts"}}
    with claim_output(output, STAGE, STAGE.plan(first, "", ""), overwrite=False, device="cpu", model="llm") as work:
        checkpoint = work.begin() / CHECKPOINTS / "checkpoint-1"
        checkpoint.mkdir(parents=True)
        write_json(checkpoint / "complete.json", {})
    again = STAGE.plan({"model": {"name": "./llm"}, "text": {"corpus": "texts/"}}, "", "")
    with claim_output(output, STAGE, again, overwrite=False, device="cpu", model="llm") as work:
        assert (work.begin() / CHECKPOINTS / "checkpoint-1" / "complete.json").is_file()
    other = STAGE.plan({"model": {"name": "llm"}, "text": {"corpus": "text"}}, "", "")
    with (
        pytest.raises(OutputExistsError, match=r"text\.corpus: 'texts' there, 'text' now"),
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
