from __future__ import annotations

import pytest
import torch

from slipway.training import loss
from slipway.training.loss import head_losses


@pytest.mark.parametrize("chunk", [3, 256])
@pytest.mark.parametrize("with_bias", [True, False])
def test_chunked_losses_and_gradients_equal_cross_entropy(
    chunk: int, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "CHUNK", chunk)
    torch.manual_seed(0)
    rows = torch.randn(10, 6, requires_grad=True)
    same = rows.detach().clone().requires_grad_()
    weight = torch.randn(20, 6)
    bias = torch.randn(20) if with_bias else None
    targets = torch.randint(0, 20, (10,))
    ours = head_losses(rows, weight, bias, targets, 0.25)
    logits = torch.nn.functional.linear(same, weight, bias)
    theirs = torch.nn.functional.cross_entropy(logits, targets, reduction="none") * 0.25
    torch.testing.assert_close(ours, theirs)
    ours.sum().backward()
    theirs.sum().backward()
    torch.testing.assert_close(rows.grad, same.grad)


def test_bf16_training_losses_are_near_the_exact_ones_and_the_gradient_points_the_same_way() -> (
    None
):
    torch.manual_seed(0)
    rows = torch.randn(300, 16).bfloat16().requires_grad_()
    weight = torch.randn(50, 16).bfloat16()
    targets = torch.randint(0, 50, (300,))
    ours = head_losses(rows, weight, None, targets)
    with torch.inference_mode():
        exact = head_losses(rows, weight, None, targets)
    difference = ours.detach() - exact
    assert float(difference.abs().max()) < 0.03
    assert float(difference.mean()) == pytest.approx(0, abs=1e-3)
    ours.mean().backward()
    wide = rows.detach().float().requires_grad_()
    torch.nn.functional.cross_entropy(wide @ weight.float().T, targets).backward()
    assert rows.grad is not None
    assert wide.grad is not None
    similarity = torch.cosine_similarity(rows.grad.float().flatten(), wide.grad.flatten(), dim=0)
    assert float(similarity) > 0.999
