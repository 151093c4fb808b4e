"""Precision, width, rounding, several faults at once, and what has no known cause."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from planting import (
    KINDS,
    Saved,
    assert_names_only,
    assert_unknown,
    averaged,
    names,
    one_by_one,
    slotless,
    swapped,
    unit,
)

from llama2vec.verify.diagnosis import Finding, joined_causes
from llama2vec.verify.verification import Verification

RECIPES = ("llama-paper", "llama-released")
SLOT_KINDS = (*RECIPES, "gpt2-paper")
Models = Callable[[str], Saved]
Verified = Callable[..., Verification]


def test_16_bit_arithmetic_is_lower_precision(saved_models: Models, verified: Verified) -> None:
    saved = saved_models("llama-paper")
    model = Saved.open(saved.folder)
    model.model = model.model.to(torch.bfloat16)
    found = verified(saved, one_by_one(lambda side, text: model.last(model.row(side, text))))
    assert_names_only(found, "lower precision")
    assert "bfloat16 arithmetic" in found.lines()[-1]


@pytest.mark.parametrize(
    ("name", "planted"), [("no EOS", slotless), ("wrong prompt", swapped), ("mean pooling", averaged)]
)
def test_a_fault_is_named_through_16_bit_arithmetic(
    saved_models: Models, verified: Verified, name: str, planted: Callable[[Saved, str, str], np.ndarray]
) -> None:
    saved = saved_models("llama-paper")
    model = Saved.open(saved.folder)
    model.model = model.model.to(torch.bfloat16)
    found = verified(saved, one_by_one(lambda side, text: planted(model, side, text)))
    assert_names_only(found, name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounded_vectors_are_named(saved_models: Models, verified: Verified, dtype: torch.dtype) -> None:
    saved = saved_models("llama-paper")
    found = verified(
        saved,
        lambda side, _: torch.from_numpy(saved.golden.vectors[side].copy()).to(dtype).float(),  # type: ignore[index]
        live=False,
    )
    assert_names_only(found, "rounded vectors")


def test_fewer_dimensions_are_told_from_another_model(saved_models: Models, verified: Verified) -> None:
    saved = saved_models("llama-paper")

    def first(side: str, _: Any) -> np.ndarray:
        cut = saved.golden.vectors[side][:, :16]  # type: ignore[index]
        return cut / np.linalg.norm(cut, axis=1, keepdims=True)  # type: ignore[no-any-return]

    assert_names_only(verified(saved, first, live=False), "truncated dimensions")
    assert_names_only(verified(saved, lambda side, texts: np.ones((len(texts), 16)) / 4), "other width")
    assert_names_only(verified(saved, lambda side, texts: np.ones((len(texts), 64)) / 8), "other width")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_without_numbers_are_named(saved_models: Models, verified: Verified, value: float) -> None:
    saved = saved_models("llama-paper")
    found = verified(saved, lambda side, texts: np.full((len(texts), 32), value))
    assert_names_only(found, "not finite")


@pytest.mark.parametrize("kind", SLOT_KINDS)
def test_two_faults_at_once_are_no_single_known_cause(saved_models: Models, verified: Verified, kind: str) -> None:
    saved = saved_models(kind)

    def both(side: str, text: str) -> np.ndarray:
        return unit(saved.hidden([2, *saved.row(side, text.lower()), 2]).mean(dim=0))

    assert_unknown(verified(saved, one_by_one(both)))


@pytest.mark.parametrize("kind", ["llama-layers", "gpt2-released", "llama-mean"])
def test_other_weights_and_noise_are_no_known_cause(saved_models: Models, verified: Verified, kind: str) -> None:
    saved = saved_models(kind)
    draw = np.random.default_rng(0)

    def unlike(scale: float) -> Callable[[str, list[str]], np.ndarray]:
        def give(side: str, texts: list[str]) -> np.ndarray:
            moved = saved.golden.vectors[side] + draw.normal(0, scale, (len(texts), 32))  # type: ignore[index]
            return moved / np.linalg.norm(moved, axis=1, keepdims=True)  # type: ignore[no-any-return]

        return give

    for scale in (10.0, 0.03):
        assert_unknown(verified(saved, unlike(scale), live=False))


def test_a_missing_length_goes_along_with_another_fault(saved_models: Models, verified: Verified) -> None:
    saved = saved_models("llama-paper")
    found = verified(saved, one_by_one(lambda side, text: 7 * swapped(saved, side, text)))
    assert names(found) == ["missing normalization", "wrong prompt"]


def test_different_faults_on_the_sides_are_both_named(saved_models: Models, verified: Verified) -> None:
    saved = saved_models("llama-paper")
    found = verified(
        saved, one_by_one(lambda side, text: (swapped if side == "query" else averaged)(saved, side, text))
    )
    assert [(cause.fault, tuple(cause.what)) for cause in found.causes] == [
        ("wrong prompt", ("query",)), ("mean pooling", ("passage",)),
    ]  # fmt: skip


def test_a_bos_that_the_model_does_not_have_is_never_missing(saved_models: Models, verified: Verified) -> None:
    saved = saved_models("llama-no-bos")
    assert saved.contract["token_ids"]["prefix"] == []
    found = verified(saved, one_by_one(lambda side, text: saved.last([2, *saved.row(side, text)])))
    assert "missing BOS" not in " ".join(found.lines())
    assert_names_only(found, "extra BOS")


def test_a_fault_that_explains_both_sides_goes_before_one_that_explains_one() -> None:
    one, other = Finding("a", "one", "do"), Finding("b", "other", "act")
    (cause,) = joined_causes({"query": [one, other], "passage": [other]})
    assert (cause.fault, cause.what, cause.equal) == ("b", {"query": "other", "passage": "other"}, ())
    (cause,) = joined_causes({"query": [one, other], "passage": [one, other]})
    assert (cause.fault, cause.equal) == ("a", ("b",))
    assert cause.sentence() == "a (or b: the same vectors for these texts): queries and passages: one; do"


def test_vectors_within_the_tolerance_pass_and_have_no_cause(saved_models: Models, verified: Verified) -> None:
    for kind in KINDS:
        saved = saved_models(kind)
        found = verified(saved, lambda side, _: saved.golden.vectors[side] + np.float32(5e-6))  # type: ignore[index]  # noqa: B023
        assert found.passed
        assert found.causes == found.hints == ()
        strict = verified(saved, lambda side, _: saved.golden.vectors[side] + np.float32(5e-6), tolerance=1e-7)  # type: ignore[index]  # noqa: B023
        assert_names_only(strict, "rounding")
