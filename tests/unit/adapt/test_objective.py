"""The pretext objective: what of a batch is scored, by which weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from llama2vec.adapt.joint import joint_batch
from llama2vec.adapt.reading import JointReader
from llama2vec.adapt.settings import ObjectiveSettings
from llama2vec.adapt.train import PretextObjective
from llama2vec.config import PromptSettings
from llama2vec.model.prompt import prompt_ids
from llama2vec.pretext.targets import TargetTokenizer
from llama2vec.records import AdaptationExample
from llama2vec.training.steps import share_counts


def objective_for(model: Any, tokenizer: Any, micro_batch_tokens: int = 0, **settings: Any) -> PretextObjective:
    prompts = prompt_ids(tokenizer, PromptSettings(self_prompt=" same: ", next_prompt=" next: "))
    tokenize = TargetTokenizer(tokenizer, 24, None)
    return PretextObjective(
        tokenize, prompts, ObjectiveSettings(**settings), JointReader(model.config, torch.float32), 2,
        micro_batch_tokens=micro_batch_tokens,
    )  # fmt: skip


def examples_of(sentences: list[str]) -> list[AdaptationExample]:
    return [AdaptationExample(sentences[0], sentences[1]), AdaptationExample(sentences[2][:20], sentences[3])]


def test_a_weight_of_zero_leaves_the_task_out_of_the_sequence(
    make_model: Callable[..., Any], tokenizer: Any, sentences: list[str]
) -> None:
    model = make_model("llama")
    both, alone = objective_for(model, tokenizer), objective_for(model, tokenizer, next_weight=0)
    examples = examples_of(sentences)
    batch = alone.collate(examples)
    assert [set(piece.layout.blocks) for piece in batch["joint"]] == [{"self"}]
    loss, parts = alone.loss(model, batch)
    _, both_parts = both.loss(model, both.collate(examples))
    assert set(parts) == {"loss_self"}
    assert loss.item() == pytest.approx(both_parts["loss_self"], rel=1e-5)


def test_both_tasks_are_averaged_by_their_weights(
    make_model: Callable[..., Any], tokenizer: Any, sentences: list[str]
) -> None:
    model = make_model("llama")
    objective = objective_for(model, tokenizer, self_weight=3, next_weight=1, pretext_weight=0.5)
    loss, parts = objective.loss(model, objective.collate(examples_of(sentences)))
    assert loss.item() == pytest.approx(0.5 * (0.75 * parts["loss_self"] + 0.25 * parts["loss_next"]), rel=1e-5)


def test_a_batch_of_lone_passages_trains_ebae_at_its_own_weight_and_skips_ebar(
    make_model: Callable[..., Any], tokenizer: Any, sentences: list[str]
) -> None:
    model = make_model("llama")
    objective = objective_for(model, tokenizer)
    loss, parts = objective.loss(model, objective.collate([AdaptationExample(sentences[0], "")]))
    assert set(parts) == {"loss_self"}
    # Half, as in every other batch: EBAE would otherwise count double wherever a batch has no U.
    assert loss.item() == pytest.approx(0.5 * parts["loss_self"], rel=1e-6)


@pytest.mark.parametrize("language_model_weight", [0.0, 0.7])
@pytest.mark.parametrize("followed", [{0}, {0, 4, 5, 6, 7}, set(), set(range(8))])
def test_a_step_has_one_loss_and_gradient_however_it_is_cut(
    followed: set[int], language_model_weight: float, make_model: Callable[..., Any], tokenizer: Any,
    sentences: list[str],
) -> None:  # fmt: skip
    model = make_model("llama")
    objective = objective_for(model, tokenizer, language_model_weight=language_model_weight)
    examples = [
        AdaptationExample(sentences[row][: 12 + 8 * row], sentences[row + 8] if row in followed else "")
        for row in range(8)
    ]

    def step(size: int) -> tuple[float, dict[str, float], torch.Tensor, dict[str, float]]:
        model.zero_grad()
        batches = [objective.collate(examples[start : start + size]) for start in range(0, 8, size)]
        loss, parts = 0.0, dict[str, float]()
        for batch in share_counts(batches):
            one, its = objective.loss(model, batch)
            (one / len(batches)).backward()
            loss += one.item() / len(batches)
            parts = {name: parts.get(name, 0.0) + value / len(batches) for name, value in its.items()}
        gradient = torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])
        with torch.no_grad():
            return loss, parts, gradient, objective.validate(model, examples, size)

    loss, parts, gradient, validated = step(8)
    assert set(parts) == {"loss_self"} | ({"loss_next"} if followed else set()) | (
        {"loss_lm"} if language_model_weight else set()
    )
    whole = 0.5 * (parts["loss_self"] + parts.get("loss_next", 0.0)) + language_model_weight * parts.get("loss_lm", 0.0)
    assert loss == pytest.approx(whole, rel=1e-6)
    assert validated == pytest.approx({"loss": loss, **parts}, rel=1e-6)
    for size in (4, 2, 3):
        found, its, other, read = step(size)
        assert found == pytest.approx(loss, rel=1e-6)
        assert its == pytest.approx(parts, rel=1e-6)
        assert float((other - gradient).norm() / gradient.norm()) < 1e-5
        assert read == pytest.approx(validated, rel=1e-6)


def test_a_batch_with_nothing_to_predict_is_a_zero_that_can_be_differentiated(
    make_model: Callable[..., Any], tokenizer: Any, sentences: list[str]
) -> None:
    model = make_model("llama")
    objective = objective_for(model, tokenizer, self_weight=0)
    loss, parts = objective.loss(model, objective.collate([AdaptationExample(sentences[0], "")]))
    loss.backward()
    assert (loss.item(), parts) == (0.0, {})
    model.zero_grad()


def test_the_language_model_loss_does_not_see_padding_prompts_or_prefix(
    make_model: Callable[..., Any], tokenizer: Any, sentences: list[str]
) -> None:
    model = make_model("llama")
    objective = objective_for(model, tokenizer, language_model_weight=1.0)
    examples = examples_of(sentences)
    _, parts = objective.loss(model, objective.collate(examples))
    summed, count = 0.0, 0
    for example in examples:
        text = tokenizer(example.text, add_special_tokens=False)["input_ids"][:24]
        ids = torch.tensor([[tokenizer.bos_token_id, *text]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1].double()
        summed += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        count += len(text)
    assert parts["loss_lm"] == pytest.approx(summed / count, rel=1e-5)


def test_idf_weights_reach_the_loss(make_model: Callable[..., Any], tokenizer: Any, sentences: list[str]) -> None:
    model = make_model("llama")
    objective = objective_for(model, tokenizer)
    texts = objective.tokenize([sentences[0]])
    weights = torch.zeros(120)
    weights[texts[0].targets[0]] = 3.0
    objective.token_weights = weights
    _, parts = objective.loss(model, objective.collate([AdaptationExample(sentences[0], "")]))
    ids = torch.tensor([objective.prompts.wrap(texts[0].ids, "self", 99)])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, -1].double()
    expected = -torch.log_softmax(logits, dim=0)[texts[0].targets[0]].item()
    assert parts["loss_self"] == pytest.approx(expected, rel=1e-5)


def test_only_slots_go_through_the_head(make_model: Callable[..., Any], tokenizer: Any, sentences: list[str]) -> None:
    model = make_model("llama")
    objective = objective_for(model, tokenizer)
    shapes: list[tuple[int, ...]] = []
    hook = model.get_output_embeddings().register_forward_hook(
        lambda _module, _inputs, output: shapes.append(tuple(output.shape))
    )
    objective.loss(model, objective.collate(examples_of(sentences)))
    hook.remove()
    assert shapes == [(2, 2, 120)]


def test_a_joint_batch_moves_between_devices_whole() -> None:
    from llama2vec.model.prompt import PromptIds
    from llama2vec.pretext.targets import TokenizedText

    prompts = PromptIds((1,), {"self": (5,), "next": (6,)}, 1)
    batch = joint_batch([TokenizedText((9, 8), (9,))], [TokenizedText((7,), (7,))], prompts)
    moved = batch.to("cpu")
    assert moved == batch or all(
        torch.equal(getattr(moved, name), getattr(batch, name))
        for name in ("input_ids", "position_ids", "text_lengths")
    )
    assert moved.layout is batch.layout
