from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from slipway.training import attention
from slipway.training.attention import layout, packed_attention, plan_buckets


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
    groups = plan_buckets(lengths)
    assert sorted(i for group in groups for i in group) == list(range(7))
    assert [sorted(lengths[i] for i in group) for group in groups] == [
        [10, 26],
        [98, 100],
        [400],
        [2000],
        [2100],
    ]
