"""The contrastive losses against numbers computed by hand in float64, and against sentence-transformers."""

from __future__ import annotations

import math
import random
import warnings

import pytest
import torch

from llama2vec.finetune.contrastive_loss import (
    Labels,
    contrastive_loss,
    cosines,
    distillation_loss,
    info_nce_loss,
    known_answers,
    margin_mse_loss,
    matryoshka_widths,
)
from llama2vec.finetune.settings import ContrastiveSettings

SCORES = [[0.3, -1.2, 2.0, 0.7, 0.1], [1.1, 0.4, -0.6, 0.2, 1.9]]


def none(queries: int, passages: int) -> torch.Tensor:
    return torch.zeros(queries, passages, dtype=torch.bool)


def by_hand(scores: list[float], positives: list[int], left_out: set[int] = frozenset()) -> float:  # type: ignore[assignment]
    negatives = [value for column, value in enumerate(scores) if column not in {*positives, *left_out}]
    losses = [
        math.log(math.exp(scores[column]) + sum(math.exp(value) for value in negatives)) - scores[column]
        for column in positives
    ]
    return math.fsum(losses) / len(losses)


# ------------------------------------------------------------------------------------------------------------ InfoNCE


def test_info_nce_equals_a_hand_computation() -> None:
    expected = (by_hand(SCORES[0], [1]) + by_hand(SCORES[1], [4])) / 2
    found = info_nce_loss(torch.tensor(SCORES, dtype=torch.float64), torch.tensor([[1], [4]]), none(2, 5))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_each_of_several_positives_competes_with_the_negatives_alone() -> None:
    expected = (by_hand(SCORES[0], [1, 0]) + by_hand(SCORES[1], [4])) / 2
    positives = torch.tensor([[1, 0], [4, -1]])
    found = info_nce_loss(torch.tensor(SCORES, dtype=torch.float64), positives, none(2, 5))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_known_answers_are_no_negatives() -> None:
    answers = none(2, 5)
    answers[0, 2] = answers[1, 4] = True
    expected = (by_hand(SCORES[0], [1], {2}) + by_hand(SCORES[1], [4])) / 2
    found = info_nce_loss(torch.tensor(SCORES, dtype=torch.float64), torch.tensor([[1], [4]]), answers)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_a_query_without_negatives_gives_neither_loss_nor_gradient() -> None:
    scores = torch.tensor([[3.0, -2.0]], requires_grad=True)
    loss = info_nce_loss(scores, torch.tensor([[0]]), torch.tensor([[True, True]]))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None
    assert scores.grad.tolist() == [[0.0, 0.0]]


def test_padding_positives_do_not_unmask_the_first_column() -> None:
    # Column 0 is query 0's positive; its padding points there too and must not make it a negative.
    scores = torch.tensor([[5.0, 0.0]])
    assert info_nce_loss(scores, torch.tensor([[0, -1, -1]]), none(1, 2)).item() == pytest.approx(
        by_hand([5.0, 0.0], [0]), rel=1e-5
    )


