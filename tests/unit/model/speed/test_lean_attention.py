"""Attention without copies of shared keys and values gives the same numbers and keeps less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from llama2vec.adapt.joint import attention_inputs, joint_batch
from llama2vec.config import LoraSettings, ModelSettings
from llama2vec.model.adapters import add_lora
from llama2vec.model.backbone import load_backbone
from llama2vec.model.prompt import PromptIds
from llama2vec.model.speed import lean_attention
from llama2vec.model.speed.lean_attention import use_lean_attention, use_stock_attention
from llama2vec.pretext.targets import TokenizedText

PROMPTS = PromptIds(prefix=(1, 4), suffixes={"self": (5, 6, 7), "next": (5, 8, 9, 10, 7)}, slots=2)
TEXTS = [TokenizedText(tuple(range(20, 20 + length)), (13,)) for length in (30, 11, 23)]


def joint_step(model: Any, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
    """Slot logits, gradients, and bytes that autograd keeps, of the pass that adaptation makes."""
    batch = joint_batch(TEXTS, TEXTS, PROMPTS)
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            logits_to_keep=torch.tensor(batch.layout.slot_columns()),
            use_cache=False,
            **attention_inputs(batch, model.config, dtype),
        ).logits
    logits.square().mean().backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    return logits.detach(), gradients, sum(storages.values())


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral_window", "gpt2", "gpt_neox"])
def test_logits_and_gradients_are_those_of_the_stock_kernel_and_no_more_is_kept(
    make_model: Callable[..., Any], kind: str
) -> None:
    model = make_model(kind).eval()
    stock_logits, stock_gradients, stock_bytes = joint_step(model)
    use_lean_attention(model)
    logits, gradients, kept = joint_step(model)
    torch.testing.assert_close(logits, stock_logits, rtol=1e-5, atol=1e-5 * float(stock_logits.abs().max()))
    assert gradients.keys() == stock_gradients.keys()
    for name, value in stock_gradients.items():
        torch.testing.assert_close(gradients[name], value, rtol=1e-4, atol=1e-5 * float(value.abs().max() + 1))
    assert kept <= stock_bytes * 1.02


def test_a_text_without_a_mask_reads_the_same(make_model: Callable[..., Any]) -> None:
    model, ids = make_model("llama"), torch.arange(18).reshape(2, 9) + 3
    with torch.no_grad():
        stock = model(input_ids=ids, use_cache=False).logits
        use_lean_attention(model)
        assert torch.equal(model(input_ids=ids, use_cache=False).logits, stock)


def test_it_is_undone_with_the_adapter_on_and_changes_nothing_that_is_saved(llama_folder: Any) -> None:
    backbone = load_backbone(ModelSettings(name=str(llama_folder), dtype="float32"))
    model = add_lora(backbone, LoraSettings(rank=4), [], 0)
    before = backbone.model.config.to_dict()
    use_lean_attention(model)
    assert backbone.model.config._attn_implementation == lean_attention.NAME
    use_stock_attention(model)
    assert backbone.model.config._attn_implementation == "sdpa"
    assert backbone.model.config.to_dict() == before


def test_other_kernels_are_left_alone(make_model: Callable[..., Any]) -> None:
    model = make_model("llama", attention="eager")
    use_lean_attention(model)
    assert model.config._attn_implementation == "eager"
    use_stock_attention(model)
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("window", [8, 40])
def test_a_mask_with_a_window_is_read_whole(make_model: Callable[..., Any], window: int) -> None:
    model = make_model("mistral", sliding_window=window)
    batch = joint_batch(TEXTS, TEXTS, PROMPTS)
    mask = attention_inputs(batch, model.config, torch.float32)["attention_mask"]
    # 40 columns are more than any position: no window is in the way.
    assert hasattr(mask, lean_attention._CAUSAL_COLUMNS) == (window == 40)


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_bfloat16_weights_and_autocast_read_about_the_same(make_model: Callable[..., Any], kind: str) -> None:
    model = make_model(kind)
    model.eval()
    exact = joint_step(model)[0]
    use_lean_attention(model)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = joint_step(model)[0]
    model.to(torch.bfloat16)
    rounded = joint_step(model, torch.bfloat16)[0]
    for found in (mixed, rounded):
        torch.testing.assert_close(found.float(), exact, rtol=0.1, atol=0.05 * float(exact.abs().max()))


def test_a_first_pass_without_gradients_changes_nothing(make_model: Callable[..., Any]) -> None:
    # A model with attention dropout meets this path first in validation, in evaluation mode.
    model = make_model("gpt2", attn_pdrop=0.1)
    use_lean_attention(model)
    with torch.no_grad():
        model(input_ids=torch.arange(18).reshape(2, 9) + 3, use_cache=False)
    stock = make_model("gpt2", attn_pdrop=0.1)
    found, expected = joint_step(model)[1], joint_step(stock)[1]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5 * float(value.abs().max() + 1))


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_the_prompts_mask_is_read_and_the_texts_is_not(make_model: Callable[..., Any], kind: str) -> None:
    model = make_model(kind)
    batch = joint_batch(TEXTS, TEXTS, PROMPTS)
    inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "use_cache": False}
    mask = attention_inputs(batch, model.config, torch.float32)["attention_mask"]
    use_lean_attention(model)
    expected = model(**inputs, attention_mask=mask).logits
    text, hidden = batch.layout.text_columns, torch.finfo(torch.float32).min
    blind_text, blind_prompts = mask.clone(), mask.clone()
    blind_text[:, :, :text, : text - 1] = hidden
    blind_prompts[:, :, text:, :text] = hidden
    for changed in (blind_text, blind_prompts):
        lean_attention.mark_causal_columns(changed, text)
    assert torch.equal(model(**inputs, attention_mask=blind_text).logits, expected)
    assert not torch.allclose(model(**inputs, attention_mask=blind_prompts).logits, expected)


def _attend(side: str, dtype: torch.dtype, mask: torch.Tensor | None, *, columns: int, heads: int = 2) -> Any:
    """Output and gradients of attention with six query heads: the stock kernel's, or this module's."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, count, columns, 16) for count in (6, heads, heads, 6)]
    # Values that both formats hold exactly
    drawn = [torch.randn(shape, generator=generator).bfloat16().to(dtype) for shape in shapes]
    query, key, value, gradient = drawn
    inputs = [tensor.requires_grad_() for tensor in (query, key, value)]
    if side == "stock":
        given = mask if mask is None or mask.dtype == torch.bool else mask.to(dtype)
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=given, is_causal=mask is None, enable_gqa=True
        )
        return out.detach(), torch.autograd.grad(out, inputs, gradient)
    out = lean_attention._attend(torch.nn.Module(), query, key, value, mask)[0].transpose(1, 2)
    return out.detach(), torch.autograd.grad(out, inputs, gradient)


