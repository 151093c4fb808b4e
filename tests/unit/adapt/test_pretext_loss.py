"""Losses against values computed by hand in float64, and against torch's own cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from llama2vec.adapt.joint import joint_batch
from llama2vec.adapt.pretext_loss import IGNORED, bag_of_tokens_loss, language_model_loss
from llama2vec.adapt.reading import JointReader
from llama2vec.adapt.settings import ObjectiveSettings
from llama2vec.adapt.targets import TargetTokenizer
from llama2vec.adapt.train import PretextObjective
from llama2vec.config import PromptSettings
from llama2vec.errors import EmptyTargetsError
from llama2vec.model.prompt import prompt_ids
from llama2vec.records import AdaptationExample


def by_hand(slots: list[list[list[float]]], targets: list[list[int]], weights: list[list[float]]) -> float:
    """Mean over the rows of ``-sum_t w_t log softmax(max over slots)_t / sum_t w_t``, in Python's float64."""
    rows = []
    for row_slots, row_targets, row_weights in zip(slots, targets, weights, strict=True):
        if sum(row_weights) == 0:
            continue
        logits = [max(values) for values in zip(*row_slots, strict=True)]
        total = math.log(sum(math.exp(value) for value in logits))
        scores = [weight * (total - logits[token]) for token, weight in zip(row_targets, row_weights, strict=True)]
        rows.append(sum(scores) / sum(row_weights))
    return sum(rows) / len(rows)


SLOTS = [[[0.5, -1.0, 2.0, 0.0], [1.5, 0.25, -3.0, 0.75]], [[0.0, 0.1, 0.2, 0.3], [4.0, -4.0, 1.0, 2.0]]]
TARGETS = [[0, 2], [3, 1]]


@pytest.mark.parametrize("weights", [[[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 0.0]], [[0.5, 2.0], [3.0, 0.0]]])
@pytest.mark.parametrize("slots", [1, 2])
def test_the_loss_equals_the_value_computed_by_hand(slots: int, weights: list[list[float]]) -> None:
    logits = [row[:slots] for row in SLOTS]
    found = bag_of_tokens_loss(torch.tensor(logits), torch.tensor(TARGETS), torch.tensor(weights))
    assert found.item() == pytest.approx(by_hand(logits, TARGETS, weights), rel=1e-6)


def test_the_loss_of_one_slot_and_one_target_is_cross_entropy_with_its_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 1, 50, dtype=torch.float32, requires_grad=True)
    targets = torch.randint(0, 50, (6, 1))
    loss = bag_of_tokens_loss(logits, targets, torch.ones(6, 1))
    (found,) = torch.autograd.grad(loss, logits)
    double = logits.detach().double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(double[:, 0], targets[:, 0])
    (gradient,) = torch.autograd.grad(expected, double)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(found.double(), gradient, rtol=1e-5, atol=1e-7)


def test_of_several_slots_the_largest_logit_of_each_token_counts_and_gets_the_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 8, 20, requires_grad=True)
    targets, weights = torch.randint(0, 20, (3, 5)), torch.rand(3, 5)
    loss = bag_of_tokens_loss(logits, targets, weights)
    assert loss.item() == pytest.approx(by_hand(logits.tolist(), targets.tolist(), weights.tolist()), rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert bool(((logits.grad != 0).sum(dim=1) <= 1).all())
    largest = logits.argmax(dim=1)
    touched = logits.grad.abs().sum(dim=1) > 0
    assert bool((logits.grad.abs().argmax(dim=1)[touched] == largest[touched]).all())


def test_rows_without_targets_are_skipped() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 2, 10), torch.tensor([[1, 2], [0, 0], [3, 0]])
    weights = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    kept = [0, 2]
    expected = bag_of_tokens_loss(logits[kept], targets[kept], weights[kept])
    torch.testing.assert_close(bag_of_tokens_loss(logits, targets, weights), expected)


def test_a_batch_without_any_target_is_an_error() -> None:
    with pytest.raises(EmptyTargetsError, match="no text of this batch"):
        bag_of_tokens_loss(torch.randn(2, 1, 5), torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 1))


