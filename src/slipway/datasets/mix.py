"""Several streams into one, by weight and seed, a row at a time.

The rules are those of LLaMA Factory's `mix_strategy` (Hugging Face `interleave_datasets`): with
equal weights the streams take turns; with others the next stream is drawn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

T = TypeVar("T")
Mix = Literal["concat", "interleave_under", "interleave_over", "interleave_once"]

_END = object()


class _Ahead(Iterator[T]):
    """An iterator that knows whether it has given its last; it can begin again."""

    def __init__(self, start: Callable[[], Iterator[T]]) -> None:
        self._start = start
        self.again()

    def again(self) -> None:
        """Go back to the first item."""
        self._items = self._start()
        self._next: T | object = next(self._items, _END)

    @property
    def ended(self) -> bool:
        """Whether nothing is left."""
        return self._next is _END

    def __next__(self) -> T:
        item = self._next
        if item is _END:
            raise StopIteration
        self._next = next(self._items, _END)
        return item  # type: ignore[return-value]


def mixed(
    starts: Sequence[Callable[[], Iterator[T]]],
    weights: Sequence[float],
    mix: Mix,
    seed: int,
) -> Iterator[T]:
    """One stream out of several.

    Args:
        starts: each begins one stream afresh.
        weights: above 0, in any scale; `concat` does not look at them.
        mix: `concat`: one after the other. `interleave_under`: until one is at its end.
            `interleave_over`: until all were, those that end sooner begin again.
            `interleave_once`: every row of each, once.
    """
    if mix == "concat":
        for start in starts:
            yield from start()
        return
    streams = [_Ahead(start) for start in starts]
    done = [stream.ended for stream in streams]
    if mix == "interleave_under" and any(done):
        return
    choose = _rounds if len(set(weights)) == 1 else _draws
    turns = choose(weights, done, random.Random(f"mix:{seed}"), once=mix == "interleave_once")
    for number, round_ends in turns:
        stream = streams[number]
        if stream.ended:
            if mix == "interleave_over":
                stream.again()
            if stream.ended:  # empty, or not to be repeated
                if all(done):
                    return
                continue
        yield next(stream)
        done[number] = done[number] or stream.ended
        if round_ends and (all(done) or (mix == "interleave_under" and any(done))):
            return


def _rounds(
    weights: Sequence[float], done: Sequence[bool], rng: random.Random, *, once: bool
) -> Iterator[tuple[int, bool]]:
    """Each in turn: (number, whether the round is over with it)."""
    while not all(done):
        open_ones = [n for n in range(len(weights)) if not (once and done[n])]
        for n in open_ones:
            yield n, n == open_ones[-1]


def _draws(
    weights: Sequence[float], done: Sequence[bool], rng: random.Random, *, once: bool
) -> Iterator[tuple[int, bool]]:
    """Drawn by weight; with `once` among those that are not done."""
    while not all(done):
        open_ones = [n for n in range(len(weights)) if not (once and done[n])]
        yield rng.choices(open_ones, [weights[n] for n in open_ones])[0], True
