from __future__ import annotations

from pathlib import Path

import pytest

from slipway.core.events import EventLog
from slipway.demo.report.charts import smooth
from slipway.demo.report.content import _thin, loss_curve, unexpected_order
from slipway.demo.report.write import WORDS, number


def test_report_has_the_same_words_in_both_languages() -> None:
    assert set(WORDS["en"]) == set(WORDS["zh"])
    assert all(WORDS["zh"].values())


def test_long_curves_are_thinned_and_keep_both_ends() -> None:
    points = [[float(i), 1.0 / (i + 1)] for i in range(5000)]
    thin = _thin(points)
    assert len(thin) == 400 and thin[0] == points[0] and thin[-1] == points[-1]
    assert _thin(points[:10]) == points[:10]


def test_smoothing_does_not_lag_at_the_start() -> None:
    assert smooth([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])


def test_missing_numbers_are_shown_as_a_dash() -> None:
    assert number(None) == "–" and number(1.23456) == "1.235" and number(7) == "7"


def test_curves_hold_each_step_once_and_eval_beside_training(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.emit("metric", kind="eval", step=0, loss=3.0)
    for step, loss in ((1, 2.5), (2, 9.9), (2, 2.0), (3, 1.5)):
        log.emit("metric", kind="train", step=step, loss=loss)
    log.emit("metric", kind="eval", step=3, loss=1.75)
    assert loss_curve(tmp_path / "events.jsonl") == {
        "loss": [[1, 2.5], [2, 2.0], [3, 1.5]],
        "eval_loss": [[0, 3.0], [3, 1.75]],
    }


def test_quants_whose_divergence_does_not_fall_with_bits_are_named() -> None:
    row = {"Q4": (4.5, 0.05), "Q5": (5.5, 0.06), "Q8": (8.5, 0.003)}
    quants = {name: {"bpw": bpw, "kld_mean": kld} for name, (bpw, kld) in row.items()}
    assert unexpected_order(quants) == [["Q5", "Q4"]]
    quants["Q5"]["kld_mean"] = 0.02
    assert unexpected_order(quants) == []