def _masks(columns: int) -> dict[str, torch.Tensor | None]:
    seen = torch.ones(columns, columns, dtype=torch.bool).tril()[None, None].repeat(2, 1, 1, 1)
    seen[1, :, :, 3] = False
    seen[1, :, 3, 3] = True
    hidden = torch.finfo(torch.bfloat16).min
    return {"causal": None, "bool": seen, "additive": torch.zeros(seen.shape).masked_fill(~seen, hidden).bfloat16()}


@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize("kind", ["causal", "bool", "additive"])
def test_bfloat16_gradients_are_computed_in_float32_and_nearer_to_the_exact_ones(kind: str, heads: int) -> None:
    mask = _masks(24)[kind]
    _, exact = _attend("stock", torch.float64, mask, columns=24, heads=heads)
    stock_out, stock = _attend("stock", torch.bfloat16, mask, columns=24, heads=heads)
    out, found = _attend("ours", torch.bfloat16, mask, columns=24, heads=heads)
    assert torch.equal(out, stock_out)
    for name, ours, theirs, truth in zip(("query", "key", "value"), found, stock, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        error, other = ((one.double() - truth).norm() / truth.norm() for one in (ours, theirs))
        assert error < min(0.003, float(other)), name


def test_attention_over_many_keys_keeps_the_stock_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean_attention, "_SHORT", 23)
    for columns, is_stock in ((24, True), (23, False)):
        stock = _attend("stock", torch.bfloat16, None, columns=columns, heads=6)[1]
        found = _attend("ours", torch.bfloat16, None, columns=columns, heads=6)[1]
        assert all(map(torch.equal, found, stock)) == is_stock