@pytest.mark.parametrize("negatives", [0, 2])
def test_the_loss_equals_that_of_sentence_transformers(negatives: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    generator = torch.Generator().manual_seed(0)
    queries, positives = (torch.randn(6, 16, generator=generator) for _ in range(2))
    hard = [torch.randn(6, 16, generator=generator) for _ in range(negatives)]
    theirs = package.MultipleNegativesRankingLoss(torch.nn.Identity(), scale=50.0)
    expected = theirs.compute_loss_from_embeddings([queries, positives, *hard], None)
    # Ours stand row by row: positive, then the row's hard negatives.
    passages = torch.stack([positives, *hard], dim=1).reshape(-1, 16)
    columns = torch.arange(6)[:, None] * (1 + negatives)
    labels = Labels(columns, none(6, len(passages)), torch.full((6, 1), -1), torch.zeros(6, 1))
    found, _ = contrastive_loss(queries, passages, labels, ContrastiveSettings(temperature=0.02))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------------------------------------- distillation, Matryoshka


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def test_distillation_equals_a_hand_computation() -> None:
    teacher, columns = [4.0, 1.0, 2.5], [1, 0, 3]
    target = softmax([value / 2 for value in teacher])
    student = softmax([SCORES[0][column] for column in columns])
    expected = sum(p * (math.log(p) - math.log(q)) for p, q in zip(target, student, strict=True))
    own = torch.tensor([[*columns, -1], [-1, -1, -1, -1]])
    scores = torch.tensor(SCORES, dtype=torch.float64, requires_grad=True)
    loss = distillation_loss(scores, own, torch.tensor([[*teacher, 0.0], [0.0] * 4], dtype=torch.float64), 2.0)
    # The query without a teacher counts 0 in the mean over both.
    assert loss.item() == pytest.approx(expected / 2, rel=1e-12)
    loss.backward()
    assert scores.grad is not None
    assert scores.grad[1].tolist() == [0.0] * 5
    for column, p, q in zip(columns, target, student, strict=True):
        assert scores.grad[0, column].item() == pytest.approx((q - p) / 2, rel=1e-9)


def test_a_student_that_agrees_with_its_teacher_has_nothing_to_learn() -> None:
    scores = torch.tensor([[0.5, 0.1, -0.4]])
    loss = distillation_loss(scores, torch.tensor([[0, 1, 2]]), scores * 3 + 7, temperature=3.0)
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_margin_mse_equals_a_hand_computation() -> None:
    teacher, columns, temperature = [4.0, 3.0, 1.0, 2.5], [1, 4, 0, 3], 0.5  # two positives, two negatives
    errors = [
        (SCORES[0][columns[one]] - SCORES[0][columns[two]] - (teacher[one] - teacher[two]) / temperature) ** 2
        for one in (0, 1)
        for two in (2, 3)
    ]
    own = torch.tensor([columns, [4, -1, -1, -1]])  # the second query has no negative
    scores = torch.tensor(SCORES, dtype=torch.float64, requires_grad=True)
    given = torch.tensor([teacher, [1.0, 0, 0, 0]], dtype=torch.float64)
    loss = margin_mse_loss(scores, own, given, torch.tensor([[1, 4], [4, -1]]), temperature)
    assert loss.item() == pytest.approx(math.fsum(errors) / 4 / 2, rel=1e-12)
    loss.backward()
    assert scores.grad is not None
    assert scores.grad[1].tolist() == [0.0] * 5
    assert scores.grad[0].sum().item() == pytest.approx(0, abs=1e-12)
    assert scores.grad[0, 2].item() == 0


def test_margin_mse_forgets_what_all_scores_share() -> None:
    scores = torch.tensor([[0.5, 0.1, -0.4]])
    loss = margin_mse_loss(scores, torch.tensor([[0, 1, 2]]), scores * 3 + 7, torch.tensor([[0]]), temperature=3.0)
    assert loss.item() == pytest.approx(0, abs=1e-10)


def test_the_setting_chooses_how_a_teacher_is_followed() -> None:
    generator = torch.Generator().manual_seed(1)
    queries, passages = torch.randn(2, 8, generator=generator), torch.randn(4, 8, generator=generator)
    own, given = torch.tensor([[0, 1], [2, 3]]), torch.randn(2, 2, generator=generator)
    labels = Labels(torch.tensor([[0], [2]]), none(2, 4), own, given)
    scores = cosines(queries, passages) / 0.1
    expected = {
        "kl": distillation_loss(scores, own, given, 0.7),
        "margin_mse": margin_mse_loss(scores, own, given, labels.positives, 0.7),
    }
    for name, value in expected.items():
        settings = ContrastiveSettings(
            temperature=0.1, distillation=name, distillation_weight=0.5, distillation_temperature=0.7, weight=0
        )
        assert contrastive_loss(queries, passages, labels, settings)[0].item() == pytest.approx(0.5 * value.item())
    assert expected["kl"].item() != pytest.approx(expected["margin_mse"].item(), rel=0.1)


def test_the_matryoshka_loss_is_the_mean_over_renormalized_front_parts() -> None:
    generator = torch.Generator().manual_seed(1)
    queries, passages = torch.randn(3, 8, generator=generator), torch.randn(5, 8, generator=generator)
    labels = Labels(
        torch.tensor([[0], [1], [4]]), none(3, 5), torch.tensor([[0, 3], [1, 2], [4, 0]]), torch.randn(3, 2)
    )
    base = {"temperature": 0.1, "distillation_weight": 0.5, "weight": 2.0}
    found, parts = contrastive_loss(queries, passages, labels, ContrastiveSettings(**base, dimensions=[4, 2]))
    expected = 0.0
    for width in (2, 4, 8):
        scores = (
            torch.stack(
                [
                    torch.stack([torch.dot(a / a.norm(), b / b.norm()) for b in passages[:, :width].double()])
                    for a in queries[:, :width].double()
                ]
            )
            / 0.1
        )
        contrast = sum(by_hand(row.tolist(), [column]) for row, column in zip(scores, (0, 1, 4), strict=True)) / 3
        teacher = distillation_loss(scores, labels.own, labels.teacher_scores.double(), 1.0).item()
        expected += (2.0 * contrast + 0.5 * teacher) / 3
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert set(parts) == {"loss_contrastive", "loss_distillation"}
    assert found.item() == pytest.approx(2 * parts["loss_contrastive"].item() + 0.5 * parts["loss_distillation"].item())


def test_the_whole_width_is_always_trained() -> None:
    assert matryoshka_widths([], 8) == [8]
    assert matryoshka_widths([4, 4, 8], 8) == [4, 8]


def test_cosines_do_not_depend_on_length() -> None:
    queries, passages = torch.randn(2, 4), torch.randn(3, 4)
    torch.testing.assert_close(cosines(queries, passages), cosines(queries * 7, passages * 0.1))


# -------------------------------------------------------------------------------------------------------- the answers


def test_known_answers_are_found_as_by_looking_one_by_one() -> None:
    draw = random.Random(0)
    answers = [[draw.randint(0, 9) for _ in range(4)] for _ in range(6)]
    passages = [[draw.randint(0, 9), draw.randint(0, 9)] for _ in range(11)]
    expected = [[any(key and key in row for key in keys) for keys in passages] for row in answers]
    assert known_answers(torch.tensor(answers), torch.tensor(passages)).tolist() == expected


def test_keys_of_63_bits_are_told_apart() -> None:
    big = (1 << 63) - 1
    found = known_answers(torch.tensor([[big, 0]]), torch.tensor([[big, 0], [big - 1, 0]]))
    assert found.tolist() == [[True, False]]
