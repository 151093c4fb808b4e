"""Products and layers made of tensors: what linear layers and what follows give, packed or not, to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear, rms_norm, silu

from llama2vec.model.speed.plain_decoder import LayerFacts, Norm, PlainDecoder, PlainLayer, Product

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="PyTorch multiplies packed bfloat16 from AVX-512 on"
)
NEAR = {"rtol": 2e-2, "atol": 2e-2}
D, HEADS, SHARED, W = 32, 4, 2, 8


def random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (torch.randn(shape, generator=generator) / shape[-1] ** 0.5).bfloat16()


@torch.inference_mode()
def test_a_product_is_the_linear_layer_with_what_follows() -> None:
    x, other, weight, bias = random(2, 3, 32), random(2, 3, 48), random(48, 32), random(48)
    plain = linear(x, weight, bias)
    torch.testing.assert_close(Product(weight, bias)(x), plain, **NEAR)
    torch.testing.assert_close(Product(weight, bias, "swish")(x), silu(plain), **NEAR)
    torch.testing.assert_close(Product(weight, bias).with_other(x, other, "add"), plain + other, **NEAR)
    torch.testing.assert_close(Product(weight).with_other(x, other, "mul"), linear(x, weight) * other, **NEAR)


@torch.inference_mode()
def test_packing_changes_no_bit() -> None:
    x, other, product = random(1, 20, 576), random(1, 20, 960), Product(random(960, 576))
    ways = (
        lambda: product(x),
        lambda: product.with_other(x, other, "add"),
        lambda: product.with_other(x, other, "mul"),
    )
    before = [way() for way in ways]
    product.pack().pack()
    for way, expected in zip(ways, before, strict=True):
        assert torch.equal(way(), expected)


@torch.inference_mode()
def test_a_decoder_reads_its_norms_its_scale_and_only_the_past() -> None:
    tensors = {
        "norm": random(D) + 1, "second_norm": random(D) + 1,
        "attention_in": random((HEADS + 2 * SHARED) * W, D), "attention_out": random(D, HEADS * W),
        "gate": random(48, D), "up": random(48, D), "down": random(D, 48),
    }  # fmt: skip

    def made(scale: float | None = None) -> PlainDecoder:
        facts = LayerFacts(W, HEADS, HEADS + SHARED, scale, epsilon=1e-5, second_epsilon=1e-5)
        tables = torch.ones(1, 10, 1, W).bfloat16(), torch.zeros(1, 10, 1, W).bfloat16()
        return PlainDecoder(random(50, D), [PlainLayer(tensors, facts)], Norm(random(D), 1e-5), tables)

    ids = torch.arange(7)[None]
    (state,) = made().states(ids, 1)
    below, same = made().states(ids, 2)
    assert torch.equal(state, same)
    assert torch.equal(below, random(50, D)[ids])
    packed = made()
    packed.pack()
    assert torch.equal(packed.states(ids, 1)[0], state)
    assert torch.equal(made(W**-0.5).states(ids, 1)[0], state)
    assert not torch.equal(made(4.0).states(ids, 1)[0], state)
    longer = made().states(torch.cat((ids, ids), dim=1)[:, :9], 1)[0]
    torch.testing.assert_close(longer[:, :7], state, **NEAR)
    torch.testing.assert_close(Norm(tensors["norm"], 1e-5)(below), rms_norm(below, (D,), tensors["norm"], 1e-5))
