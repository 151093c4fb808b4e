"""Each planted fault is called by its name, and none is called by another's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from planting import KINDS, Saved, unit

from llama2vec.verify.diagnosis import Finding, joined_causes
from llama2vec.verify.verification import Verification

RECIPES = ("llama-paper", "llama-released")
SLOT_KINDS = (*RECIPES, "gpt2-paper")
Models = Callable[[str], Saved]
Verified = Callable[..., Verification]


def one_by_one(embed: Callable[[str, str], np.ndarray]) -> Callable[[str, list[str]], np.ndarray]:
    return lambda side, texts: np.stack([embed(side, text) for text in texts])


def names(found: Verification) -> list[str]:
    return [cause.fault for cause in found.causes]


def assert_names_only(found: Verification, name: str, sides: tuple[str, ...] = ("query", "passage")) -> None:
    assert not found.passed
    assert names(found) == [name], found.lines()
    assert tuple(found.causes[0].what) == sides
    assert found.causes[0].equal == (), found.lines()
    assert not found.hints
    assert any(line.startswith(f"cause: {name}: ") for line in found.lines())


# Each fault as a stack would have it, at the last layer: (model, side, text) → vector.


def slotless(saved: Saved, side: str, text: str) -> np.ndarray:
    return saved.last(saved.row(side, text)[: -saved.contract["token_ids"]["slots"]])


def bare_last_token(saved: Saved, side: str, text: str) -> np.ndarray:
    return unit(saved.hidden([*saved.contract["token_ids"]["prefix"], *saved.body(side, text)])[-1])


def swapped(saved: Saved, side: str, text: str) -> np.ndarray:
    other = "passage" if side == "query" else "query"
    return saved.last([*saved.contract["token_ids"]["prefix"], *saved.body(side, text), *saved.suffix(other)])


def wordless(saved: Saved, side: str, text: str) -> np.ndarray:
    slots = saved.suffix(side)[-saved.contract["token_ids"]["slots"] :]
    return saved.last([*saved.contract["token_ids"]["prefix"], *saved.body(side, text), *slots])


def averaged(saved: Saved, side: str, text: str) -> np.ndarray:
    return unit(saved.hidden(saved.row(side, text)).mean(dim=0))


def without_bos(saved: Saved, side: str, text: str) -> np.ndarray:
    row = saved.row(side, text)
    assert row[0] == saved.tokenizer.bos_token_id
    return saved.last(row[1:])


def with_two_bos(saved: Saved, side: str, text: str) -> np.ndarray:
    return saved.last([1, *saved.row(side, text)])


def with_two_eos(saved: Saved, side: str, text: str) -> np.ndarray:
    return saved.last([*saved.row(side, text), saved.tokenizer.eos_token_id])


def below(saved: Saved, side: str, text: str) -> np.ndarray:
    return unit(saved.hidden(saved.row(side, text), layer=-2)[-saved.contract["token_ids"]["slots"] :].mean(dim=0))


def lowered(saved: Saved, side: str, text: str) -> np.ndarray:
    return saved.last(saved.row(side, text.lower()))


def in_llama2_chat(saved: Saved, side: str, text: str) -> np.ndarray:
    return saved.last(saved.row(side, f"[INST] {text} [/INST]"))


@pytest.mark.parametrize(
    ("kind", "name", "planted"),
    [
        ("llama-paper", "no EOS", slotless),
        ("llama-paper", "no EOS", bare_last_token),
        ("llama-paper", "wrong prompt", swapped),
        ("llama-paper", "no prompt", wordless),
        ("llama-paper", "mean pooling", averaged),
        ("llama-paper", "missing BOS", without_bos),
        ("llama-paper", "extra BOS", with_two_bos),
        ("llama-paper", "extra EOS", with_two_eos),
        ("llama-paper", "other layers", below),
        ("llama-paper", "altered text", lowered),
        ("llama-paper", "chat template", in_llama2_chat),
        ("llama-released", "no slots", slotless),
        ("llama-released", "no slots", bare_last_token),
        ("llama-released", "wrong prompt", swapped),
        ("llama-released", "no prompt", wordless),
        ("llama-released", "mean pooling", averaged),
        ("gpt2-paper", "no EOS", slotless),
        ("gpt2-released", "missing BOS", without_bos),
    ],
)
def test_a_planted_fault_is_named(
    saved_models: Models, verified: Verified, kind: str, name: str, planted: Callable[[Saved, str, str], np.ndarray]
) -> None:
    saved = saved_models(kind)
    found = verified(saved, one_by_one(lambda side, text: planted(saved, side, text)))
    assert_names_only(found, name)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_normalization_is_named(saved_models: Models, verified: Verified, kind: str) -> None:
    saved = saved_models(kind)

    def long(side: str, texts: list[str]) -> np.ndarray:
        lengths = np.linspace(3, 9, len(texts), dtype=np.float32)[:, None]
        return saved.golden.vectors[side] * lengths  # type: ignore[index]

    assert_names_only(verified(saved, long, live=False), "missing normalization")


def padded_on_the_left(
    saved: Saved, side: str, texts: list[str], *, mask: bool, right_index: bool = False
) -> np.ndarray:
    """As a stack with ``padding_side="left"`` gives it, texts of a request as one batch."""
    rows = [saved.row(side, text) for text in texts]
    width, slots = max(map(len, rows)), saved.contract["token_ids"]["slots"]
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    seen = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    with torch.no_grad():
        output = saved.model(input_ids=ids, attention_mask=seen if mask else None, output_hidden_states=True)
    hidden = output.hidden_states[-1].double()
    ends = [len(row) if right_index else width for row in rows]
    return np.stack([unit(hidden[n, end - slots : end].mean(dim=0)) for n, end in enumerate(ends)])


@pytest.mark.parametrize(("kind", "live"), [*((kind, True) for kind in SLOT_KINDS), ("llama-paper", False)])
def test_left_padding_without_a_mask_is_named(saved_models: Models, verified: Verified, kind: str, live: bool) -> None:
    saved = saved_models(kind)
    found = verified(saved, lambda side, texts: padded_on_the_left(saved, side, texts, mask=False), live=live)
    assert_names_only(found, "left padding")


def test_left_padding_with_the_slot_of_right_padding_is_named(saved_models: Models, verified: Verified) -> None:
    saved = saved_models("llama-paper")
    found = verified(
        saved, lambda side, texts: padded_on_the_left(saved, side, texts, mask=False, right_index=True), live=True
    )
    assert_names_only(found, "left padding")
    assert "pooled as if padded on the right" in found.lines()[-1]


def test_a_batch_that_gives_no_numbers_where_single_texts_do_is_a_matter_of_batching(
    saved_models: Models, verified: Verified
) -> None:
    saved = saved_models("llama-paper")

    def masked_out(side: str, texts: list[str]) -> np.ndarray:
        rows = [saved.golden.texts.index(text) for text in texts]
        return saved.golden.vectors[side][rows] * (1 if len(texts) == 1 else np.nan)  # type: ignore[index, no-any-return]

    assert_names_only(verified(saved, masked_out), "batching")
    assert_names_only(verified(saved, masked_out, live=False), "not finite")


def test_left_padding_with_a_mask_is_a_fault_only_where_positions_are_absolute(
    saved_models: Models, verified: Verified
) -> None:
    relative, absolute = saved_models("llama-paper"), saved_models("gpt2-paper")
    assert verified(relative, lambda side, texts: padded_on_the_left(relative, side, texts, mask=True)).passed
    found = verified(absolute, lambda side, texts: padded_on_the_left(absolute, side, texts, mask=True))
    assert_names_only(found, "left padding")
    assert "positions count the padding" in found.lines()[-1]


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("kind", SLOT_KINDS)
def test_pooling_at_a_pad_token_is_named(saved_models: Models, verified: Verified, kind: str, mask: bool) -> None:
    saved = saved_models(kind)
    slots = saved.contract["token_ids"]["slots"]

    def last_column(side: str, texts: list[str]) -> np.ndarray:
        rows = [saved.row(side, text) for text in texts]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        seen = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        with torch.no_grad():
            output = saved.model(input_ids=ids, attention_mask=seen if mask else None, output_hidden_states=True)
        return np.stack([unit(row[-slots:].mean(dim=0)) for row in output.hidden_states[-1].double()])

    assert_names_only(verified(saved, last_column), "pooling at a pad token")


def test_texts_that_reach_each_other_within_a_request_are_a_matter_of_batching(
    saved_models: Models, verified: Verified
) -> None:
    saved = saved_models("llama-paper")

    def mixed(side: str, texts: list[str]) -> np.ndarray:
        rows = [saved.golden.texts.index(text) for text in texts]
        vectors = saved.golden.vectors[side][rows]  # type: ignore[index]
        vectors = vectors + 0.2 * np.roll(vectors, 1, axis=0)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)  # type: ignore[no-any-return]

    assert_names_only(verified(saved, mixed), "batching")
    hidden = verified(saved, mixed, live=False)
    assert_unknown(hidden)


@pytest.mark.parametrize("kind", RECIPES)
def test_another_limit_is_named_with_its_length(saved_models: Models, verified: Verified, kind: str) -> None:
    saved = saved_models(kind)

    def cut(side: str, text: str) -> np.ndarray:
        ids = saved.tokenizer(text, add_special_tokens=False)["input_ids"][: 16 if side == "query" else 32]
        return saved.last([*saved.contract["token_ids"]["prefix"], *ids, *saved.suffix(side)])

    found = verified(saved, one_by_one(cut))
    assert_names_only(found, "truncation")
    assert "cut at 16 tokens instead of 24" in found.causes[0].what["query"]
    assert "cut at 32 tokens instead of 60" in found.causes[0].what["passage"]


def test_truncation_that_eats_the_prompt_is_named(saved_models: Models, verified: Verified) -> None:
    saved = saved_models("llama-paper")
    eaten = verified(saved, one_by_one(lambda side, text: saved.last(saved.row(side, text)[:48])))
    assert_names_only(eaten, "truncation", ("passage",))
    assert "cuts off the end of the prompt" in eaten.causes[0].what["passage"]


def test_texts_that_are_not_cut_at_all_are_named(saved_models: Models, verified: Verified) -> None:
    saved = saved_models("llama-paper")

    def as_in_the_contract(side: str, text: str) -> np.ndarray:
        return saved.last(saved.row(side, text))

    def uncut(side: str, text: str) -> np.ndarray:
        ids = saved.tokenizer(text, add_special_tokens=False)["input_ids"]
        return saved.last([*saved.contract["token_ids"]["prefix"], *ids, *saved.suffix(side)])

    context = saved.model.config.max_position_embeddings
    assert max(len(saved.tokenizer(text)["input_ids"]) for text in saved.golden.texts) < context - 40
    assert verified(saved, one_by_one(as_in_the_contract)).passed
    found = verified(saved, one_by_one(uncut))
    assert_names_only(found, "truncation")
    assert "texts are not cut, where the contract's limit is 24 tokens" in found.causes[0].what["query"]


def test_one_side_read_as_the_other_is_named_on_that_side_alone(saved_models: Models, verified: Verified) -> None:
    saved = saved_models("llama-released")

    def all_passages(side: str, text: str) -> np.ndarray:
        return saved.last(saved.row("passage", text))

    found = verified(saved, one_by_one(all_passages))
    assert_names_only(found, "wrong prompt", ("query",))
    assert "read with the SELF prompt, the passage's, instead of NEXT" in found.causes[0].what["query"]
    assert found.sides["passage"].passed


@pytest.mark.parametrize("slot", [0, -1])
def test_a_single_slot_of_eight_is_named(saved_models: Models, verified: Verified, slot: int) -> None:
    saved = saved_models("llama-released")
    found = verified(saved, one_by_one(lambda side, text: unit(saved.hidden(saved.row(side, text))[-8:][slot])))
    assert_names_only(found, "one slot")


def test_a_missing_quotation_mark_is_a_missing_prefix(saved_models: Models, verified: Verified) -> None:
    saved = saved_models("llama-released")

    def bare(side: str, text: str) -> np.ndarray:
        row = saved.row(side, text)
        return saved.last([row[0], *row[len(saved.contract["token_ids"]["prefix"]) :]])

    assert_names_only(verified(saved, one_by_one(bare)), "missing prefix")


@pytest.mark.parametrize(("count", "told"), [(1, "only the last layer is read"), (2, "the last 2 layers are averaged")])
def test_fewer_layers_than_the_contract_averages_are_named(
    saved_models: Models, verified: Verified, count: int, told: str
) -> None:
    saved = saved_models("llama-layers")

    def fewer(side: str, text: str) -> np.ndarray:
        row = saved.row(side, text)
        layers = [torch.from_numpy(unit(saved.hidden(row, layer=-1 - up)[-1])) for up in range(count)]
        return unit(torch.stack(layers).mean(dim=0))

    found = verified(saved, one_by_one(fewer))
    assert_names_only(found, "other layers")
    assert told in found.lines()[-1]


def test_last_token_pooling_of_a_mean_model_is_named(saved_models: Models, verified: Verified) -> None:
    saved = saved_models("llama-mean")
    prefix = saved.contract["token_ids"]["prefix"]
    last = verified(saved, one_by_one(lambda side, text: unit(saved.hidden([*prefix, *saved.body(side, text)])[-1])))
    assert_names_only(last, "other pooling")
    with_bos = verified(
        saved, one_by_one(lambda side, text: unit(saved.hidden([*prefix, *saved.body(side, text)]).mean(dim=0)))
    )
    assert_names_only(with_bos, "other pooling")


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


def assert_unknown(found: Verification) -> None:
    assert not found.passed
    assert names(found) == []
    assert any("no single known cause" in line for line in found.lines())
    assert found.hints


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
