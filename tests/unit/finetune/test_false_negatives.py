"""Negatives that a guide takes for answers: which pairs, by which guide, and that gradients stay exact."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llama2vec.errors import TrainingError
from llama2vec.finetune.batches import DrawnExamples, checked_examples
from llama2vec.finetune.contrastive_loss import Labels, contrastive_loss
from llama2vec.finetune.false_negatives import StartModel, teacher_scores_of_all, without_false_negatives
from llama2vec.finetune.settings import ContrastiveSettings
from llama2vec.records import TrainingExample
from llama2vec.training.state import read_log

GUIDE = [[0.50, 0.55, 0.44, 0.10, 0.90], [-0.40, -0.42, -0.50, 0.30, -0.38]]


def labels(positives: list[list[int]], passages: int = 5, known: tuple[tuple[int, int], ...] = ()) -> Labels:
    answers = torch.zeros(len(positives), passages, dtype=torch.bool)
    for query, column in known:
        answers[query, column] = True
    nothing = torch.full((len(positives), 1), -1)
    return Labels(torch.tensor(positives), answers, nothing, torch.zeros(len(positives), 1))


def left_out(positives: list[list[int]], known: tuple[tuple[int, int], ...] = (), **settings: Any) -> list[list[int]]:
    made = labels(positives, known=known)
    chosen = ContrastiveSettings(**{f"false_negative_{name}": value for name, value in settings.items()})
    found, count = without_false_negatives(made, torch.tensor(GUIDE, dtype=torch.float64), chosen)
    new = found.answers & ~made.answers
    assert count.item() == new.sum().item()
    assert (found.answers | ~made.answers).all(), "a known answer became a negative"
    return [row.nonzero().flatten().tolist() for row in new]


# ------------------------------------------------------------------------------------------------------------ the bound


def test_negatives_above_the_positive_are_left_out() -> None:
    assert left_out([[0], [0]]) == [[1, 4], [3, 4]]


def test_a_margin_lowers_the_bound_and_a_negative_one_raises_it() -> None:
    assert left_out([[0], [0]], margin=0.05) == [[1, 4], [1, 3, 4]]
    assert left_out([[0], [0]], margin=-0.1) == [[4], [3]]


def test_a_relative_margin_is_a_share_of_the_positive_also_below_zero() -> None:
    # Bounds: 0.5 - 0.1 x 0.5 = 0.45 and -0.4 - 0.1 x 0.4 = -0.44.
    assert left_out([[0], [0]], margin=0.1, scale="relative") == [[1, 4], [1, 3, 4]]
    # 0.5 + 0.2 x 0.5 = 0.6 and -0.4 + 0.2 x 0.4 = -0.32.
    assert left_out([[0], [0]], margin=-0.2, scale="relative") == [[4], [3]]


def test_the_best_of_several_positives_sets_the_bound_and_none_is_left_out() -> None:
    assert left_out([[0, 1], [0, -1]]) == [[4], [3, 4]]
    assert left_out([[2, 4], [1, 2]], margin=10.0) == [[0, 1, 3], [0, 3, 4]]


def test_known_answers_are_not_counted_again() -> None:
    assert left_out([[0], [0]], known=((0, 4),)) == [[1], [3, 4]]


def test_pairs_left_out_change_neither_loss_nor_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, passages = torch.randn(2, 8, generator=generator), torch.randn(5, 8, generator=generator)
    settings = ContrastiveSettings(temperature=0.1)
    kept, _ = without_false_negatives(labels([[0], [0]]), torch.tensor(GUIDE), settings)
    losses = []
    for moved in (0.0, 5.0):
        other = passages.clone()
        other[4] += moved  # left out for both queries
        other.requires_grad_()
        loss, _ = contrastive_loss(queries, other, kept, settings)
        loss.backward()
        losses.append(loss.item())
        assert other.grad is not None
        assert not other.grad[4].any()
        assert other.grad[1].any()
    assert losses[0] == losses[1]


# --------------------------------------------------------------------------------------------------------- the teacher


def test_a_teacher_judges_what_it_has_scored_and_nothing_else() -> None:
    made = Labels(
        torch.tensor([[0], [2]]), torch.zeros(2, 5, dtype=torch.bool), torch.tensor([[0, 1, 3], [-1, -1, -1]]),
        torch.tensor([[2.0, 3.0, 1.0], [0.0, 0.0, 0.0]]),
    )  # fmt: skip
    scores = teacher_scores_of_all(made, 5)
    found, count = without_false_negatives(made, scores, ContrastiveSettings())
    assert found.answers.tolist() == [[False, True, False, False, False], [False] * 5]
    assert count.item() == 1
    wide = ContrastiveSettings(false_negative_margin=5.0, false_negative_scale="relative")
    assert without_false_negatives(made, scores, wide)[0].answers.tolist()[1] == [False] * 5


def test_a_teacher_without_scores_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"false_negatives is teacher, but no example has pos_scores"):
        list(checked_examples([(TrainingExample("q", ("p",)), 0)], ContrastiveSettings(false_negatives="teacher")))


# ------------------------------------------------------------------------------------------------------------- training


def step(made: tuple[Any, Any], examples: list[TrainingExample]) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    model, objective = made
    drawn = DrawnExamples(examples, None, objective.settings, 0)
    torch.manual_seed(0)
    loss, parts = objective.loss(model, objective.collate([drawn[row] for row in range(len(drawn))]))
    loss.backward()
    grads = {name: part.grad for name, part in model.named_parameters() if part.grad is not None}
    return {"loss": loss.item(), **parts}, grads


@pytest.mark.parametrize("guide", ["self", "start"])
@pytest.mark.parametrize("kind", [{"rank": 0}, {"rank": 4, "dropout": 0.3}])
def test_the_gradient_cache_stays_exact(
    kind: dict[str, Any], guide: str, make_objective: Callable[..., Any], examples: list[TrainingExample]
) -> None:
    whole, cached = (
        step(make_objective(**kind, false_negatives=guide, micro_batch_tokens=64, graph_tokens=held), examples)
        for held in (64, 100_000)
    )
    plain, _ = step(make_objective(**kind, micro_batch_tokens=64), examples)
    assert whole[0] == cached[0]
    assert whole[0]["false_negatives"] > 0
    assert whole[0]["loss"] < plain["loss"]
    assert whole[1].keys() == cached[1].keys()
    for name, part in whole[1].items():
        torch.testing.assert_close(part, cached[1][name], rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("rank", [0, 4])
def test_the_start_model_does_not_move_with_the_weights(
    rank: int, make_objective: Callable[..., Any], examples: list[TrainingExample]
) -> None:
    model, objective = make_objective(rank=rank, false_negatives="start")
    trained = {name for name, part in model.named_parameters() if part.requires_grad}
    raw = copy.deepcopy(make_objective(rank=0)[0]).eval()
    ids = torch.arange(6, 12)[None]
    expected = raw(input_ids=ids).logits.detach()
    with torch.no_grad():
        for part in model.parameters():
            if part.requires_grad:
                part.add_(0.05 * torch.randn_like(part))
    found = objective.start.read(model, lambda one: iter([([0], one(input_ids=ids).logits)]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(model(input_ids=ids).logits, expected, atol=1e-3)
    assert model.training
    assert {name for name, part in model.named_parameters() if part.requires_grad} == trained
    assert step((model, objective), examples)[1].keys() == trained - {"lm_head.weight"}


# torch looks at the gradients of what it traces.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_layers_know_the_start_model_too(make_objective: Callable[..., Any]) -> None:
    from llama2vec.model.speed.compiled import compiled_layers

    model, objective = make_objective(rank=4, false_negatives="start")
    raw = make_objective(rank=0)[0].eval()
    ids = torch.arange(6, 12)[None]
    expected = raw(input_ids=ids).logits.detach()
    with compiled_layers(model, backend="eager"):
        for _ in range(2):
            trained = model(input_ids=ids).logits
            found = objective.start.read(model, lambda one: iter([([0], one(input_ids=ids).logits)]))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
            assert not torch.allclose(trained, expected, atol=1e-3)


def test_vectors_of_the_start_model_come_in_the_order_of_the_texts() -> None:
    table = torch.nn.Linear(2, 2)
    pieces = [([2, 0], torch.tensor([[2.0], [0.0]])), ([1], torch.tensor([[1.0]]))]
    assert StartModel(table).read(table, lambda _: iter(pieces)).flatten().tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("guide", ["none", "self", "start"])
def test_the_log_counts_the_pairs_left_out(
    guide: str, llama_folder: Path, examples: list[TrainingExample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama2vec.config import load_config
    from llama2vec.finetune.settings import FinetuneConfig
    from llama2vec.finetune.stage import finetune_model

    monkeypatch.setattr("llama2vec.training.loop.draw_losses", lambda *_: None)
    made = load_config(
        FinetuneConfig,
        None,
        [
            f"model.name={llama_folder}", "model.dtype=float32", "model.device=cpu", "validation.share=0",
            "encoder.query_max_tokens=16", "encoder.passage_max_tokens=24", "optimizer.steps=2",
            "optimizer.batch_size=6", "optimizer.log_every=1", f"contrastive.false_negatives={guide}",
        ],
    )  # fmt: skip
    finetune_model(made, tmp_path / "out", examples=examples)
    lines = read_log(tmp_path / "out" / "log.jsonl")
    assert [("false_negatives" in line) for line in lines] == [guide != "none"] * 2
    assert all(0 <= line.get("false_negatives", 0) <= 6 * 12 for line in lines)
