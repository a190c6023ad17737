"""Attention over packed documents: each token sees only its own document, and no pad is computed.

torch's CPU flash attention is slow for short documents, above all backward, and a dense mask costs
(sum of lengths)^2. Here the documents of a batch are sorted into buckets of like length; within a
bucket attention is three plain batched matrix products and a softmax, forward and backward. A
shorter document in a bucket is filled up on the right, and a beginning that documents share is
computed once (`layout`). Backward keeps q, k and v only and computes the probabilities once more,
which is little beside the layer's other products.

Documents longer than `DENSE_LIMIT` tokens go to torch's own attention one by one, because the
probabilities grow with the square of the length.

On CUDA one kernel takes all documents at once: see `attention_cuda`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.training.attention_cuda import fits_kernel, varlen_attention
from slipway.training.layout import Bucket, Family, Layout, lay_out

NAME = "slipway_packed"
DENSE_LIMIT = 768


def layout(lengths: Sequence[int], device: torch.device | str = "cpu") -> Layout:
    """The layout of documents that lie one after another in a pack and share nothing."""
    return lay_out([Family(0, lengths)], device, DENSE_LIMIT)


def _grid(rows: Tensor, places: Tensor, documents: int, groups: int) -> Tensor:
    """[tokens, heads, width] -> [documents * key heads, groups * places of each, width]."""
    heads, width = rows.shape[1:]
    each = len(places) // documents
    grid = rows.index_select(0, places)
    grid = grid.view(documents, each, heads, width).transpose(1, 2)
    return grid.reshape(documents * heads // groups, groups * each, width)


def _ungrid(grid: Tensor, bucket: Bucket, heads: int, out: Tensor) -> None:
    """Write the real cells of a grid of queries to their rows of `out` [tokens, heads, width]."""
    width = grid.shape[-1]
    rows = grid.view(bucket.documents, heads, bucket.longest, width).transpose(1, 2)
    rows = rows.reshape(-1, heads, width)
    if len(bucket.cells) != len(rows):
        rows = rows.index_select(0, bucket.cells)
    out.index_copy_(0, bucket.sources, rows)


def _ungrid_keys(grid: Tensor, bucket: Bucket, heads: int, out: Tensor) -> None:
    """As `_ungrid` for a grid of keys; what documents share is summed and added."""
    if bucket.shared:
        keys = bucket.shared + bucket.longest
        grid = grid.view(bucket.documents, heads, keys, grid.shape[-1])
        head = grid[:, :, : bucket.shared].sum(0).transpose(0, 1)
        out[bucket.shared_at : bucket.shared_at + bucket.shared] += head
        grid = grid[:, :, bucket.shared :]
        grid = grid.reshape(-1, bucket.longest, grid.shape[-1])
    _ungrid(grid, bucket, heads, out)


def _chances(qg: Tensor, kg: Tensor, bucket: Bucket, scale: float) -> Tensor:
    """Attention probabilities: [documents * key heads, groups * longest, keys]."""
    scores = torch.bmm(qg, kg.transpose(1, 2)).mul_(scale)
    square = scores.view(len(scores), -1, *bucket.causal.shape)
    square.masked_fill_(bucket.causal, float("-inf"))
    return torch.softmax(scores, -1)


class _DenseBuckets(torch.autograd.Function):  # type: ignore[misc]
    """Grouped-query causal attention of every dense bucket; q, k, v are [tokens, heads, width]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, where: Layout, scale: float) -> Tensor:
        heads, key_heads = q.shape[1], k.shape[1]
        groups = heads // key_heads
        out = torch.zeros_like(q, memory_format=torch.contiguous_format)
        for bucket in where.buckets:
            if not bucket.dense:
                continue
            count = bucket.documents
            qg, kg = _grid(q, bucket.tokens, count, groups), _grid(k, bucket.keys, count, 1)
            vg = _grid(v, bucket.keys, count, 1)
            chances = _chances(qg, kg, bucket, scale)
            _ungrid(torch.bmm(chances, vg), bucket, heads, out)
        ctx.save_for_backward(q, k, v)
        ctx.where, ctx.scale = where, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        grad = grads[0].contiguous()
        heads, key_heads, width = q.shape[1], k.shape[1], q.shape[2]
        groups = heads // key_heads
        dq, dk, dv = (torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
        for bucket in ctx.where.buckets:
            if not bucket.dense:
                continue
            count = bucket.documents
            qg, kg = _grid(q, bucket.tokens, count, groups), _grid(k, bucket.keys, count, 1)
            vg = _grid(v, bucket.keys, count, 1)
            chances = _chances(qg, kg, bucket, ctx.scale)
            rows = grad.new_zeros(count * bucket.longest, heads, width)
            rows.index_copy_(0, bucket.cells, grad.index_select(0, bucket.sources))
            rows = rows.view(count, bucket.longest, heads, width).transpose(1, 2)
            og = rows.reshape(-1, groups * bucket.longest, width)
            _ungrid_keys(torch.bmm(chances.transpose(1, 2), og), bucket, key_heads, dv)
            slope = torch._softmax_backward_data(
                torch.bmm(og, vg.transpose(1, 2)), chances, -1, chances.dtype
            ).mul_(ctx.scale)
            _ungrid(torch.bmm(slope, kg), bucket, heads, dq)
            _ungrid_keys(torch.bmm(slope.transpose(1, 2), qg), bucket, key_heads, dk)
        return dq, dk, dv, None, None


def packed_attention(q: Tensor, k: Tensor, v: Tensor, where: Layout, scale: float) -> Tensor:
    """Causal attention inside each document.

    Args:
        q: [tokens, heads, width]; k and v: [tokens, key heads, width]; documents lie one after
            another as `where` says.
        scale: factor on the scores.

    Returns:
        [tokens, heads, width].
    """
    if fits_kernel(q) and where.lengths:
        return varlen_attention(q, k, v, where.lengths, scale)
    out = _DenseBuckets.apply(q, k, v, where, scale)
    assert isinstance(out, Tensor)
    for bucket in where.buckets:
        if bucket.dense:
            continue
        start = int(bucket.tokens[0])
        part = slice(start, start + bucket.longest)
        long = scaled_dot_product_attention(
            q[part].transpose(0, 1)[None],
            k[part].transpose(0, 1)[None],
            v[part].transpose(0, 1)[None],
            is_causal=True,
            scale=scale,
            enable_gqa=True,
        )
        out = out.index_copy(0, bucket.sources, long[0].transpose(0, 1))
    return out


def _interface(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers' models call: q, k, v are [1, heads, tokens, width]."""
    where: Layout = options["slipway_layout"]
    window = options.get("sliding_window")
    bends = [name for name in ("softcap", "s_aux") if options.get(name) is not None]
    if window is not None and where.longest > window:
        bends.append("sliding_window")
    if bends:
        raise UsageError(
            "train.attention_unsupported",
            tr("this model's attention uses {names}, which training lacks", names=", ".join(bends)),
            tr("use another base, or `cutoff_len` within the model's window"),
        )
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    kind = query.device.type
    if torch.is_autocast_enabled(kind):  # rotary embeddings give fp32, the values are lower
        lower = torch.get_autocast_dtype(kind)
        query, key, value = query.to(lower), key.to(lower), value.to(lower)
    with torch.autocast(kind, enabled=False):
        out = packed_attention(
            query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1), where, scale
        )
    return out[None], None


def register() -> None:
    """Make this attention known to transformers under `NAME`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _interface)
