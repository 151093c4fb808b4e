"""Checkpoints of every weight, also of architectures whose publishers gave the weights other names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from fit_line import settings
from safetensors.torch import load_file, save_file

from benchmarks.fidelity.architectures import save_tiny
from llama2vec.config import LoraSettings, ModelSettings
from llama2vec.errors import TrainingError
from llama2vec.model.adapters import add_lora
from llama2vec.model.backbone import Backbone, load_backbone
from llama2vec.training import loop, sharding
from llama2vec.training.checkpoints import check_names
from llama2vec.training.loop import TrainingResult, train
from llama2vec.training.orders import LengthGroupedOrder
from llama2vec.training.settings import OptimizerSettings
from llama2vec.training.state import mark_complete

RENAMED = ("mixtral", "nemotron_h", "gpt_neox")
ROWS = [[(3 * row + place) % 120 for place in range(6)] for row in range(16)]


class NextTokens:
    """Learn the next token; the validation says that its third look found the best weights where ``best`` is 3."""

    def __init__(self, best: int = 0, stop: int = 0) -> None:
        self.best, self.stop, self.looks, self.steps = best, stop, 0, 0

    def order(self, examples: list[list[int]], chosen: OptimizerSettings) -> LengthGroupedOrder:
        return LengthGroupedOrder([len(example) for example in examples], chosen.batch_size, chosen.seed)

    def collate(self, examples: list[list[int]]) -> dict[str, Any]:
        return {"ids": torch.tensor(examples)}

    def loss(self, model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, float]]:
        self.steps += 1
        if self.steps == self.stop:
            raise KeyboardInterrupt
        return model(input_ids=batch["ids"], labels=batch["ids"]).loss, {}

    def validate(self, model: Any, held_out: Any, batch_size: int) -> dict[str, float]:
        self.looks += 1
        return {"score": float(self.looks == self.best)}


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "draw_losses", lambda *_: None)


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_tiny(kind, tmp_path_factory.mktemp(kind)) for kind in RENAMED}


def loaded(folder: Path) -> Any:
    full = ModelSettings(name=str(folder), dtype="float32", device="cpu", lora=LoraSettings(rank=0))
    return load_backbone(full).model


def trained(
    folder: Path, output: Path, objective: NextTokens | None = None, **changes: Any
) -> tuple[dict[str, torch.Tensor], TrainingResult]:
    best = changes.pop("best", "")
    model = loaded(folder)
    chosen = settings(**{"steps": 4, "save_every": 2, "validate_every": 2, "learning_rate": 0.01, **changes})
    result = train(model, ROWS, ROWS[:1], objective or NextTokens(), chosen, output, best=best)
    return {name: weight.clone() for name, weight in model.state_dict().items()}, result


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert [name for name, weight in expected.items() if not torch.equal(found[name], weight)] == []


@pytest.mark.parametrize("kind", RENAMED)
def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(
    kind: str, renamed: dict[str, Path], tmp_path: Path
) -> None:
    whole, _ = trained(renamed[kind], tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(renamed[kind], tmp_path / "killed", NextTokens(stop=3))
    assert os.listdir(tmp_path / "killed" / "checkpoints") == ["checkpoint-2"]
    again, _ = trained(renamed[kind], tmp_path / "killed")
    assert_same(again, whole)


@pytest.mark.parametrize("kind", RENAMED)
def test_best_and_mean_weights_are_those_of_the_checkpoints(
    kind: str, renamed: dict[str, Path], tmp_path: Path
) -> None:
    early, _ = trained(renamed[kind], tmp_path / "early", steps=2, schedule="constant")
    late, _ = trained(renamed[kind], tmp_path / "late", schedule="constant")
    best, result = trained(
        renamed[kind], tmp_path / "best", NextTokens(best=1), schedule="constant", best="validation_score"
    )
    assert result.best_step == 2
    assert_same(best, early)
    mean, _ = trained(renamed[kind], tmp_path / "mean", schedule="constant", average_last=2)
    moved = [name for name in early if not torch.equal(early[name], late[name])]
    assert any("layers" in name for name in moved)
    for name in moved:
        torch.testing.assert_close(mean[name], (early[name] + late[name]) / 2, rtol=0, atol=1e-6)


def test_a_checkpoint_under_other_names_is_refused(renamed: dict[str, Path], tmp_path: Path) -> None:
    trained(renamed["mixtral"], tmp_path, steps=2)
    checkpoint = tmp_path / "checkpoints" / "checkpoint-2"
    loaded(renamed["mixtral"]).save_pretrained(checkpoint)  # As the trainer itself would have written it
    mark_complete(checkpoint, 4)
    with pytest.raises(TrainingError, match=r"checkpoint-2: its weights are not those .*experts.*start over"):
        trained(renamed["mixtral"], tmp_path)


def test_a_checkpoint_that_lacks_a_weight_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    trained(llama_folder, tmp_path, steps=2)
    file = tmp_path / "checkpoints" / "checkpoint-2" / "model.safetensors"
    weights = load_file(file)
    del weights["model.norm.weight"]
    save_file(weights, file)
    mark_complete(file.parent, 4)
    with pytest.raises(TrainingError, match=r"checkpoint-2: .*\(model\.norm\.weight not in it\)"):
        trained(llama_folder, tmp_path)


def test_a_tied_head_is_read_with_its_table(tied_llama_folder: Path, tmp_path: Path) -> None:
    whole, _ = trained(tied_llama_folder, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tied_llama_folder, tmp_path / "killed", NextTokens(stop=3))
    assert "lm_head.weight" not in load_file(tmp_path / "killed/checkpoints/checkpoint-2/model.safetensors")
    assert_same(trained(tied_llama_folder, tmp_path / "killed")[0], whole)


def test_an_adapter_that_lacks_a_weight_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    def run(steps: int) -> None:
        backbone: Backbone = load_backbone(ModelSettings(name=str(llama_folder), dtype="float32", device="cpu"))
        model = add_lora(backbone, LoraSettings(rank=2), [], 0)
        train(model, ROWS, [], NextTokens(), settings(steps=steps, save_every=2), tmp_path)

    run(2)
    file = tmp_path / "checkpoints" / "checkpoint-2" / "adapter_model.safetensors"
    weights = load_file(file)
    del weights[next(iter(weights))]
    save_file(weights, file)
    mark_complete(file.parent, 4)
    with pytest.raises(TrainingError, match=r"checkpoint-2: .*lora_A.* not in it"):
        run(4)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_shares_under_other_names_are_refused(tmp_path: Path) -> None:
    from torch.distributed.checkpoint.state_dict_saver import save

    of_model = {"model": {"a": torch.ones(2), "b": torch.ones(2)}}
    save(of_model, checkpoint_id=str(tmp_path / sharding.SHARES), no_dist=True)
    sharding._check_shares(tmp_path, {"a", "b"})
    with pytest.raises(TrainingError, match=r"\(c not in it; b not in the model\)"):
        sharding._check_shares(tmp_path, {"a", "c"})


def test_only_a_few_names_are_shown() -> None:
    check_names(Path("checkpoint-1"), [], [])
    with pytest.raises(TrainingError, match=r"\(a, b, c … not in it\)"):
        check_names(Path("checkpoint-1"), "dcba", [])
