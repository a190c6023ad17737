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


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_trained_head_gets_the_gradient_of_cross_entropy(
    even: bool, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "CHUNK", 3)
    torch.manual_seed(0)
    rows = torch.randn(10, 6, requires_grad=True)
    weight = torch.randn(20, 6, requires_grad=True)
    bias = torch.randn(20, requires_grad=True) if with_bias else None
    targets = torch.randint(0, 20, (10,))
    wanted = [tensor for tensor in (rows, weight, bias) if tensor is not None]
    factors = torch.ones(10) if even else torch.rand(10)
    ours = (head_losses(rows, weight, bias, targets, 0.25, even=even) * factors).sum()
    logits = torch.nn.functional.linear(rows, weight, bias)
    theirs = torch.nn.functional.cross_entropy(logits, targets, reduction="none") * 0.25
    found = torch.autograd.grad(ours, wanted)
    exact = torch.autograd.grad((theirs * factors).sum(), wanted)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other)


def test_a_head_alone_can_be_trained() -> None:
    rows, targets = torch.randn(4, 6), torch.randint(0, 20, (4,))
    weight = torch.randn(20, 6, requires_grad=True)
    (found,) = torch.autograd.grad(head_losses(rows, weight, None, targets).sum(), [weight])
    exact = torch.autograd.grad(
        torch.nn.functional.cross_entropy(rows @ weight.T, targets, reduction="sum"), [weight]
    )
    torch.testing.assert_close(found, exact[0])
