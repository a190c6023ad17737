"""Where the documents of a pack lie, as attention and the loss need it.

The documents are sorted into buckets of like length, each a grid of queries against keys. A
shorter document of a bucket is filled up on the right: the causal mask alone keeps real queries
from the filler, and the filler's outputs are dropped, so its gradients are zero. Documents that
share a beginning (`sharing`) have only their own part as queries, and the shared rows before it as
keys; the beginning itself is a document like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_FILL = 1.25  # a bucket's longest document may be this many times its shortest
_FILL_FREE = 16  # and so many tokens more always


@dataclass(frozen=True, slots=True)
class Bucket:
    """Documents of like length, as rows of a [documents, longest] grid.

    Attributes:
        longest: most queries of a document.
        tokens: [documents * longest], the pack position of each query (fillers point at the last
            real token of their document).
        keys: [documents * (shared + longest)], the pack position of each key; `tokens` itself when
            nothing is shared.
        cells: [real tokens], the cells of `tokens` that hold real ones, in grid order.
        sources: [real tokens], their pack positions, in the same order.
        causal: [longest, shared + longest], true where a query must not see a key.
        shared: keys at the beginning of each document that all of them share.
        shared_at: the pack position of the first of these.
    """

    documents: int
    longest: int
    tokens: Tensor
    keys: Tensor
    cells: Tensor
    sources: Tensor
    causal: Tensor
    dense: bool
    shared: int = 0
    shared_at: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the documents of a pack lie, ready for every layer's attention.

    Attributes:
        buckets: those that share nothing first.
        total: tokens computed.
        longest: tokens of the longest document, with what it shares.
        lengths: tokens of each document, one after another; empty where something is shared.
    """

    buckets: tuple[Bucket, ...]
    total: int
    longest: int
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """Documents that lie one after another, after the beginning that they share.

    Attributes:
        shared: tokens of the beginning; 0 for none.
        own: tokens of each document after it.
    """

    shared: int
    own: Sequence[int]


def plan_buckets(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Group document numbers so that filling up each group wastes little; pure.

    Args:
        most: a longer document stands alone.

    Example: `plan_buckets([100, 10, 98], 768)` is `[[1], [2, 0]]`.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    groups: list[list[int]] = []
    for number in order:
        length = lengths[number]
        shortest = lengths[groups[-1][0]] if groups else 0
        fits = length <= max(shortest * _FILL, shortest + _FILL_FREE)
        if groups and fits and length <= most:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def lay_out(families: Sequence[Family], device: torch.device | str, dense: int) -> Layout:
    """The layout of families of documents that lie one after another in a pack.

    Args:
        dense: a document with more tokens is no grid.
    """
    alone: list[tuple[int, int]] = []  # (start, tokens)
    later: list[tuple[int, int, list[tuple[int, int]]]] = []  # (start, shared, documents)
    at = longest = 0
    for family in families:
        start = at
        if family.shared:
            alone.append((at, family.shared))
            at += family.shared
        own = []
        for length in family.own:
            own.append((at, length))
            at += length
            longest = max(longest, family.shared + length)
        if family.shared:
            later.append((start, family.shared, own))
        else:
            alone += own
    buckets = _buckets(alone, 0, 0, device, dense)
    for start, shared, own in later:
        buckets += _buckets(own, start, shared, device, dense)
    lengths = () if later else tuple(length for _, length in alone)
    return Layout(tuple(buckets), at, longest, lengths)


def _buckets(
    places: Sequence[tuple[int, int]],
    shared_at: int,
    shared: int,
    device: torch.device | str,
    dense: int,
) -> list[Bucket]:
    lengths = [length for _, length in places]
    head = torch.arange(shared_at, shared_at + shared)
    made = []
    for group in plan_buckets(lengths, dense):
        longest = max(lengths[i] for i in group)
        grid = torch.stack(
            [places[i][0] + torch.arange(longest).clamp(max=lengths[i] - 1) for i in group]
        )
        tokens = grid.reshape(-1)
        keys = tokens
        if shared:
            keys = torch.cat([head.expand(len(group), shared), grid], 1).reshape(-1)
        cells = torch.cat([row * longest + torch.arange(lengths[i]) for row, i in enumerate(group)])
        causal = torch.ones(longest, shared + longest, dtype=torch.bool).triu(1 + shared)
        tokens = tokens.to(device)
        made.append(
            Bucket(
                documents=len(group),
                longest=longest,
                tokens=tokens,
                keys=keys.to(device) if shared else tokens,
                cells=cells.to(device),
                sources=tokens[cells.to(device)],
                causal=causal.to(device),
                dense=shared + longest <= dense,
                shared=shared,
                shared_at=shared_at,
            )
        )
    return made
