"""A batch that is read in pieces gives the loss and the gradients of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llama2vec.adapt.micro_batches import micro_batches
from llama2vec.adapt.reading import JointReader
from llama2vec.adapt.settings import ObjectiveSettings
from llama2vec.adapt.train import PretextObjective
from llama2vec.config import LoraSettings, ModelSettings, PromptSettings
from llama2vec.model.adapters import add_lora
from llama2vec.model.backbone import Backbone, load_backbone
from llama2vec.model.prompt import prompt_ids
from llama2vec.model.source import ModelSource
from llama2vec.model.speed.lean_layers import keep_less
from llama2vec.pretext.targets import TargetTokenizer
from llama2vec.records import AdaptationExample


@given(st.lists(st.integers(0, 60), max_size=40), st.integers(1, 200))
def test_every_row_is_in_one_pass_and_no_pass_is_too_large(lengths: list[int], most: int) -> None:
    passes = micro_batches(lengths, most)
    assert sorted(row for rows in passes for row in rows) == list(range(len(lengths)))
    for rows in passes:
        assert len(rows) <= 1 or len(rows) * max(lengths[row] for row in rows) <= most
    sizes = [len(rows) for rows in passes]
    assert max(sizes) - min(sizes[:-1] or sizes) == 0


def objective_for(backbone: Any, micro_batch_tokens: int, **settings: Any) -> PretextObjective:
    prompts = prompt_ids(backbone.tokenizer, PromptSettings(self_prompt=" same: ", next_prompt=" next: "))
    return PretextObjective(
        TargetTokenizer(backbone.tokenizer, 24, None), prompts, ObjectiveSettings(**settings),
        JointReader(backbone.model.config, torch.float32), 2, micro_batch_tokens=micro_batch_tokens,
    )  # fmt: skip


def examples_of(sentences: list[str]) -> list[AdaptationExample]:
    """Texts of several lengths; one has nothing behind it and one, of spaces, nothing to predict at all."""
    found = [AdaptationExample(text[: 10 + 9 * row], sentences[row + 1]) for row, text in enumerate(sentences[:5])]
    return [*found, AdaptationExample(sentences[5], ""), AdaptationExample("", "")]


def gradients_of(
    model: Any, objective: PretextObjective, examples: list[AdaptationExample], factor: float = 1.0
) -> tuple[float, dict[str, float], dict[str, torch.Tensor]]:
    model.zero_grad()
    loss, parts = objective.loss(model, objective.collate(examples))
    (loss * factor).backward()
    return loss.item(), parts, {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("language_model_weight", [0.0, 0.7])
@pytest.mark.parametrize("most", [1, 60, 90])
def test_loss_and_gradients_are_those_of_the_whole_batch(
    llama_folder: Any, sentences: list[str], rank: int, language_model_weight: float, most: int
) -> None:
    backbone = load_backbone(ModelSettings(name=str(llama_folder), dtype="float32"))
    model = add_lora(backbone, LoraSettings(rank=rank), [], 0) if rank else backbone.model
    keep_less(model)
    settings = {"language_model_weight": language_model_weight, "next_weight": 0.3, "pretext_weight": 0.5}
    whole, pieces = objective_for(backbone, 0, **settings), objective_for(backbone, most, **settings)
    examples = examples_of(sentences)
    assert len(whole.collate(examples)["joint"]) == 1
    assert len(pieces.collate(examples)["joint"]) > 2
    loss, parts, gradients = gradients_of(model, whole, examples)
    found, found_parts, found_gradients = gradients_of(model, pieces, examples)
    assert found == pytest.approx(loss, rel=1e-5)
    assert found_parts == pytest.approx(parts, rel=1e-5)
    assert found_gradients.keys() == gradients.keys()
    for name, value in gradients.items():
        room = 1e-5 * float(value.abs().max()) + 1e-9
        torch.testing.assert_close(found_gradients[name], value, rtol=1e-4, atol=room)


def test_a_share_of_a_step_is_added_to_what_is_there(llama_folder: Any, sentences: list[str]) -> None:
    backbone = load_backbone(ModelSettings(name=str(llama_folder), dtype="float32"))
    whole, pieces = objective_for(backbone, 0), objective_for(backbone, 60)
    first, second = examples_of(sentences)[:3], examples_of(sentences)[3:]

    def two_thirds_and_one(objective: PretextObjective) -> dict[str, torch.Tensor]:
        backbone.model.zero_grad()
        for examples, factor in ((first, 2 / 3), (second, 1 / 3)):
            loss, _ = objective.loss(backbone.model, objective.collate(examples))
            (loss * factor).backward()
        return {name: weight.grad.clone() for name, weight in backbone.model.named_parameters()}

    expected = two_thirds_and_one(whole)
    for name, value in two_thirds_and_one(pieces).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5 * float(expected[name].abs().max()))


def test_one_piece_of_activations_is_held_at_a_time(llama_folder: Any, sentences: list[str]) -> None:
    backbone = load_backbone(ModelSettings(name=str(llama_folder), dtype="float32"))

    def kept(micro_batch_tokens: int) -> int:
        objective, alive, most = objective_for(backbone, micro_batch_tokens), 0, 0

        class Held:
            def __init__(self, tensor: torch.Tensor) -> None:
                nonlocal alive, most
                self.tensor = tensor
                alive += tensor.nbytes
                most = max(most, alive)

            def __del__(self) -> None:
                nonlocal alive
                alive -= self.tensor.nbytes

        with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
            loss, _ = objective.loss(backbone.model, objective.collate(examples_of(sentences)[:6]))
            loss.backward()
        return most

    assert kept(60) < 0.6 * kept(0)


@torch.no_grad()
def test_validation_in_pieces_takes_no_gradient(llama_folder: Any, sentences: list[str]) -> None:
    backbone = load_backbone(ModelSettings(name=str(llama_folder), dtype="float32"))
    examples = examples_of(sentences)
    found = [objective_for(backbone, most).validate(backbone.model, examples, 7) for most in (0, 60)]
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert all(weight.grad is None for weight in backbone.model.parameters())


def test_a_piece_with_nothing_to_predict_beside_others_changes_nothing(
    make_model: Callable[..., Any], tokenizer: Any, sentences: list[str]
) -> None:
    backbone = Backbone(make_model("llama"), tokenizer, ModelSource("tiny", "tiny"))
    objective = objective_for(backbone, 1)
    loss, parts, gradients = gradients_of(backbone.model, objective, examples_of(sentences)[:1])
    with_empty = [*examples_of(sentences)[:1], AdaptationExample("", "")]
    found, found_parts, found_gradients = gradients_of(backbone.model, objective, with_empty)
    assert (found, found_parts) == (pytest.approx(loss, rel=1e-6), pytest.approx(parts, rel=1e-6))
    for name, value in gradients.items():
        torch.testing.assert_close(found_gradients[name], value, rtol=1e-5, atol=1e-6)
