"""Attention over packed documents: each token sees only its own document, and no pad is computed.

torch's CPU flash attention is slow for short documents, above all backward, and a dense mask costs
(sum of lengths)^2. Here the documents of a batch are sorted into buckets of like length; within a
bucket attention is three plain batched matrix products and a softmax, forward and backward. A
shorter document in a bucket is filled up on the right: the causal mask alone keeps real queries
from the filler, and the filler's outputs are dropped, so its gradients are zero.

Documents longer than `DENSE_LIMIT` tokens go to torch's own attention one by one, because the
stored probabilities grow with the square of the length.

On CUDA one kernel takes all documents at once: see `attention_cuda`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.training.attention_cuda import fits_kernel, varlen_attention

NAME = "slipway_packed"
DENSE_LIMIT = 768
_FILL = 1.25  # a bucket's longest document may be this many times its shortest
_FILL_FREE = 16  # and so many tokens more always


@dataclass(frozen=True, slots=True)
class Bucket:
    """Documents of like length, as rows of a [documents, longest] grid.

    Attributes:
        tokens: [documents * longest], the pack position of each cell (fillers point at the last
            real token of their document).
        cells: [real tokens], the cells that hold real tokens, in grid order.
        sources: [real tokens], their pack positions, in the same order.
    """

    documents: int
    longest: int
    tokens: Tensor
    cells: Tensor
    sources: Tensor
    causal: Tensor
    dense: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the documents of a pack lie, ready for every layer's attention."""

    buckets: tuple[Bucket, ...]
    total: int
    longest: int
    lengths: tuple[int, ...]


def plan_buckets(lengths: Sequence[int]) -> list[list[int]]:
    """Group document numbers so that filling up each group wastes little; pure.

    Example: `plan_buckets([100, 10, 98])` is `[[1], [2, 0]]`.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    groups: list[list[int]] = []
    for number in order:
        length = lengths[number]
        shortest = lengths[groups[-1][0]] if groups else 0
        fits = length <= max(shortest * _FILL, shortest + _FILL_FREE)
        if groups and fits and length <= DENSE_LIMIT:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def layout(lengths: Sequence[int], device: torch.device | str = "cpu") -> Layout:
    """The layout of documents that lie one after another in a pack."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    buckets = []
    for group in plan_buckets(lengths):
        longest = max(lengths[i] for i in group)
        tokens = torch.stack(
            [starts[i] + torch.arange(longest).clamp(max=lengths[i] - 1) for i in group]
        ).reshape(-1)
        cells = torch.cat([row * longest + torch.arange(lengths[i]) for row, i in enumerate(group)])
        causal = torch.ones(longest, longest, dtype=torch.bool).triu(1)
        buckets.append(
            Bucket(
                documents=len(group),
                longest=longest,
                tokens=tokens.to(device),
                cells=cells.to(device),
                sources=tokens[cells].to(device),
                causal=causal.to(device),
                dense=longest <= DENSE_LIMIT,
            )
        )
    return Layout(tuple(buckets), starts[-1], max(lengths), tuple(lengths))


def _grid(rows: Tensor, bucket: Bucket, groups: int) -> Tensor:
    """[tokens, heads, width] -> [documents * key heads, groups * longest, width]."""
    heads, width = rows.shape[1:]
    grid = rows.index_select(0, bucket.tokens)
    grid = grid.view(bucket.documents, bucket.longest, heads, width).transpose(1, 2)
    return grid.reshape(bucket.documents * heads // groups, groups * bucket.longest, width)


def _ungrid(grid: Tensor, bucket: Bucket, heads: int, out: Tensor) -> None:
    """Write the real cells of a grid to their rows of `out` [tokens, heads, width]."""
    width = grid.shape[-1]
    rows = grid.view(bucket.documents, heads, bucket.longest, width).transpose(1, 2)
    rows = rows.reshape(-1, heads, width)
    if len(bucket.cells) != len(rows):
        rows = rows.index_select(0, bucket.cells)
    out.index_copy_(0, bucket.sources, rows)


class _DenseBuckets(torch.autograd.Function):  # type: ignore[misc]
    """Grouped-query causal attention of every dense bucket; q, k, v are [tokens, heads, width]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, where: Layout, scale: float) -> Tensor:
        heads, key_heads = q.shape[1], k.shape[1]
        groups = heads // key_heads
        out = torch.zeros_like(q, memory_format=torch.contiguous_format)
        saved: list[Tensor] = []
        for bucket in where.buckets:
            if not bucket.dense:
                continue
            qg, kg, vg = _grid(q, bucket, groups), _grid(k, bucket, 1), _grid(v, bucket, 1)
            scores = torch.bmm(qg, kg.transpose(1, 2)).mul_(scale)
            square = scores.view(-1, groups, bucket.longest, bucket.longest)
            square.masked_fill_(bucket.causal, float("-inf"))
            chances = torch.softmax(scores, -1)
            _ungrid(torch.bmm(chances, vg), bucket, heads, out)
            saved += [qg, kg, vg, chances]
        ctx.save_for_backward(*saved)
        ctx.where, ctx.scale, ctx.heads, ctx.key_heads = where, scale, heads, key_heads
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0].contiguous()
        heads, key_heads = ctx.heads, ctx.key_heads
        groups = heads // key_heads
        total, _, width = grad.shape
        dq = grad.new_zeros(total, heads, width)
        dk, dv = grad.new_zeros(total, key_heads, width), grad.new_zeros(total, key_heads, width)
        saved = iter(ctx.saved_tensors)
        for bucket in ctx.where.buckets:
            if not bucket.dense:
                continue
            qg, kg, vg, chances = next(saved), next(saved), next(saved), next(saved)
            rows = grad.new_zeros(bucket.documents * bucket.longest, heads, width)
            rows.index_copy_(0, bucket.cells, grad.index_select(0, bucket.sources))
            rows = rows.view(bucket.documents, bucket.longest, heads, width).transpose(1, 2)
            og = rows.reshape(-1, groups * bucket.longest, width)
            _ungrid(torch.bmm(chances.transpose(1, 2), og), bucket, key_heads, dv)
            slope = torch._softmax_backward_data(
                torch.bmm(og, vg.transpose(1, 2)), chances, -1, chances.dtype
            ).mul_(ctx.scale)
            _ungrid(torch.bmm(slope, kg), bucket, heads, dq)
            _ungrid(torch.bmm(slope.transpose(1, 2), qg), bucket, key_heads, dk)
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
    if fits_kernel(q):
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
