"""Documents that begin alike: which ones compute their common beginning once; pure.

Under causal attention a token's hidden state depends on the tokens up to it and on nothing else.
So the documents of a pack that begin with the same tokens (one system prompt, the prompt of a
preference pair) have the same states there, and need them once. The gradients of all of them
meet in the shared rows, and nothing but rounding changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slipway.training.spec import TrainSpec

LEAST = 8  # tokens; a shorter beginning is not worth a bucket of its own


@dataclass(frozen=True, slots=True)
class Group:
    """Documents with a common beginning.

    Attributes:
        shared: tokens of it; every member has at least one more.
        members: their numbers.
    """

    shared: int
    members: tuple[int, ...]


def alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two documents have in common from their first on."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def plan_groups(documents: Sequence[Sequence[int]], longest: int) -> list[Group]:
    """The grouping that leaves the fewest tokens to compute; every document is in one group.

    In alphabetical order the documents that begin alike are neighbours, so the best grouping cuts
    that order into runs: found by dynamic programming over where the last run begins.

    Args:
        longest: documents with more tokens share nothing.

    Example: with `LEAST` at 2, `[[1, 2, 3], [4], [1, 2, 5]]` gives `(2, (0, 2))` and `(0, (1,))`.
    """
    order = sorted(range(len(documents)), key=lambda i: list(documents[i]))
    common = [0] * len(order)  # with the one before
    for at in range(1, len(order)):
        one, other = documents[order[at - 1]], documents[order[at]]
        if max(len(one), len(other)) <= longest:
            common[at] = alike(one, other)
    saved = [0]  # by the best cut of the first so many
    begins = [0]
    for end in range(1, len(order) + 1):
        best, begin = saved[end - 1], end - 1
        shared = len(documents[order[end - 1]]) - 1
        for start in range(end - 2, -1, -1):
            shared = min(shared, common[start + 1], len(documents[order[start]]) - 1)
            if shared < LEAST:
                break
            total = saved[start] + shared * (end - start - 1)
            if total > best:
                best, begin = total, start
        saved.append(best)
        begins.append(begin)
    groups, end = [], len(order)
    while end:
        members = [order[at] for at in range(begins[end], end)]
        shared = 0
        if len(members) > 1:
            shared = min(common[begins[end] + 1 : end])
            shared = min(shared, *(len(documents[number]) - 1 for number in members))
        groups.append(Group(shared, tuple(sorted(members))))
        end = begins[end]
    return sorted(groups, key=lambda group: group.members)


@dataclass(frozen=True, slots=True)
class Arranged:
    """A pack without what need not be computed.

    Attributes:
        input_ids, positions: of each token that is computed.
        families: (shared tokens, own tokens of each member), in the order of `input_ids`.
        rows: for each label the place in `input_ids` whose state predicts it.
        targets: the labels.
        documents: for each label the document that it belongs to.
        ends: of each document the place of its last token here.
    """

    input_ids: list[int]
    positions: list[int]
    families: list[tuple[int, list[int]]]
    rows: list[int]
    targets: list[int]
    documents: list[int]
    ends: list[int]


def arrange(
    documents: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], longest: int, ignore: int
) -> Arranged:
    """Lay documents out so that a common beginning stands once, and nothing after the last label.

    A label is predicted by the token before it, so its own token, and all after the last one, are
    read by nobody. A document without a label keeps its first token.

    Args:
        documents, labels: token ids and labels of each, equally long; the first is no label.
        longest: documents with more tokens share nothing.
        ignore: the mark of tokens that are no label.
    """
    learned = [[at for at, label in enumerate(row) if label != ignore] for row in labels]
    needed = [
        list(ids[: max(1, at[-1] if at else 0)]) for ids, at in zip(documents, learned, strict=True)
    ]
    made = Arranged([], [], [], [], [], [], [0] * len(needed))
    places = [(0, 0)] * len(needed)  # of each document: where it begins, shared and own
    for group in plan_groups(needed, longest):
        start, shared = len(made.input_ids), group.shared
        made.input_ids.extend(needed[group.members[0]][:shared])
        made.positions.extend(range(shared))
        for number in group.members:
            places[number] = (start, len(made.input_ids) - shared)
            made.input_ids.extend(needed[number][shared:])
            made.positions.extend(range(shared, len(needed[number])))
            made.ends[number] = len(made.input_ids) - 1
        own = [len(needed[number]) - shared for number in group.members]
        made.families.append((shared, own))
        for number in group.members:
            for at in learned[number]:
                made.rows.append(places[number][at - 1 >= shared] + at - 1)
                made.targets.append(labels[number][at])
                made.documents.append(number)
    return made


def shares(spec: TrainSpec) -> bool:
    """Whether documents may share states: not under noise that each shall have of its own."""
    return not spec.lora.dropout and spec.neftune_alpha is None
