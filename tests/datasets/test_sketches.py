from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.datasets import sketches
from slipway.datasets.minhash import BANDS, HASHES, ROWS, MinHasher, found_share
from slipway.datasets.shingles import SKETCH, Shingler, jaccard, shingles, units_of
from slipway.datasets.sketches import Sketcher, Sketches

WORDS = [f"w{n}" for n in range(400)]


def index_of(texts: list[list[str]]) -> Sketches:
    index = Sketches(np)
    sketch = Sketcher()
    for start in range(0, len(texts), 100):
        index.add(sketch(texts[start : start + 100]))
    return index


def everything(count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(count)


def test_shingles_are_pairs_of_words_or_of_chinese_characters() -> None:
    assert shingles("The lamp, the LAMP!") == {"the lamp", "lamp the"}
    assert shingles("开发票") == {"开 发", "发 票"}
    assert shingles("开 invoice") == {"开 invoice"}
    assert shingles("ＡＢＣ") == shingles("abc") == {"abc"}
    assert jaccard(shingles("?!"), shingles("")) == 0.0


@given(st.text(max_size=80))
def test_ascii_and_other_texts_are_cut_by_the_same_rule(text: str) -> None:
    ascii_only = text.encode("ascii", "replace").decode()
    assert units_of(ascii_only) == units_of(ascii_only + " é")[:-1]


@given(st.lists(st.lists(st.sampled_from(WORDS[:9]), max_size=12), min_size=1, max_size=6))
def test_sets_of_a_batch_are_the_shingles_of_each_text(texts: list[list[str]]) -> None:
    found, edges = Shingler().sets(texts)
    for number, units in enumerate(texts):
        mine = found[edges[number] : edges[number + 1]]
        assert len(mine) == len(shingles(" ".join(units)))
        assert (np.diff(mine.astype(np.int64)) > 0).all()


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 40))
def test_two_texts_compare_as_their_sets_of_shingles_do(seed: int, changed: int) -> None:
    rng = random.Random(seed)
    left = rng.choices(WORDS, k=60)
    right = [rng.choice(WORDS) if n < changed else word for n, word in enumerate(left)]
    exact = jaccard(shingles(" ".join(left)), shingles(" ".join(right)))
    with index_of([left, right]) as index:
        found = index.within(everything(2), 2.0)
        assert index.jaccard(0, 1) == pytest.approx(exact)
    assert found.method == "exact"
    assert (found.best.similarity if found.best else 0.0) == pytest.approx(exact)


def test_minhash_agrees_as_often_as_texts_are_alike() -> None:
    rng = random.Random(3)
    pairs = []
    for changed in (2, 6, 12, 30):
        for _ in range(40):
            left = rng.choices(WORDS, k=80)
            pairs += [left, [rng.choice(WORDS) if n < changed else w for n, w in enumerate(left)]]
    found, edges = Shingler().sets(pairs)
    bands = MinHasher().bands(found, edges)
    for group in range(4):
        rows = range(group * 80, group * 80 + 80, 2)
        wanted = [
            jaccard(shingles(" ".join(pairs[n])), shingles(" ".join(pairs[n + 1]))) for n in rows
        ]
        agree = np.mean([(bands[n] == bands[n + 1]).mean() for n in rows])
        # a band agrees with probability J^ROWS; 40 pairs of 20 bands: standard error below 0.018
        assert agree == pytest.approx(np.mean(np.array(wanted) ** ROWS), abs=0.06)
    assert BANDS * ROWS == HASHES


def test_many_texts_go_through_minhash_and_find_what_comparing_all_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = random.Random(5)
    texts = [rng.choices(WORDS, k=30) for _ in range(300)]
    texts += [[*text[:29], "new"] for text in texts[:60]]
    all_of_them = everything(360)
    with index_of(texts) as index:
        exact = index.within(all_of_them, 0.8)
        across = index.between(all_of_them[300:], all_of_them[:300], 0.8)
        monkeypatch.setattr(sketches, "EXACT_LIMIT", 10)
        hashed = index.within(all_of_them, 0.8)
        hashed_across = index.between(all_of_them[300:], all_of_them[:300], 0.8)
    assert (exact.method, hashed.method) == ("exact", "minhash")
    assert len(exact) == 60
    assert hashed.pairs() == exact.pairs()
    assert hashed_across.pairs() == across.pairs()
    assert found_share(0.9) > 0.9999


def test_a_thousand_copies_give_a_few_pairs_for_each_not_half_a_million(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sketches, "EXACT_LIMIT", 10)
    rng = random.Random(6)
    text = rng.choices(WORDS, k=40)
    with index_of([[*text, f"n{n}"] for n in range(1000)]) as index:
        found = index.within(everything(1000), 0.8)
    assert set(found.left) | set(found.right) == set(range(1000))
    assert len(found) < 20_000


def test_very_long_texts_are_compared_by_parts_of_their_shingles() -> None:
    rng = random.Random(7)
    left = [f"u{rng.randrange(10**6)}" for _ in range(6 * SKETCH)]
    right = [f"v{n}" if n % 5 == 0 else word for n, word in enumerate(left)]
    exact = jaccard(shingles(" ".join(left)), shingles(" ".join(right)))
    with index_of([left, right]) as index:
        found = index.within(everything(2), 0.0).best
    assert found is not None
    assert found.similarity == pytest.approx(exact, abs=4 * (exact * (1 - exact) / SKETCH) ** 0.5)


def test_texts_without_words_are_like_nothing() -> None:
    with index_of([[], [], ["a"], ["a"]]) as index:
        pairs = index.within(everything(4), 0.8).pairs()
    assert [(pair.left, pair.right) for pair in pairs] == [(2, 3)]
