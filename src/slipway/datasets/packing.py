"""Short documents packed into few rows, so that no time goes into padding.

Best fit, longest first: at most 11/9 of the fewest possible packs (Johnson 1974). Documents of a
pack stay apart by `doc_lengths` and by positions that begin again with each.
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.datasets.encoded import IGNORE, Encoded


@dataclass(frozen=True, slots=True)
class Pack:
    """Several documents in one row of tokens.

    Attributes:
        input_ids: the documents one after the other.
        labels: as long; -100 where not learned, and at the first token of every document, so that
            no document's end predicts the beginning of the next.
        position_ids: as long; 0, 1, 2, ... within each document.
        doc_lengths: tokens of each document, in order; sums to the row's length.
        doc_ids: the documents' ids, in order.
    """

    input_ids: list[int]
    labels: list[int]
    position_ids: list[int]
    doc_lengths: list[int]
    doc_ids: list[str]

    @property
    def learned(self) -> int:
        """How many tokens are learned."""
        return sum(label != IGNORE for label in self.labels)


def pack(rows: Sequence[Encoded], capacity_tokens: int, *, seed: int) -> list[Pack]:
    """Pack documents into rows of at most `capacity_tokens` tokens; none is split or left out.

    The same input and seed give the same packs in the same order; the seed decides the order of
    the packs only, not what is packed together.

    Raises:
        UsageError: a document is longer than the capacity, or empty.
    """
    for row in rows:
        if not 0 < len(row.input_ids) <= capacity_tokens:
            raise UsageError(
                "data.pack",
                tr(
                    "row {id} has {tokens} tokens and does not fit into packs of {capacity}",
                    id=row.id,
                    tokens=len(row.input_ids),
                    capacity=capacity_tokens,
                ),
                tr("make the pack at least as long as cutoff_len"),
            )
    return [made for _, made in pack_groups([(row,) for row in rows], capacity_tokens, seed=seed)]


def pack_groups(
    groups: Sequence[Sequence[Encoded]], capacity_tokens: int, *, seed: int
) -> list[tuple[list[int], Pack]]:
    """`pack` for documents that belong together, such as the two answers of a pair.

    Returns:
        (numbers of the groups, their documents in that order) of each pack. A group that is longer
        than the capacity has a pack to itself.
    """
    lengths = [sum(len(row.input_ids) for row in group) for group in groups]
    by_length = sorted(range(len(groups)), key=lambda i: (-lengths[i], i))
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, bin), sorted
    for index in by_length:
        length = lengths[index]
        at = bisect_left(room, (length, -1))
        if at == len(room):
            bins.append([index])
            left, number = capacity_tokens - length, len(bins) - 1
        else:
            free, number = room.pop(at)
            bins[number].append(index)
            left = free - length
        insort(room, (left, number))
    random.Random(seed).shuffle(bins)
    return [(members, _join([row for i in members for row in groups[i]])) for members in bins]


def _join(rows: list[Encoded]) -> Pack:
    joined = Pack([], [], [], [], [])
    for row in rows:
        joined.input_ids.extend(row.input_ids)
        joined.labels.extend([IGNORE, *row.labels[1:]])
        joined.position_ids.extend(range(len(row.input_ids)))
        joined.doc_lengths.append(len(row.input_ids))
        joined.doc_ids.append(row.id)
    return joined
