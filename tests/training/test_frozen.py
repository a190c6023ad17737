from __future__ import annotations

import pytest
import torch

from slipway.training import frozen
from slipway.training.frozen import FrozenProduct, ReorderedProduct, can_reorder, product_of

reorders = pytest.mark.skipif(
    not can_reorder(torch.zeros(32, 32, dtype=torch.bfloat16)), reason="needs bf16 in oneDNN"
)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_both_ways_equal_the_plain_products(
    packed: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packed:
        monkeypatch.setattr(frozen, "can_reorder", lambda weight: False)
    torch.manual_seed(0)
    layer = torch.nn.Linear(48, 32, dtype=dtype)
    weight, x, grad = (layer.weight.detach().clone(), *_inputs(dtype))
    product = product_of(layer)
    with torch.inference_mode():
        plain = torch.nn.functional.linear(x, weight, layer.bias)
        torch.testing.assert_close(product.forward(x, layer.bias), plain)
        torch.testing.assert_close(product.backward(grad), grad @ weight)
    assert product.dtype == dtype


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_an_addition_below_the_last_bit_is_not_rounded_away(
    packed: bool, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packed:
        monkeypatch.setattr(frozen, "can_reorder", lambda weight: False)
    torch.manual_seed(0)
    layer = torch.nn.Linear(256, 128, dtype=torch.bfloat16)
    bias = layer.bias.detach() if with_bias else None
    product = product_of(layer)
    x, grad = torch.randn(512, 256).bfloat16(), torch.randn(512, 128).bfloat16()
    ways = [(lambda plus: product.forward(x, bias, plus), (512, 128))]
    ways.append((lambda plus: product.backward(grad, plus), (512, 256)))
    with torch.inference_mode():
        for way, shape in ways:
            plus = (torch.randn(shape) * 3e-4).bfloat16()  # results are about 0.6: last bit 2e-3
            effect = way(plus).double() - way(None).double()
            kept = float((effect * plus).sum() / (plus.double() ** 2).sum())
            assert kept == pytest.approx(1.0, abs=0.15)  # 0.3 if it is added afterwards


def _inputs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(7, 48, dtype=dtype), torch.randn(7, 32, dtype=dtype)


@reorders
@pytest.mark.parametrize("shape", [(32, 48), (1, 576), (63, 65), (1536, 576)])
def test_the_weight_that_was_let_go_comes_back_bit_by_bit(shape: tuple[int, int]) -> None:
    layer = torch.nn.Linear(shape[1], shape[0], dtype=torch.bfloat16)
    weight = layer.weight.detach().clone()
    product = product_of(layer)
    assert isinstance(product, ReorderedProduct)
    assert torch.equal(product.whole(), weight)
    assert layer.weight.is_meta
    assert (layer.weight.shape, layer.weight.dtype) == (weight.shape, weight.dtype)
    assert not layer.weight.requires_grad


def test_nothing_is_packed_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "available_memory_bytes", lambda: 1 << 30)
    layer = torch.nn.Linear(8, 8, dtype=torch.bfloat16)
    assert isinstance(product_of(layer), FrozenProduct)
    assert not layer.weight.is_meta
