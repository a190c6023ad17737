from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from slipway.core.errors import ResourceError
from slipway.core.events import EventLog
from slipway.testing.fake_trackers import fake_swanlab, fake_wandb
from slipway.training.report_to import numbers_of, open_sinks


def tell(events: EventLog) -> None:
    for step in (1, 2):
        events.emit(
            "metric", kind="train", step=step, total_steps=2, loss=3.0 / step, lr=1e-3, epoch=0
        )
    events.emit("metric", kind="eval", step=2, loss=2.5, perplexity=12.2)
    events.emit("sample", step=2, prompt="你好?", answer="您好")
    events.emit("diagnosis", code="x", step=2, message="bad", hint="change it")
    events.emit("log", message="not a number")


def test_a_metric_event_becomes_named_curves() -> None:
    event = {"type": "metric", "kind": "train", "step": 3, "at": 1.0, "loss": 2.0, "reward": 0.5}
    assert numbers_of(event) == {"train/loss": 2.0, "train/reward": 0.5}
    assert numbers_of({**event, "kind": "eval", "ok": True}) == {
        "eval/loss": 2.0,
        "eval/reward": 0.5,
    }
    assert numbers_of({"type": "log", "loss": 1.0}) == {}


def test_tensorboard_reads_back_what_was_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing import event_accumulator as accumulator

    events = EventLog(None)
    with open_sinks(["tensorboard"], events, tmp_path, name="a", config={"lora.rank": 8}):
        tell(events)
    read = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(s.step, s.value) for s in read.Scalars("train/loss")] == [(1, 3.0), (2, 1.5)]
    assert [s.step for s in read.Scalars("eval/loss")] == [2]
    texts = {tag: read.Tensors(tag)[0].tensor_proto.string_val[0] for tag in read.Tags()["tensors"]}
    assert "您好" in texts["sample"].decode()
    assert "lora.rank" in texts["settings"].decode()


def test_swanlab_gets_numbers_texts_and_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, kept = fake_swanlab()
    monkeypatch.setitem(sys.modules, "swanlab", module)
    events = EventLog(None)
    with open_sinks(["swanlab"], events, tmp_path, name="shop", config={"seed": 0}):
        tell(events)
    assert (kept.begun["name"], kept.begun["config"]) == ("shop", {"seed": 0})
    assert kept.logged[0] == (1, {"train/loss": 3.0, "train/learning_rate": 1e-3, "train/epoch": 0})
    assert (2, {"eval/loss": 2.5, "eval/perplexity": 12.2}) in kept.logged
    assert kept.finished


def test_wandb_goes_on_with_the_run_of_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identities = []
    for _ in range(2):
        module, kept = fake_wandb()
        monkeypatch.setitem(sys.modules, "wandb", module)
        events = EventLog(None)
        with open_sinks(["wandb"], events, tmp_path, name="shop", config={}):
            tell(events)
        assert kept.logged[0][1]["train/loss"] == 3.0
        assert kept.logged[0][1]["step"] == 1
        assert kept.finished
        identities.append(kept.begun["id"])
    assert identities[0] == identities[1]


def test_a_package_that_is_not_installed_is_named_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slipway.training.report_to.base.find_spec", lambda name: None)
    with (
        pytest.raises(ResourceError) as caught,
        open_sinks(["swanlab"], EventLog(None), tmp_path, name="a", config={}),
    ):
        pass
    assert "slipway[swanlab]" in caught.value.hint_en


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_sink_that_fails_is_told_of_and_the_run_goes_on(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _ = fake_swanlab()

    def fail(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("no network")

    setattr(module, where, fail)
    monkeypatch.setitem(sys.modules, "swanlab", module)
    seen: list[dict[str, Any]] = []
    events = EventLog(None, seen.append)
    with open_sinks(["swanlab"], events, tmp_path, name="a", config={}):
        tell(events)
    told = [event for event in seen if "report_to swanlab" in event.get("message", "")]
    assert len(told) == 1
    assert "no network" in told[0]["message"]
