from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from slipway.training import attention, attention_cuda
from slipway.training.attention import layout, packed_attention
from slipway.training.layout import plan_buckets


def slow_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int], scale: float
) -> torch.Tensor:
    parts, start = [], 0
    for length in lengths:
        part = slice(start, start + length)
        out = scaled_dot_product_attention(
            *(x[part].transpose(0, 1)[None] for x in (q, k, v)),
            is_causal=True,
            scale=scale,
            enable_gqa=True,
        )
        parts.append(out[0].transpose(0, 1))
        start += length
    return torch.cat(parts)


@pytest.mark.parametrize("lengths", [[7], [5, 5, 5], [3, 40, 1, 17, 18, 20, 41, 4], [1]])
@pytest.mark.parametrize("dense_limit", [768, 16])
def test_packed_equals_each_document_alone_forward_and_backward(
    lengths: list[int], dense_limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "DENSE_LIMIT", dense_limit)
    torch.manual_seed(0)
    total = sum(lengths)
    shapes = [(total, 6, 8), (total, 2, 8), (total, 2, 8)]
    fast = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    slow = [x.detach().clone().requires_grad_() for x in fast]
    grad = torch.randn(shapes[0], dtype=torch.float64)
    ours = packed_attention(*fast, layout(lengths), 0.3)
    theirs = slow_attention(*slow, lengths, 0.3)
    torch.testing.assert_close(ours, theirs)
    ours.backward(grad)
    theirs.backward(grad)
    for x, y in zip(fast, slow, strict=True):
        torch.testing.assert_close(x.grad, y.grad)


def test_a_document_does_not_see_its_neighbour() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(12, 2, 4) for _ in range(3))
    before = packed_attention(q, k, v, layout([5, 7]), 0.5)
    k[:5] += 10
    v[:5] -= 3
    after = packed_attention(q, k, v, layout([5, 7]), 0.5)
    assert torch.equal(before[5:], after[5:])
    assert not torch.equal(before[:5], after[:5])


def test_buckets_hold_documents_of_like_length() -> None:
    lengths = [100, 10, 98, 400, 26, 2000, 2100]
    groups = plan_buckets(lengths, 768)
    assert sorted(i for group in groups for i in group) == list(range(7))
    assert [sorted(lengths[i] for i in group) for group in groups] == [
        [10, 26],
        [98, 100],
        [400],
        [2000],
        [2100],
    ]


def test_a_kernel_for_documents_of_any_length_gets_their_edges(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stands in for the CUDA kernel, which no test machine has."""
    seen: list[list[int]] = []

    def stand_in(q: Tensor, k: Tensor, v: Tensor, edges: Tensor, longest: int, scale: float) -> Any:
        seen.append([*edges.tolist(), longest])
        lengths = (edges[1:] - edges[:-1]).tolist()
        return slow_attention(q, k, v, lengths, scale)

    monkeypatch.setattr(attention_cuda, "kernel", lambda: stand_in)
    monkeypatch.setattr(attention, "fits_kernel", lambda q: True)
    q, k, v = torch.randn(12, 6, 8), torch.randn(12, 2, 8), torch.randn(12, 2, 8)
    found = packed_attention(q, k, v, layout([3, 8, 1]), 0.3)
    assert seen == [[0, 3, 11, 12, 8]]
    torch.testing.assert_close(found, slow_attention(q, k, v, [3, 8, 1], 0.3))


@pytest.mark.skipif(attention_cuda.kernel() is None, reason="needs a CUDA GPU (Ampere or newer)")
def test_the_cuda_kernel_equals_each_document_alone_forward_and_backward() -> None:
    lengths = [3, 40, 1, 300]
    shapes = [(sum(lengths), 6, 64), (sum(lengths), 2, 64), (sum(lengths), 2, 64)]
    fast = [torch.randn(s, dtype=torch.bfloat16, device="cuda", requires_grad=True) for s in shapes]
    slow = [x.detach().float().requires_grad_() for x in fast]
    ours = packed_attention(*fast, layout(lengths, "cuda"), 0.125)
    theirs = slow_attention(*slow, lengths, 0.125)
    torch.testing.assert_close(ours.float(), theirs, atol=2e-2, rtol=2e-2)
    ours.float().sum().backward()
    theirs.sum().backward()
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one.grad.float(), other.grad, atol=4e-2, rtol=4e-2)
