"""Batches of rows looked at, here or by a pool of processes, in the order of the rows."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path

from slipway.core.errors import ResourceError
from slipway.core.i18n import tr
from slipway.datasets.model import Message, Role, Sample, ToolCall
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
    spawn = get_context("spawn")
    running: deque[Future[Batch]] = deque()
    try:
        with ProcessPoolExecutor(workers, spawn, initializer=_leave_interrupts) as pool:
            for batch in waiting:
                running.append(pool.submit(_look, list(map(_light, batch))))
                if len(running) > 2 * workers:  # so that a slow worker does not fill the memory
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
    except BrokenProcessPool as error:
        raise ResourceError(
            "data.worker_died",
            tr("a process that looks at rows was ended from outside; perhaps memory ran out"),
            tr("try fewer with `--workers 1`, or none with `--workers 0`"),
        ) from error


def _leave_interrupts() -> None:
    """Ctrl-C reaches every process of a terminal; the one that reads ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_LOOKER: list[Looker] = []


def _look(rows: Sequence[_Light]) -> Batch:
    if not _LOOKER:
        _LOOKER.append(Looker())
    return _LOOKER[0](list(map(_sample, rows)))


# tuples of texts go from process to process six times as fast as samples; of a call it is enough
# to know that there is one
_Turn = tuple[Role, str, bool]
_Light = tuple[str, str, int, tuple[_Turn, ...], "_Turn | None", "_Turn | None", "bool | None", str]
_CALL = (ToolCall("", {}),)
_path = lru_cache(maxsize=64)(Path)


def _light(sample: Sample) -> _Light:
    return (
        sample.id,
        str(sample.file),
        sample.line,
        tuple(map(_light_turn, sample.messages)),
        _light_turn(sample.chosen) if sample.chosen else None,
        _light_turn(sample.rejected) if sample.rejected else None,
        sample.desirable,
        sample.text,
    )


def _light_turn(message: Message) -> _Turn:
    return message.role, message.content, bool(message.tool_calls)


def _sample(row: _Light) -> Sample:
    name, file, line, turns, chosen, rejected, desirable, text = row
    return Sample(
        name,
        tuple(map(_message, turns)),
        _path(file),
        line,
        chosen=_message(chosen) if chosen else None,
        rejected=_message(rejected) if rejected else None,
        desirable=desirable,
        text=text,
    )


def _message(turn: _Turn) -> Message:
    return Message(turn[0], turn[1], _CALL if turn[2] else ())
