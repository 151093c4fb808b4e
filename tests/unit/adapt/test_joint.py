"""The founding test: one joint pass gives the embeddings of two separate prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from llama2vec.adapt.joint import attention_inputs, joint_batch, joint_mask
from llama2vec.config import PromptName
from llama2vec.errors import ModelError
from llama2vec.model.prompt import PromptIds
from llama2vec.pretext.targets import TokenizedText

PROMPTS = PromptIds(prefix=(1, 4), suffixes={"self": (5, 6, 7), "next": (5, 8, 9, 10, 7)}, slots=2)


def texts_of(lengths: Sequence[int], seed: int = 0) -> list[TokenizedText]:
    draw = torch.Generator().manual_seed(seed)
    return [TokenizedText(tuple(torch.randint(12, 120, (n,), generator=draw).tolist()), (13,)) for n in lengths]


def joint_slots(model: Any, texts: list[TokenizedText], tasks: Sequence[PromptName], **layout: Any) -> torch.Tensor:
    """Slot logits [B, tasks x S, V] of the joint pass, by the call that training makes."""
    batch = joint_batch(texts, texts, PROMPTS, tasks=tasks, **layout)
    with torch.no_grad():
        output = model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            logits_to_keep=torch.tensor(batch.layout.slot_columns()),
            use_cache=False,
            **attention_inputs(batch, model.config, torch.float32),
        )
    return output.logits


def separate_slots(model: Any, texts: list[TokenizedText], tasks: Sequence[PromptName]) -> torch.Tensor:
    """The same by one unpadded stock call for each text and prompt."""
    rows = []
    for text in texts:
        parts = []
        for task in tasks:
            ids = torch.tensor([[*PROMPTS.prefix, *text.ids, *PROMPTS.suffixes[task]]])
            with torch.no_grad():
                parts.append(model(input_ids=ids, use_cache=False).logits[0, -PROMPTS.slots :])
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_joint_pass_equals_two_separate_passes(
    make_model: Callable[..., Any], architecture: str, attention: str
) -> None:
    model = make_model(architecture, attention=attention)
    texts = texts_of([20, 3, 9, 1, 0])
    found = joint_slots(model, texts, ("self", "next"), pad_id=2)
    assert relative_difference(found, separate_slots(model, texts, ("self", "next"))) < 1e-5


def test_without_its_mask_and_positions_the_joint_pass_is_wrong(
    make_model: Callable[..., Any], architecture: str
) -> None:
    # The equality above would be empty if these models hardly looked at other positions.
    model = make_model(architecture)
    texts = texts_of([20])
    batch = joint_batch(texts, texts, PROMPTS)
    with torch.no_grad():
        plain = model(input_ids=batch.input_ids, use_cache=False).logits[:, batch.layout.slot_columns()]
    assert relative_difference(plain, separate_slots(model, texts, ("self", "next"))) > 1e-2


@pytest.mark.parametrize("task", ["self", "next"])
def test_one_task_alone_equals_its_separate_pass(
    make_model: Callable[..., Any], architecture: str, task: PromptName
) -> None:
    model = make_model(architecture)
    texts = texts_of([12, 2, 0])
    assert relative_difference(joint_slots(model, texts, (task,)), separate_slots(model, texts, (task,))) < 1e-5


@pytest.mark.parametrize("window", [2, 3, 5, 8, 13, 40])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sliding_windows_of_any_width_keep_the_equality(
    make_model: Callable[..., Any], window: int, attention: str
) -> None:
    model = make_model("mistral", attention=attention, sliding_window=window)
    texts = texts_of([20, 7, 1])
    found = joint_slots(model, texts, ("self", "next"))
    assert relative_difference(found, separate_slots(model, texts, ("self", "next"))) < 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_models_that_mix_full_and_sliding_layers_keep_the_equality(
    make_model: Callable[..., Any], attention: str
) -> None:
    layers = ["sliding_attention", "full_attention"]
    model = make_model("qwen3", attention=attention, use_sliding_window=True, sliding_window=6, layer_types=layers)
    assert model.config.sliding_window == 6
    texts = texts_of([20, 7, 0])
    found = joint_slots(model, texts, ("self", "next"))
    assert relative_difference(found, separate_slots(model, texts, ("self", "next"))) < 1e-5


def test_a_longer_neighbor_in_the_batch_changes_nothing(make_model: Callable[..., Any]) -> None:
    model = make_model("llama")
    texts = texts_of([11, 4, 16])
    wide = joint_slots(model, texts, ("self", "next"))[:2]
    assert relative_difference(wide, joint_slots(model, texts[:2], ("self", "next"))) < 1e-5


def test_what_fills_the_padding_never_reaches_a_slot(make_model: Callable[..., Any]) -> None:
    model = make_model("llama", attention="eager")
    texts = texts_of([11, 4, 0])
    first, second = (joint_slots(model, texts, ("self", "next"), pad_id=pad) for pad in (0, 99))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_gradients_of_the_joint_pass_equal_those_of_two_passes(make_model: Callable[..., Any]) -> None:
    model = make_model("llama")
    texts = texts_of([9, 4])
    batch = joint_batch(texts, texts, PROMPTS)
    inputs = attention_inputs(batch, model.config, torch.float32)
    logits = model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, **inputs).logits
    logits[:, batch.layout.slot_columns()].square().mean().backward()
    joint = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    for text in texts:
        for task in ("self", "next"):
            ids = torch.tensor([PROMPTS.wrap(text.ids, task, 999)])
            kept = model(input_ids=ids, use_cache=False).logits[0, -2:]
            (kept.square().sum() / (len(texts) * 2 * 2 * kept.shape[-1])).backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(joint[name], weight.grad, rtol=1e-4, atol=1e-5 * float(weight.grad.abs().max() + 1))


@pytest.mark.parametrize("kind", ["llama", "mistral_window", "gpt2"])
def test_the_mask_is_additive_and_never_boolean(make_model: Callable[..., Any], kind: str) -> None:
    config = make_model(kind).config
    for dtype in (torch.float32, torch.bfloat16):
        batch = joint_batch(texts_of([20, 3]), texts_of([20, 3]), PROMPTS)
        mask = attention_inputs(batch, config, dtype)["attention_mask"]
        assert mask.dtype == dtype
        assert set(mask.unique().tolist()) == {0.0, torch.finfo(dtype).min}


def test_every_row_of_the_mask_sees_something() -> None:
    batch = joint_batch(texts_of([5, 0]), texts_of([5, 0]), PROMPTS)
    for window in (None, 2):
        mask = joint_mask(batch, torch.float32, window)
        assert bool((mask == 0).any(dim=-1).all())


def test_positions_go_on_right_after_each_text() -> None:
    batch = joint_batch(texts_of([4, 1]), texts_of([4, 1]), PROMPTS)
    assert batch.text_lengths.tolist() == [6, 3]
    (self_start, self_end), (next_start, next_end) = batch.layout.blocks["self"], batch.layout.blocks["next"]
    assert batch.position_ids[0, self_start:self_end].tolist() == [6, 7, 8]
    assert batch.position_ids[0, next_start:next_end].tolist() == [6, 7, 8, 9, 10]
    assert batch.position_ids[1, self_start:self_end].tolist() == [3, 4, 5]
    assert batch.position_ids[1, next_start:next_end].tolist() == [3, 4, 5, 6, 7]
    assert batch.layout.slot_columns() == [self_end - 2, self_end - 1, next_end - 2, next_end - 1]
    assert batch.layout.columns == batch.input_ids.shape[1]


def test_targets_are_padded_with_weight_zero_and_weighted_by_token() -> None:
    texts = [TokenizedText((20, 21), (20, 21)), TokenizedText((22,), ())]
    following = [TokenizedText((30,), (30,)), TokenizedText((31, 32), (32, 31))]
    weights = torch.arange(40, dtype=torch.float32)
    batch = joint_batch(texts, following, PROMPTS, token_weights=weights)
    assert batch.targets["self"][0].tolist() == [20, 21]
    assert batch.target_weights["self"].tolist() == [[20.0, 21.0], [0.0, 0.0]]
    assert batch.target_weights["next"].tolist() == [[30.0, 0.0], [32.0, 31.0]]
    plain = joint_batch(texts, following, PROMPTS)
    assert plain.target_weights["next"].tolist() == [[1.0, 0.0], [1.0, 1.0]]


def test_layer_kinds_that_cannot_be_masked_are_refused(make_model: Callable[..., Any]) -> None:
    config = make_model("llama").config
    config.layer_types = ["linear_attention", "full_attention"]
    batch = joint_batch(texts_of([4]), texts_of([4]), PROMPTS)
    with pytest.raises(ModelError, match="layers of kind linear_attention cannot read"):
        attention_inputs(batch, config, torch.float32)
    # Texts longer than a window, too.
    config.layer_types, config.sliding_window = ["chunked_attention", "sliding_attention"], 2
    with pytest.raises(ModelError, match="layers of kind chunked_attention cannot read"):
        attention_inputs(batch, config, torch.float32)
