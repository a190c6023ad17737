from __future__ import annotations

import pytest
import torch

from slipway.training import frozen
from slipway.training.frozen import FrozenProduct


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_both_ways_equal_the_plain_products(
    packed: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packed:
        monkeypatch.setattr(frozen, "_can_pack", lambda weight: False)
    torch.manual_seed(0)
    layer = torch.nn.Linear(48, 32, dtype=dtype)
    product = FrozenProduct(layer)
    x, grad = torch.randn(7, 48, dtype=dtype), torch.randn(7, 32, dtype=dtype)
    with torch.inference_mode():
        torch.testing.assert_close(product.forward(x, layer.bias), layer(x))
        torch.testing.assert_close(product.backward(grad), grad @ layer.weight)


def test_nothing_is_packed_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "available_memory_bytes", lambda: 1 << 30)
    product = FrozenProduct(torch.nn.Linear(8, 8, dtype=torch.bfloat16))
    assert product._ahead is None
    assert product._back is None
