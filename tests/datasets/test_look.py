from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from tests.datasets.rows_for_tests import sample

from slipway.core.errors import ResourceError
from slipway.datasets import look, scan


class _Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        return os._exit, (1,)


def test_a_worker_that_is_killed_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scan, "BATCH_ROWS", 1)
    monkeypatch.setattr(look, "_WORTH_A_POOL", 1)
    monkeypatch.setattr(look, "_light", lambda sample: _Deadly())
    with pytest.raises(ResourceError, match="ended from outside"):
        list(look.look_at([sample("a", "b")] * 3, 1))


def test_few_rows_need_no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "_by_pool", None)
    (batch,) = look.look_at([sample("a", "b")] * 3, 2)
    assert len(batch.names) == 3
    assert list(look.look_at([], 2)) == []


def test_a_row_takes_the_same_memory_whatever_its_length() -> None:
    import tracemalloc

    import numpy as np

    sizes = []
    for words in (10, 400):
        answer = " ".join(f"word{n}" for n in range(words))
        rows = [sample(f"q{n} {answer}", f"a{n} {answer}") for n in range(400)]
        with scan.Scan(np) as made:
            batches = list(look.look_at(rows, 0))
            tracemalloc.start()
            for batch in batches * 5:
                made.add("train", batch)
            sizes.append(tracemalloc.get_traced_memory()[0] / 2000)
            tracemalloc.stop()
    assert max(sizes) < 600
    assert abs(sizes[0] - sizes[1]) < 100