def test_half_precision_logits_are_scored_in_float32() -> None:
    torch.manual_seed(0)
    logits = (torch.randn(2, 2, 30) * 8).bfloat16()
    targets, weights = torch.randint(0, 30, (2, 4)), torch.ones(2, 4)
    loss = bag_of_tokens_loss(logits, targets, weights)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(by_hand(logits.tolist(), targets.tolist(), weights.tolist()), rel=1e-5)


@pytest.mark.parametrize("rows", [1, 511, 512, 513, 1300])
def test_the_chunked_language_model_loss_equals_torchs_cross_entropy(rows: int) -> None:
    torch.manual_seed(rows)
    hidden = torch.randn(rows, 16, requires_grad=True)
    head = torch.randn(40, 16, requires_grad=True)
    labels = torch.randint(0, 40, (rows,))
    labels[torch.rand(rows) < 0.3] = IGNORED
    labels[0] = 7
    found = language_model_loss(hidden, head, labels)
    # An upstream factor, as a weight on the loss makes it.
    found_gradients = torch.autograd.grad(found * 2.5, (hidden, head))
    expected = torch.nn.functional.cross_entropy(hidden @ head.T, labels, ignore_index=IGNORED)
    gradients = torch.autograd.grad(expected * 2.5, (hidden, head))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(found_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("trained", [(True, False), (False, True)])
def test_the_chunked_loss_gives_gradients_only_to_what_is_trained(trained: tuple[bool, bool]) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(9, 4, requires_grad=trained[0]), torch.randn(12, 4, requires_grad=trained[1])
    labels = torch.randint(0, 12, (9,))
    language_model_loss(hidden, head, labels).backward()
    wanted = torch.nn.functional.cross_entropy
    one, other = hidden.detach().requires_grad_(trained[0]), head.detach().requires_grad_(trained[1])
    wanted(one @ other.T, labels).backward()
    for found, expected in ((hidden, one), (head, other)):
        assert (found.grad is None) == (expected.grad is None)
        if found.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-6)


def test_the_chunked_loss_in_bfloat16_is_close_to_float32() -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(600, 16).bfloat16().requires_grad_(), torch.randn(30, 16).bfloat16().requires_grad_()
    labels = torch.randint(0, 30, (600,))
    loss = language_model_loss(hidden, head, labels)
    loss.backward()
    one, other = hidden.detach().float().requires_grad_(), head.detach().float().requires_grad_()
    expected = torch.nn.functional.cross_entropy(one @ other.T, labels)
    expected.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    assert hidden.grad is not None
    assert head.grad is not None
    assert one.grad is not None
    assert other.grad is not None
    assert hidden.grad.dtype == torch.bfloat16
    torch.testing.assert_close(hidden.grad.float(), one.grad, rtol=0.1, atol=2e-2 * float(one.grad.abs().max()))
    torch.testing.assert_close(head.grad.float(), other.grad, rtol=0.1, atol=2e-2 * float(other.grad.abs().max()))


def test_a_loss_without_scored_positions_is_zero() -> None:
    hidden = torch.randn(3, 4, requires_grad=True)
    loss = language_model_loss(hidden, torch.randn(5, 4), torch.full((3,), IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


# ------------------------------------------------------------------------------------------- the whole objective


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


def test_a_batch_of_lone_passages_trains_ebae_and_skips_ebar(
    make_model: Callable[..., Any], tokenizer: Any, sentences: list[str]
) -> None:
    model = make_model("llama")
    objective = objective_for(model, tokenizer)
    loss, parts = objective.loss(model, objective.collate([AdaptationExample(sentences[0], "")]))
    assert set(parts) == {"loss_self"}
    assert loss.item() == pytest.approx(parts["loss_self"], rel=1e-6)


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
    from llama2vec.adapt.targets import TokenizedText
    from llama2vec.model.prompt import PromptIds

    prompts = PromptIds((1,), {"self": (5,), "next": (6,)}, 1)
    batch = joint_batch([TokenizedText((9, 8), (9,))], [TokenizedText((7,), (7,))], prompts)
    moved = batch.to("cpu")
    assert moved == batch or all(
        torch.equal(getattr(moved, name), getattr(batch, name))
        for name in ("input_ids", "position_ids", "text_lengths")
    )
    assert moved.layout is batch.layout
