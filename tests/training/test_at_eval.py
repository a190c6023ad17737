from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.training.conftest import write_rows

from slipway.core.errors import UsageError
from slipway.core.events import EventLog, read_events
from slipway.core.manifest import read_manifest, verify_files
from slipway.datasets import load_dataset
from slipway.training import LoraSpec, TrainSpec, evaluate_loss, train


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows to learn by heart, and others that are held out."""
    folder = tmp_path_factory.mktemp("few")
    write_rows(folder / "train.jsonl", range(2))
    write_rows(folder / "heldout.jsonl", range(103, 107))
    return folder


def overfit(base: Path, data: Path, **values: Any) -> TrainSpec:
    settings: dict[str, Any] = {
        "model": str(base),
        "data": str(data),
        "lora": LoraSpec(rank=32, alpha=64.0),
        "batch_tokens": 256,
        "learning_rate": 0.02,
        "schedule": "constant",
        "max_steps": 40,
        "epochs": 100.0,
        "eval_every": 4,
        "threads": 1,
        "dtype": "fp32",
        **values,
    }
    return TrainSpec(**settings)


def spoil(patch: pytest.MonkeyPatch) -> None:
    """After step 22 the steps are so long that what was learned is lost."""

    def rate(step: int, total: int, **values: Any) -> float:
        return 0.02 if step <= 22 else 2.0

    patch.setattr("slipway.training.trainer.learning_rate", rate)


def events_of(run_dir: Path, type: Any, **wanted: Any) -> list[dict[str, Any]]:
    return [
        event
        for event in read_events(run_dir / "events.jsonl", type)
        if all(event.get(key) == value for key, value in wanted.items())
    ]


@pytest.fixture(scope="module")
def best(base: Path, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that overfits, with `keep_best`."""
    run_dir = tmp_path_factory.mktemp("best") / "run"
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch)
        train(overfit(base, few, keep_best=True), run_dir=run_dir, events=EventLog(None))
    return run_dir


def test_keep_best_leaves_the_state_with_the_lowest_eval_loss(
    best: Path, base: Path, few: Path
) -> None:
    evals = {e["step"]: e["loss"] for e in events_of(best, "metric", kind="eval") if e["step"]}
    lowest = min(evals.values())
    assert evals[40] > lowest
    manifest = read_manifest(best)
    assert manifest.metrics["eval_loss"] == pytest.approx(lowest, abs=1e-5)
    assert evals[manifest.metrics["best_step"]] == lowest
    assert verify_files(best, manifest) == []
    assert not (best / "best").exists()
    heldout = load_dataset(few, "heldout")
    again = evaluate_loss(base, heldout, adapter=best / "adapter", threads=1, dtype="fp32")
    assert again.loss == pytest.approx(lowest, abs=1e-4)


@pytest.mark.parametrize("stop_at", [13, 27, 40])
def test_keep_best_over_an_interruption_gives_the_same_result(
    stop_at: int,
    best: Path,
    base: Path,
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil(monkeypatch)

    def stop(event: dict[str, Any]) -> None:
        if event["type"] == "metric" and event["kind"] == "train" and event["step"] == stop_at:
            raise KeyboardInterrupt

    spec = overfit(base, few, keep_best=True)
    with pytest.raises(KeyboardInterrupt):
        train(spec, run_dir=tmp_path, events=EventLog(None, stop))
    train(spec, run_dir=tmp_path, events=EventLog(None))
    files = [folder / "adapter" / "adapter_model.safetensors" for folder in (tmp_path, best)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_early_stopping_ends_the_run_after_so_many_worse_evals(
    base: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch)
    result = train(overfit(base, few, early_stopping=2), run_dir=tmp_path, events=EventLog(None))
    evals = [(e["step"], e["loss"]) for e in events_of(tmp_path, "metric", kind="eval")][1:]
    best_step = min(evals, key=lambda pair: pair[1])[0]
    assert evals[-1][0] == best_step + 2 * 4 < 40
    assert result.metrics["steps"] == evals[-1][0]
    assert result.manifest.notes["plan"] == "early_stopping"


@pytest.mark.parametrize("key", [{"keep_best": True}, {"early_stopping": 1}])
def test_a_decision_by_an_eval_loss_that_is_not_measured_is_refused(
    key: dict[str, Any], base: Path, few: Path, tmp_path: Path
) -> None:
    shutil.copytree(few, tmp_path / "data")
    (tmp_path / "data" / "heldout.jsonl").unlink()
    with pytest.raises(UsageError, match="eval loss"):
        train(
            overfit(base, tmp_path / "data", **key), run_dir=tmp_path / "r", events=EventLog(None)
        )


def test_keep_ends_the_run_with_what_it_has_as_a_whole_artefact(
    base: Path, few: Path, tmp_path: Path
) -> None:
    def ask(event: dict[str, Any]) -> None:
        if event["type"] == "metric" and event["kind"] == "train" and event["step"] == 6:
            (tmp_path / "stop").write_text("keep")

    spec = overfit(base, few)
    result = train(spec, run_dir=tmp_path, events=EventLog(None, ask))
    assert result.metrics["steps"] == 6
    assert [e["step"] for e in events_of(tmp_path, "metric", kind="eval")] == [0, 4, 6]
    assert result.manifest.notes["plan"] == "kept"
    assert verify_files(tmp_path, result.manifest) == []
    assert not (tmp_path / "stop").exists()
    assert events_of(tmp_path, "state")[-1]["state"] == "finished"
    assert train(spec, run_dir=tmp_path, events=EventLog(None)).resumed_from == 6


def test_samples_are_answered_at_each_eval_and_change_no_step(
    base: Path, few: Path, tmp_path: Path
) -> None:
    prompts = ["can i return my cup bought 0 days ago", "hello"]
    dropout = LoraSpec(rank=32, alpha=64.0, dropout=0.1)
    for name, asked in (("with", prompts), ("without", [])):
        spec = overfit(base, few, sample_prompts=asked, max_steps=16, eval_every=8, lora=dropout)
        train(spec, run_dir=tmp_path / name, events=EventLog(None))
    samples = events_of(tmp_path / "with", "sample")
    assert [(s["step"], s["prompt"]) for s in samples] == [
        (step, prompt) for step in (0, 8, 16) for prompt in prompts
    ]
    assert samples[0]["answer"] != samples[-2]["answer"]  # it has learned something
    losses = [
        [e["loss"] for e in events_of(tmp_path / name, "metric", kind="train")]
        for name in ("with", "without")
    ]
    assert losses[0] == losses[1]
