from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slipway.core.errors import InputError
from slipway.training.best import Best, load_best, remove_best, save_best


@given(st.lists(st.floats(0.01, 10.0), min_size=1, max_size=30))
def test_the_best_is_the_first_lowest_and_since_counts_what_came_after(
    losses: list[float],
) -> None:
    best = Best()
    for step, loss in enumerate(losses, 1):
        best = best.after(step, loss)
    assert best.loss == min(losses)
    assert best.step == losses.index(min(losses)) + 1
    assert best.since == len(losses) - best.step
    assert not best.is_over(None)
    assert best.is_over(3) == (best.since >= 3)


def test_a_loss_that_is_no_number_is_never_the_best() -> None:
    best = Best().after(1, float("nan")).after(2, 2.0).after(3, float("nan"))
    assert (best.loss, best.since) == (2.0, 1)


def test_the_kept_state_comes_back_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    save_best(tmp_path, 3, {"a": torch.ones(2)})
    save_best(tmp_path, 6, {"a": torch.zeros(2)})
    assert torch.equal(load_best(tmp_path)["a"], torch.zeros(2))
    (tmp_path / "best" / "state.pt").write_bytes(b"torn")
    with pytest.raises(InputError, match="state") as caught:
        load_best(tmp_path)
    assert "keep_best" in caught.value.hint_en
    remove_best(tmp_path)
    assert not (tmp_path / "best").exists()
