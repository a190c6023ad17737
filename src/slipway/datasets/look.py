"""Batches of rows looked at, here or by a pool of processes, in the order of the rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, islice
from multiprocessing import get_context

from slipway.datasets.model import Sample
from slipway.datasets.scan import Batch, Looker, batches

_WORTH_A_POOL = 16
"""Batches (some 8,000 rows) below which starting processes takes longer than it saves."""


def look_at(samples: Iterable[Sample], workers: int) -> Iterator[Batch]:
    """Look at rows.

    Args:
        workers: processes beside this one; 0: none. Few rows are looked at here in any case.
    """
    waiting = batches(samples)
    look = Looker()
    if not workers:
        yield from map(look, waiting)
        return
    first = list(islice(waiting, _WORTH_A_POOL))
    if len(first) < _WORTH_A_POOL:
        yield from map(look, first)
        return
    yield from _by_pool(chain(first, waiting), workers)


def _by_pool(waiting: Iterable[list[Sample]], workers: int) -> Iterator[Batch]:
    # processes of their own, not copies of this one, whose threads may hold locks
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running: deque[Future[Batch]] = deque()
        for batch in waiting:
            running.append(pool.submit(_look, batch))
            if len(running) > 2 * workers:  # so that a slow worker does not fill the memory
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


_LOOKER: list[Looker] = []


def _look(samples: Sequence[Sample]) -> Batch:
    if not _LOOKER:
        _LOOKER.append(Looker())
    return _LOOKER[0](samples)
