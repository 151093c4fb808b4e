"""What must not matter to a comparison: which system is named first, the order of the queries, a constant."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama2vec.records import Report
from llama2vec.score.comparison import ComparisonOptions, PairedTest, compare_reports
from llama2vec.score.significance import holm

# Reciprocal ranks and sums with rounding; few values, so that queries tie.
VALUES = st.sampled_from([0.0, 0.1, 0.2, 0.1 + 0.2, 0.3, 1 / 3, 0.5, 1.0])
PAIRS = st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=40)
OPTIONS = ComparisonOptions(flips=200, resamples=50)


def compared(pairs: list[tuple[float, float]], order: Any = None) -> PairedTest:
    names = [f"q{number:02d}" for number in range(len(pairs))]
    places = order if order is not None else range(len(pairs))
    reports = [
        Report("t", system, {}, per_query={"AP": {names[place]: pairs[place][side] for place in places}})
        for side, system in enumerate(("first", "second"))
    ]
    return compare_reports(reports, metric="AP", options=OPTIONS).pairs[0]


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_swapping_the_systems_turns_the_sign_and_keeps_p(pairs: list[tuple[float, float]]) -> None:
    one, other = compared(pairs), compared([(second, first) for first, second in pairs])
    assert other.difference == -one.difference
    assert other.effect_size == (None if one.effect_size is None else -one.effect_size)
    assert (other.t_p, other.randomization_p) == (one.t_p, one.randomization_p)
    assert (other.wins, other.ties, other.losses) == (one.losses, one.ties, one.wins)
    assert other.interval == pytest.approx((-one.interval[1], -one.interval[0]), abs=1e-12)
    assert other.detectable_difference == one.detectable_difference


@settings(max_examples=40, deadline=None)
@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_the_queries_changes_nothing(pairs: list[tuple[float, float]], random: Any) -> None:
    order = list(range(len(pairs)))
    random.shuffle(order)
    assert compared(pairs, order) == compared(pairs)


@settings(max_examples=40, deadline=None)
@given(PAIRS, st.sampled_from([-0.5, 0.25, 1.0]))
def test_a_constant_on_both_changes_nothing_and_on_one_shifts_the_difference(
    pairs: list[tuple[float, float]], constant: float
) -> None:
    plain = compared(pairs)
    both = compared([(first + constant, second + constant) for first, second in pairs])
    assert (both.wins, both.ties, both.losses) == (plain.wins, plain.ties, plain.losses)
    assert both.randomization_p == plain.randomization_p
    assert both.difference == pytest.approx(plain.difference, abs=1e-9)
    one = compared([(first, second + constant) for first, second in pairs])
    assert one.difference == pytest.approx(plain.difference + constant, abs=1e-8)
    assert one.interval == pytest.approx([bound + constant for bound in plain.interval], abs=1e-8)


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_every_number_is_finite_and_in_its_range(pairs: list[tuple[float, float]]) -> None:
    pair = compared(pairs)
    numbers = [pair.difference, *pair.interval, pair.randomization_p, pair.effect_size, pair.t_p]
    assert all(np.isfinite(number) for number in numbers if number is not None)
    assert 0 < pair.randomization_p <= 1
    assert pair.interval[0] <= pair.interval[1]
    assert pair.wins + pair.ties + pair.losses == len(pairs)
    same = all(abs(second - first) <= 1e-9 for first, second in pairs)
    assert (pair.wins + pair.losses == 0) == same
    if same:
        assert (pair.t_p, pair.randomization_p, pair.effect_size, pair.difference) == (1.0, 1.0, 0.0, 0.0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_plain_and_bonferronis_p_and_keeps_the_order(p_values: list[float]) -> None:
    corrected = [p for p in holm(p_values) if p is not None]
    assert len(corrected) == len(p_values)
    for plain, after in zip(p_values, corrected, strict=True):
        assert plain <= after <= min(1.0, plain * len(p_values))
    by_size = sorted(zip(p_values, corrected, strict=True))
    assert [after for _, after in by_size] == sorted(corrected)
