from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.core.errors import UsageError
from slipway.datasets import Encoded, pack
from slipway.datasets.encode import IGNORE

CAPACITY = 32


def doc(number: int, length: int) -> Encoded:
    ids = [number * 100 + i for i in range(length)]
    return Encoded(f"d{number}", ids, list(ids))


docs = st.lists(st.integers(1, CAPACITY), max_size=60).map(
    lambda lengths: [doc(number, length) for number, length in enumerate(lengths)]
)


@given(rows=docs, seed=st.integers(0, 5))
def test_every_document_is_in_one_pack_whole_and_packs_hold_their_capacity(
    rows: list[Encoded], seed: int
) -> None:
    packs = pack(rows, CAPACITY, seed=seed)
    seen: Counter[str] = Counter()
    by_id = {row.id: row for row in rows}
    for one in packs:
        assert 0 < len(one.input_ids) <= CAPACITY
        assert len(one.labels) == len(one.position_ids) == len(one.input_ids)
        assert sum(one.doc_lengths) == len(one.input_ids)
        start = 0
        for name, length in zip(one.doc_ids, one.doc_lengths, strict=True):
            seen[name] += 1
            part = slice(start, start + length)
            assert one.input_ids[part] == by_id[name].input_ids
            assert one.position_ids[part] == list(range(length))
            assert one.labels[start] == IGNORE
            assert one.labels[part][1:] == by_id[name].labels[1:]
            start += length
    assert seen == Counter(list(by_id))


@given(rows=docs)
def test_no_two_packs_could_have_been_one(rows: list[Encoded]) -> None:
    packs = pack(rows, CAPACITY, seed=0)
    for one, other in combinations(packs, 2):
        assert len(one.input_ids) + len(other.input_ids) > CAPACITY


@given(rows=docs, seed=st.integers(0, 5))
def test_packing_is_deterministic_and_the_seed_changes_the_order_only(
    rows: list[Encoded], seed: int
) -> None:
    assert pack(rows, CAPACITY, seed=seed) == pack(rows, CAPACITY, seed=seed)
    groups = [sorted(one.doc_ids) for one in pack(rows, CAPACITY, seed=seed)]
    others = [sorted(one.doc_ids) for one in pack(rows, CAPACITY, seed=seed + 1)]
    assert sorted(groups) == sorted(others)


def test_the_seed_shuffles_the_packs() -> None:
    rows = [doc(number, CAPACITY) for number in range(20)]
    orders = {tuple(one.doc_ids[0] for one in pack(rows, CAPACITY, seed=s)) for s in range(4)}
    assert len(orders) == 4


def test_small_documents_fill_the_room_that_large_ones_leave() -> None:
    rows = [doc(n, length) for n, length in enumerate([20, 12, 17, 15, 31, 1])]
    assert [sum(one.doc_lengths) for one in pack(rows, CAPACITY, seed=0)] == [CAPACITY] * 3


def test_masked_labels_stay_masked_and_learned_are_counted() -> None:
    rows = [Encoded("a", [1, 2, 3], [IGNORE, IGNORE, 3]), Encoded("b", [4, 5], [4, 5])]
    (one,) = pack(rows, 8, seed=0)
    assert one.labels == [IGNORE, IGNORE, 3, IGNORE, 5]
    assert one.learned == 2


@pytest.mark.parametrize("length", [CAPACITY + 1, 0])
def test_a_document_that_cannot_fit_is_named(length: int) -> None:
    with pytest.raises(UsageError, match="d7"):
        pack([doc(7, length)], CAPACITY, seed=0)
