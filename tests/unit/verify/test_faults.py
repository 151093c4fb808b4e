"""Each planted fault is called by its name, and none by another's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from planting import (
    KINDS,
    Saved,
    assert_names_only,
    assert_unknown,
    averaged,
    bare_last_token,
    below,
    lowered,
    one_by_one,
    slotless,
    swapped,
    unit,
    with_two_bos,
    with_two_eos,
    without_bos,
    wordless,
)

from llama2vec.verify.verification import Verification

RECIPES = ("llama-paper", "llama-released")
SLOT_KINDS = (*RECIPES, "gpt2-paper")
Models = Callable[[str], Saved]
Verified = Callable[..., Verification]


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
