"""Attention over packed documents on CUDA: one kernel for all of them, without a mask.

torch brings FlashAttention's variable-length kernels (Dao 2023, arXiv 2307.08691) since 2.10 as
`torch.nn.attention.varlen`. They want half precision and heads of at most 256 numbers. Where torch
has none, the package `flash-attn` is used if it is installed; else the plain path remains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

_WIDEST = 256
_LEAST_CAPABILITY = (8, 0)  # Ampere


@cache
def kernel() -> Callable[..., Any] | None:
    """The kernel of this installation as f(q, k, v, edges, longest, scale); None without one."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < _LEAST_CAPABILITY:
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return _package()

    def own(q: Tensor, k: Tensor, v: Tensor, edges: Tensor, longest: int, scale: float) -> Any:
        shared = q.shape[1] != k.shape[1]
        options = {"scale": scale, "window_size": (-1, 0), "enable_gqa": shared}
        return varlen_attn(q, k, v, edges, edges, longest, longest, **options)

    return own


def _package() -> Callable[..., Any] | None:
    try:
        from flash_attn import flash_attn_varlen_func as attend
    except ImportError:
        return None

    def package(q: Tensor, k: Tensor, v: Tensor, edges: Tensor, longest: int, scale: float) -> Any:
        where = (edges, edges, longest, longest)
        return attend(q, k, v, *where, softmax_scale=scale, causal=True)

    return package


def fits_kernel(q: Tensor) -> bool:
    """Whether the kernel can take q [tokens, heads, width]."""
    half = q.dtype in (torch.float16, torch.bfloat16)
    return q.is_cuda and half and q.shape[-1] <= _WIDEST and kernel() is not None


def varlen_attention(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], scale: float
) -> Tensor:
    """See `attention.packed_attention`; `lengths` are the documents', one after another."""
    attend = kernel()
    assert attend is not None
    edges = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=q.device)
    out: Tensor = attend(q.contiguous(), k.contiguous(), v.contiguous(), edges, max(lengths), scale)
    return out
