"""Near-duplicates among many texts: time and recall, against datasketch and against comparing all.

Makes texts of words drawn as in natural language (few frequent, many rare), and for one in four a
copy with one word of each eighth changed, so that the likeness of the pairs is spread around the
threshold. Both sides get the same shingles (pairs of words) as sets of text and use 100 hash
functions in 20 bands of 5; datasketch's pairs are then compared exactly, as ours are. Recall is the
share of pairs at or above the threshold that is found.

    pip install datasketch        # the peer; without it only ours is measured
    python benchmarks/near_duplicates.py [--texts N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

THRESHOLD = 0.8
Pairs = set[tuple[int, int]]


def texts_of(count: int) -> tuple[list[list[str]], list[tuple[int, int]]]:
    """Texts as words, and which two are a text and its copy."""
    rng = random.Random(11)

    def words(k: int) -> list[str]:
        return [f"w{min(30_000, int(rng.paretovariate(0.8)) + rng.randrange(4))}" for _ in range(k)]

    texts = [words(rng.randint(20, 120)) for _ in range(count * 4 // 5)]
    copies = []
    for _ in range(count - len(texts)):
        source = rng.randrange(len(texts) // 2)
        copy = list(texts[source])
        for at in rng.sample(range(len(copy)), rng.randint(1, max(1, len(copy) // 8))):
            copy[at] = f"x{rng.randrange(10**6)}"
        copies.append((source, len(texts)))
        texts.append(copy)
    return texts, copies


def ours(texts: list[list[str]]) -> Pairs:
    from slipway.datasets.sketches import Sketcher, Sketches

    sketch = Sketcher()
    with Sketches(np) as index:
        for start in range(0, len(texts), 512):
            index.add(sketch(texts[start : start + 512]))
        found = index.within(np.arange(len(texts)), THRESHOLD)
    return {(pair.left, pair.right) for pair in found.pairs()}


def datasketch(texts: list[list[str]]) -> Pairs:
    from datasketch import MinHash, MinHashLSH

    from slipway.datasets.shingles import jaccard, shingles

    sets = [shingles(" ".join(text)) for text in texts]
    index = MinHashLSH(params=(20, 5), num_perm=100)
    hashes = []
    for number, members in enumerate(sets):
        minhash = MinHash(num_perm=100, seed=1)
        minhash.update_batch([member.encode() for member in members])
        index.insert(number, minhash)
        hashes.append(minhash)
    return {
        (other, number)
        for number, minhash in enumerate(hashes)
        for other in index.query(minhash)
        if other < number and jaccard(sets[other], sets[number]) >= THRESHOLD
    }


def timed(find: Callable[[list[list[str]]], Pairs], texts: list[list[str]]) -> tuple[Pairs, float]:
    began = time.process_time()
    return find(texts), time.process_time() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    from slipway.datasets.shingles import jaccard, shingles

    texts, copies = texts_of(arguments.texts)
    wanted = {
        (a, b)
        for a, b in copies
        if jaccard(shingles(" ".join(texts[a])), shingles(" ".join(texts[b]))) >= THRESHOLD
    }
    print(f"{len(texts):,} texts, {len(copies):,} copies, {len(wanted):,} of them alike")
    print(f"{'':<12}{'CPU s':>8}{'texts/s':>10}{'pairs':>8}{'recall':>9}")
    values: dict[str, float] = {"texts": len(texts)}
    seconds = {}
    sides: dict[str, Callable[[list[list[str]]], Pairs]] = {"ours": ours, "datasketch": datasketch}
    for name, find in sides.items():
        try:
            found, seconds[name] = timed(find, texts)
        except ImportError:
            print(f"{name}: not installed, so there is no comparison")
            continue
        recall = len(found & wanted) / max(1, len(wanted))
        values[f"recall_{name}"] = round(recall, 5)
        speed = len(texts) / seconds[name]
        print(f"{name:<12}{seconds[name]:>8.1f}{speed:>10,.0f}{len(found):>8,}{recall:>9.4f}")
    if "datasketch" in seconds:
        values["ratio_seconds_to_datasketch"] = round(seconds["ours"] / seconds["datasketch"], 4)
        print(f"time of datasketch: {values['ratio_seconds_to_datasketch']:.1%}")
    if arguments.json:
        arguments.json.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
