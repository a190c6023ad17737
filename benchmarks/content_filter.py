"""What the content filter adds to 10 kB of text, whole and streamed, against plain ways to search.

20,000 made-up words, half Chinese, half English; texts of 10 kB UTF-8, drawn as in natural language
(few words frequent, many rare) from other words, a share of which begin like listed ones, so that
the stream has something to hold back. No text has a match but those made for the comparison, in
which every way must find the same words. Each side searches the text in its normal form.

    python benchmarks/content_filter.py [--words N] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

BYTES = 10_000
TOKEN = 4
GOAL_MS = 1.0
Row = dict[str, float]


def english(rng: random.Random, low: int, high: int) -> str:
    return "".join(rng.choice("etaoinshrdlucmfwypvbgkjqxz") for _ in range(rng.randint(low, high)))


def vocabularies(rng: random.Random, count: int) -> tuple[list[str], list[str], list[str]]:
    """Listed words, Chinese words of texts, English words of texts."""
    han = [chr(code) for code in range(0x4E00, 0x9FA5)]
    rng.shuffle(han)
    han = han[:3500]
    listed: set[str] = set()
    while len(listed) < count // 2:
        listed.add("".join(rng.choice(han) for _ in range(rng.randint(2, 6))))
    while len(listed) < count:
        listed.add(english(rng, 5, 14))
    words = sorted(listed)
    rng.shuffle(words)
    chinese = ["".join(rng.choice(han) for _ in range(rng.randint(1, 3))) for _ in range(8000)]
    plain = [english(rng, 2, 9) for _ in range(8000)]
    # one in ten begins like a listed word and goes on otherwise
    for n in range(0, 8000, 10):
        word = rng.choice(words)
        side = chinese if "\u4e00" <= word[0] <= "\u9fff" else plain
        side[n] = word[: rng.randint(1, len(word) - 1)]
    return words, chinese, plain


def text_of(rng: random.Random, words: list[str], joint: str, stops: str) -> str:
    parts: list[str] = []
    size = 0
    while size < BYTES:
        word = words[min(len(words) - 1, int(rng.paretovariate(0.5)) - 1)]
        parts.append(word + (rng.choice(stops) if rng.random() < 0.1 else "") + joint)
        size += len(parts[-1].encode())
    return "".join(parts)


def tokens_of(text: str) -> list[str]:
    """Pieces of at least 4 bytes, at characters, as a tokenizer would give."""
    pieces, piece, size = [], "", 0
    for char in text:
        piece, size = piece + char, size + len(char.encode())
        if size >= TOKEN:
            pieces.append(piece)
            piece, size = "", 0
    return [*pieces, piece] if piece else pieces


def best(run: Callable[[], object], rounds: int) -> float:
    """The best of some rounds, in milliseconds of the processor: other programs do not count."""
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        run()
        times.append(time.thread_time() - start)
    return min(times) * 1000


def measure(words: list[str], texts: list[str], rounds: int) -> tuple[Row, list[str]]:
    """Milliseconds per text, and the texts that were searched.

    A stream remembers what a token did; so each text is streamed once through a filter that has
    seen two thirds of the texts but not this one, then again, when it knows all tokens, and once
    through one that has seen nothing.
    """
    from slipway.gateway.filter import ContentFilter, Rule, words_of

    rules = [Rule("benchmark", words_of(words))]
    filters = ContentFilter(rules)
    texts = [text for text in texts if not filters.check_text(text).hits]

    def streamed(through: ContentFilter, pieces: list[str]) -> float:
        start = time.thread_time()
        stream = through.stream()
        size = sum(len(stream.feed(0, piece)) for piece in pieces)
        size += len(stream.finish(0))
        assert size == sum(map(len, pieces))
        return (time.thread_time() - start) * 1000

    whole = [best(lambda t=text: filters.check_text(t), rounds) for text in texts]
    pieces = [tokens_of(text) for text in texts]
    seen = len(texts) * 2 // 3
    for one in pieces[:seen]:
        streamed(filters, one)
    flow = [streamed(filters, one) for one in pieces[seen:]]
    known = [streamed(filters, one) for one in pieces[seen:]]
    new = [streamed(ContentFilter(rules), one) for one in pieces[seen : seen + 5]]
    tokens = statistics.mean(map(len, pieces[seen:]))
    return {
        "texts": len(texts),
        "whole_ms": statistics.median(whole),
        "streamed_ms": statistics.median(flow),
        "streamed_us_per_token": statistics.median(flow) / tokens * 1000,
        "known_streamed_ms": statistics.median(known),
        "known_streamed_us_per_token": statistics.median(known) / tokens * 1000,
        "first_streamed_ms": statistics.median(new),
        "first_streamed_us_per_token": statistics.median(new) / tokens * 1000,
    }, texts


def compare(words: list[str], texts: list[str], rounds: int) -> Row:
    """The plain ways on the same normal texts and words: `in`, one after the other, and `re`."""
    from slipway.gateway.filter.normalise import Normaliser

    normaliser = Normaliser()
    plain = [normaliser(word).text for word in words]
    normal = [normaliser(text).text for text in texts]
    pattern = re.compile("|".join(map(re.escape, sorted(plain, key=len, reverse=True))))
    checked = normal[0] + words[7] + normal[0]
    assert any(word in checked for word in plain) and pattern.search(checked)
    naive = [best(lambda t=t: any(word in t for word in plain), 2) for t in normal[:6]]
    regex = [best(lambda t=t: pattern.search(t), 2) for t in normal[:3]]
    # the plain ways pay for the normal form too
    form = [best(lambda t=t: normaliser(t), rounds) for t in texts]
    share = sum(form) / len(form)
    return {
        "normal_form_ms": share,
        "naive_ms": sum(naive) / len(naive) + share,
        "regex_ms": sum(regex) / len(regex) + share,
    }


def building(words: list[str]) -> Row:
    from slipway.gateway.filter import ContentFilter, Rule, words_of

    rules = [Rule("benchmark", words_of(words))]
    return {"words": len(words), "build_ms": best(lambda: ContentFilter(rules), 3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--words", type=int, default=20_000)
    parser.add_argument("--texts", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rng = random.Random(7)
    words, chinese, plain = vocabularies(rng, args.words)
    sides = {
        "zh": [text_of(rng, chinese, "", "，。、") for _ in range(args.texts)],
        "en": [text_of(rng, plain, " ", ",.") for _ in range(args.texts)],
    }
    report: dict[str, Row] = {"building": building(words)}
    for side, made in sides.items():
        row, texts = measure(words, made, args.rounds)
        row |= compare(words, texts, args.rounds)
        row["ratio_naive_to_whole"] = row["naive_ms"] / row["whole_ms"]
        row["ratio_regex_to_whole"] = row["regex_ms"] / row["whole_ms"]
        row["ratio_whole_to_goal"] = row["whole_ms"] / GOAL_MS
        row["ratio_streamed_to_goal"] = row["streamed_ms"] / GOAL_MS
        report[side] = row
    for side, row in report.items():
        print(side, "  ".join(f"{name} {value:.3f}" for name, value in row.items()))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if report["zh"]["texts"] and report["en"]["texts"] else 1


if __name__ == "__main__":
    sys.exit(main())
