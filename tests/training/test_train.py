from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from slipway.core.errors import ConflictError, InputError, NotFoundError, ProofError, ResourceError
from slipway.core.events import EventLog, read_events
from slipway.core.manifest import read_manifest, verify_files
from slipway.core.owner import owner_of
from slipway.datasets import encode_all, load_dataset, load_tokenizer
from slipway.training import LoraSpec, TrainSpec, checkpoint, evaluate_loss, train
from slipway.training.folder import StopAsked, read_settings
from slipway.training.objectives import StepSums
from slipway.training.objectives.next_token import NextToken


def make_spec(base: Path, data: Path, **values: Any) -> TrainSpec:
    settings: dict[str, Any] = {
        "model": str(base),
        "data": str(data),
        "lora": LoraSpec(rank=4, alpha=8.0, dropout=0.1),
        "batch_tokens": 256,
        "pack_tokens": 160,
        "learning_rate": 0.01,
        "max_steps": 10,
        "epochs": 50.0,
        "save_every_steps": 3,
        "threads": 1,
        "dtype": "fp32",
        **values,
    }
    return TrainSpec(**settings)


def losses(run_dir: Path) -> dict[int, float]:
    return {
        event["step"]: event["loss"]
        for event in read_events(run_dir / "events.jsonl", "metric")
        if event["kind"] == "train"
    }


def quiet(*listeners: Callable[[dict[str, Any]], None]) -> EventLog:
    return EventLog(None, *listeners)


@pytest.fixture(scope="module")
def spec(base: Path, data: Path) -> TrainSpec:
    return make_spec(base, data)


@pytest.fixture(scope="module")
def whole(spec: TrainSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of `spec`."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    train(spec, run_dir=run_dir, events=quiet())
    return run_dir


def weights(run_dir: Path) -> bytes:
    return (run_dir / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_run_learns_and_leaves_a_whole_artefact(
    whole: Path, base: Path, data: Path, spec: TrainSpec
) -> None:
    manifest = read_manifest(whole, kind="run")
    metrics = manifest.metrics
    assert metrics["eval_loss"] < 0.9 * metrics["base_eval_loss"]
    assert metrics["steps"] == 10
    assert metrics["tokens_per_s"] > 0
    assert metrics["peak_memory_bytes"] > 1e6
    assert set(manifest.parents) == {"base", "dataset"}
    assert manifest.config["lora.rank"].value == 4
    assert (whole / "loss_curve.png").read_bytes().startswith(b"\x89PNG")
    assert (whole / "recipe.yaml").is_file()
    assert not (whole / "checkpoints").exists()
    steps = [e for e in read_events(whole / "events.jsonl", "metric") if e["kind"] == "train"]
    assert {"step", "total_steps", "epoch", "loss", "lr", "grad_norm", "tokens", "tokens_per_s"} | {
        "eta_s",
        "memory_bytes",
    } <= set(steps[0])
    evals = [
        e["step"] for e in read_events(whole / "events.jsonl", "metric") if e["kind"] == "eval"
    ]
    assert evals[0] == 0
    assert evals[-1] == 10
    heldout = load_dataset(data, "heldout")
    again = evaluate_loss(base, heldout, adapter=whole / "adapter", threads=1, dtype="fp32")
    assert again.loss == pytest.approx(metrics["eval_loss"], abs=1e-5)


def test_a_finished_run_is_returned_without_training(whole: Path, spec: TrainSpec) -> None:
    seen: list[dict[str, Any]] = []
    result = train(spec, run_dir=whole, events=quiet(seen.append))
    assert result.resumed_from == 10
    assert result.manifest == read_manifest(whole)
    assert not seen


def test_a_finished_run_that_lost_its_adapter_is_trained_anew(
    spec: TrainSpec, tmp_path: Path
) -> None:
    short = spec.model_copy(update={"max_steps": 2})
    first = train(short, run_dir=tmp_path, events=quiet())
    (first.adapter / "adapter_model.safetensors").write_bytes(b"cut")
    seen: list[dict[str, Any]] = []
    second = train(short, run_dir=tmp_path, events=quiet(seen.append))
    assert second.resumed_from == 0
    assert verify_files(tmp_path, second.manifest) == []
    assert any("adapter_model.safetensors" in event.get("message", "") for event in seen)


def test_a_run_of_another_recipe_is_not_touched(whole: Path, spec: TrainSpec) -> None:
    before = weights(whole)
    with pytest.raises(ConflictError, match="recipe"):
        train(spec.model_copy(update={"seed": 5}), run_dir=whole, events=quiet())
    assert weights(whole) == before


def test_fresh_replaces_the_run_and_keeps_other_files(spec: TrainSpec, tmp_path: Path) -> None:
    short = spec.model_copy(update={"max_steps": 2})
    train(short, run_dir=tmp_path, events=quiet())
    (tmp_path / "notes.txt").write_text("mine")
    other = short.model_copy(update={"seed": 5})
    result = train(other, run_dir=tmp_path, events=quiet(), resume=False)
    assert result.resumed_from == 0
    assert len(losses(tmp_path)) == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("stop_at", [1, 5, 10])
def test_resumed_losses_equal_the_uninterrupted_ones(
    stop_at: int, spec: TrainSpec, whole: Path, tmp_path: Path
) -> None:
    def stop(event: dict[str, Any]) -> None:
        if event["type"] == "metric" and event["kind"] == "train" and event["step"] == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec, run_dir=tmp_path, events=quiet(stop))
    result = train(spec, run_dir=tmp_path, events=quiet())
    assert 0 < result.resumed_from <= stop_at
    assert losses(tmp_path) == losses(whole)
    assert weights(tmp_path) == weights(whole)
    assert result.metrics["eval_loss"] == read_manifest(whole).metrics["eval_loss"]


def test_accumulated_packs_give_the_loss_and_gradient_of_one_batch(
    base: Path, data: Path, tmp_path: Path
) -> None:
    plain = LoraSpec(rank=4, alpha=8.0)
    runs = {}
    for name, pack_tokens in (("packs", 1), ("whole", 4096)):
        spec = make_spec(base, data, lora=plain, pack_tokens=pack_tokens, max_steps=3)
        train(spec, run_dir=tmp_path / name, events=quiet())
        runs[name] = [
            (e["loss"], e["grad_norm"])
            for e in read_events(tmp_path / name / "events.jsonl", "metric")
            if e["kind"] == "train"
        ]
    for left, right in zip(runs["packs"], runs["whole"], strict=True):
        assert left == pytest.approx(right, rel=1e-3)


CHILD = """
import sys
from pathlib import Path
from slipway.core.events import EventLog
from slipway.training import TrainSpec, train
spec = TrainSpec.model_validate_json(sys.argv[1])
train(spec, run_dir=Path(sys.argv[2]), events=EventLog(None))
"""


def start_child(spec: TrainSpec, run_dir: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, spec.model_dump_json(), str(run_dir)],
        stderr=subprocess.DEVNULL,
    )


def wait_for_step(run_dir: Path, step: int, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and child.poll() is None:
        if max(losses(run_dir), default=0) >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"the child did not reach step {step}")


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_result(spec: TrainSpec, tmp_path: Path) -> None:
    long = spec.model_copy(update={"max_steps": 60, "save_every_steps": 7})
    train(long, run_dir=tmp_path / "whole", events=quiet())
    for step in (1, 20, 40):
        child = start_child(long, tmp_path / "killed")
        try:
            wait_for_step(tmp_path / "killed", step, child)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        assert not (tmp_path / "killed" / "manifest.json").exists()
    result = train(long, run_dir=tmp_path / "killed", events=quiet())
    assert result.resumed_from >= 35
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


@pytest.mark.slow
def test_ctrl_c_saves_a_checkpoint_at_the_step_it_reached(spec: TrainSpec, tmp_path: Path) -> None:
    long = spec.model_copy(update={"max_steps": 5000, "save_every_steps": None})
    child = start_child(long, tmp_path)
    try:
        wait_for_step(tmp_path, 20, child)
        child.send_signal(signal.SIGINT)
        assert child.wait(30) != 0
    finally:
        child.kill()
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found[1].step == max(losses(tmp_path)) >= 20
    states = [event["state"] for event in read_events(tmp_path / "events.jsonl", "state")]
    assert states == ["started", "interrupted"]


def test_sigint_within_a_step_leaves_that_step_undone(
    spec: TrainSpec, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)
    original = NextToken.gradients

    def interrupted(self: NextToken, numbers: Any, stop: Any) -> StepSums:
        if len(losses(tmp_path)) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, numbers, stop)

    with monkeypatch.context() as patch:
        patch.setattr(NextToken, "gradients", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(spec, run_dir=tmp_path, events=quiet())
    assert signal.getsignal(signal.SIGINT) is before
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found[1].step == 4
    train(spec, run_dir=tmp_path, events=quiet())
    assert losses(tmp_path) == losses(whole)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(
    spec: TrainSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = NextToken.gradients

    def poisoned(self: NextToken, numbers: Any, stop: Any) -> StepSums:
        sums = original(self, numbers, stop)
        return replace(sums, loss=float("nan")) if len(losses(tmp_path)) == 5 else sums

    monkeypatch.setattr(NextToken, "gradients", poisoned)
    with pytest.raises(ProofError, match="nan") as caught:
        train(spec, run_dir=tmp_path, events=quiet())
    assert caught.value.code == "train.not_finite"
    assert "learning_rate" in caught.value.hint_en
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found[1].step == 3


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_later(
    spec: TrainSpec, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = checkpoint.write_tensors

    def full(path: Path, value: Any) -> str:
        if "step-0000006" in str(path):
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return original(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_tensors", full)
        with pytest.raises(ResourceError) as caught:
            train(spec, run_dir=tmp_path, events=quiet())
    assert caught.value.code == "disk.full"
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "step-0000000",
        "step-0000003",
    ]
    assert train(spec, run_dir=tmp_path, events=quiet()).resumed_from == 3
    assert weights(tmp_path) == weights(whole)


def stop_at(step: int) -> Callable[[dict[str, Any]], None]:
    def stop(event: dict[str, Any]) -> None:
        if event["type"] == "metric" and event["step"] == step:
            raise KeyboardInterrupt

    return stop


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(
    spec: TrainSpec, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(spec, run_dir=tmp_path, events=quiet(stop_at(4)))
    newest = tmp_path / "checkpoints" / "step-0000004"
    torn = bytearray((newest / "state.pt").read_bytes())
    torn[len(torn) // 2] ^= 1  # one bit, in a place that torch would read without a word
    (newest / "state.pt").write_bytes(torn)
    logs: list[dict[str, Any]] = []
    result = train(spec, run_dir=tmp_path, events=quiet(logs.append))
    assert result.resumed_from == 3
    assert [e for e in logs if "damaged checkpoint: step-0000004" in e.get("message", "")]
    assert weights(tmp_path) == weights(whole)


def test_when_no_checkpoint_is_whole_the_newest_is_named(spec: TrainSpec, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(spec, run_dir=tmp_path, events=quiet(stop_at(4)))
    for folder in (tmp_path / "checkpoints").iterdir():
        (folder / "checkpoint.json").write_text("{}")
    with pytest.raises(InputError, match="step-0000004") as caught:
        train(spec, run_dir=tmp_path, events=quiet())
    assert "remove" in caught.value.hint_en


def test_a_time_budget_is_measured_planned_told_and_kept_over_a_resume(
    spec: TrainSpec, tmp_path: Path
) -> None:
    budget = spec.model_copy(update={"time_budget_s": 6.0, "max_steps": None, "epochs": 1e4})
    logs: list[dict[str, Any]] = []

    def stop(event: dict[str, Any]) -> None:
        logs.append(event)
        if event["type"] == "metric" and event["kind"] == "train" and event["step"] == 5:
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        train(budget, run_dir=tmp_path, events=quiet(stop))
    (plan,) = [event for event in logs if event.get("reason")]
    assert plan["reason"] == "time_budget"
    assert plan["tokens_per_s"] > 0
    assert plan["total_steps"] >= 8
    assert not [event for event in logs if "estimate" in event]  # it would eat the budget
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found[1].plan.total_steps <= plan["total_steps"]
    result = train(budget, run_dir=tmp_path, events=quiet())
    cuts = [e["total_steps"] for e in read_events(tmp_path / "events.jsonl", "log") if "was" in e]
    assert result.metrics["steps"] == min([plan["total_steps"], *cuts])
    assert time.monotonic() - started < 120  # 10,000 epochs would take hours


def test_data_without_a_label_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="first 8 tokens"):
        train(make_spec(base, data, cutoff_len=8), run_dir=tmp_path / "run", events=quiet())
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_rows_that_are_cut_are_named(base: Path, data: Path, tmp_path: Path) -> None:
    logs: list[str] = []

    def note(event: dict[str, Any]) -> None:
        if event["type"] == "log":
            logs.append(event["message"])

    encoded = encode_all(load_dataset(data), load_tokenizer(base), 512)
    longest = max(range(24), key=lambda i: len(encoded.rows[i].input_ids))
    cutoff = len(encoded.rows[longest].input_ids) - 1
    spec = make_spec(base, data, cutoff_len=cutoff, max_steps=1)
    train(spec, run_dir=tmp_path, events=quiet(note))
    assert any(f"train.jsonl:{longest + 1}: cut from" in message for message in logs)


def test_data_without_a_heldout_split_trains_without_eval(
    base: Path, data: Path, tmp_path: Path
) -> None:
    spec = make_spec(base, data / "train.jsonl", max_steps=2)
    metrics = train(spec, run_dir=tmp_path, events=quiet()).metrics
    assert metrics["eval_loss"] is None
    assert metrics["train_loss"] > 0


def test_a_missing_model_is_not_found(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        train(make_spec(tmp_path / "none", data), run_dir=tmp_path / "run", events=quiet())


def test_bf16_base_with_fp32_adapters_learns(base: Path, data: Path, tmp_path: Path) -> None:
    spec = make_spec(base, data, dtype="bf16")
    metrics = train(spec, run_dir=tmp_path, events=quiet()).metrics
    assert metrics["eval_loss"] < 0.9 * metrics["base_eval_loss"]
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["peft_type"]) == (4, "LORA")
    from safetensors.torch import load_file

    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_a_run_folder_in_use_is_refused(spec: TrainSpec, tmp_path: Path) -> None:
    def second(event: dict[str, Any]) -> None:
        if event["type"] == "state" and event["state"] == "started":
            train(spec, run_dir=tmp_path, events=quiet())

    with pytest.raises(ConflictError) as caught:
        train(spec, run_dir=tmp_path, events=quiet(second))
    assert caught.value.code == "run.busy"


def test_running_out_of_memory_says_what_to_change(
    spec: TrainSpec, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = NextToken.gradients

    def greedy(self: NextToken, numbers: Any, stop: Any) -> StepSums:
        if len(losses(tmp_path)) == 4:
            torch.empty(1 << 60)
        return original(self, numbers, stop)

    with monkeypatch.context() as patch:
        patch.setattr(NextToken, "gradients", greedy)
        with pytest.raises(ResourceError) as caught:
            train(spec, run_dir=tmp_path, events=quiet())
    assert caught.value.code == "train.out_of_memory"
    assert "pack_tokens=64" in caught.value.hint_en
    smaller = spec.model_copy(update={"pack_tokens": 80})
    assert train(smaller, run_dir=tmp_path, events=quiet()).resumed_from == 3
    assert losses(tmp_path) == pytest.approx(losses(whole), rel=0.2)


def test_other_runtime_errors_keep_their_traceback(
    spec: TrainSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: NextToken, numbers: Any, stop: Any) -> StepSums:
        raise RuntimeError("a bug")

    monkeypatch.setattr(NextToken, "gradients", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        train(spec, run_dir=tmp_path, events=quiet())


def test_a_running_run_names_its_process_and_how_it_was_started(
    spec: TrainSpec, tmp_path: Path
) -> None:
    seen: list[int | None] = []

    def look(event: dict[str, Any]) -> None:
        if event["type"] == "metric" and event["kind"] == "train" and event["step"] == 1:
            seen.append(owner_of(tmp_path / ".lock"))
            assert read_settings(tmp_path).spec == short

    short = spec.model_copy(update={"max_steps": 2})
    train(short, run_dir=tmp_path, events=quiet(look))
    assert seen == [os.getpid()]
    assert owner_of(tmp_path / ".lock") is None


def test_the_stop_file_stops_a_run_with_a_checkpoint(
    spec: TrainSpec, whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "stop").write_text("now")  # meant for an earlier process

    def ask(event: dict[str, Any]) -> None:
        if event["type"] == "metric" and event["kind"] == "train" and event["step"] == 4:
            (tmp_path / "stop").write_text("now")

    with pytest.raises(StopAsked):
        train(spec, run_dir=tmp_path, events=quiet(ask))
    assert not (tmp_path / "stop").exists()
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found[1].step == 4
    states = [event["state"] for event in read_events(tmp_path / "events.jsonl", "state")]
    assert states == ["started", "stopped"]
    train(spec, run_dir=tmp_path, events=quiet())
    assert losses(tmp_path) == losses(whole)


def test_a_stop_for_this_process_is_obeyed_though_it_came_before_the_lock(
    spec: TrainSpec, tmp_path: Path
) -> None:
    (tmp_path / "stop").write_text(f"now {os.getpid()}")
    with pytest.raises(StopAsked):
        train(spec, run_dir=tmp_path, events=quiet())
    (tmp_path / "stop").write_text(f"now {os.getpid() + 1}")
    assert train(spec, run_dir=tmp_path, events=quiet()).metrics["steps"] == 10


def test_as_many_checkpoints_are_kept_as_the_recipe_says(spec: TrainSpec, tmp_path: Path) -> None:
    def stop(event: dict[str, Any]) -> None:
        if event["type"] == "metric" and event["kind"] == "train" and event["step"] == 9:
            raise KeyboardInterrupt

    many = spec.model_copy(update={"keep_checkpoints": 3, "save_every_steps": 2})
    with pytest.raises(KeyboardInterrupt):
        train(many, run_dir=tmp_path, events=quiet(stop))
    steps = [int(p.name.removeprefix("step-")) for p in (tmp_path / "checkpoints").iterdir()]
    assert sorted(steps) == [6, 8, 9]


def test_a_failure_stands_in_the_runs_events(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        train(make_spec(base, data, cutoff_len=8), run_dir=tmp_path, events=quiet())
    (event,) = read_events(tmp_path / "events.jsonl", "state")
    assert (event["state"], event["code"]) == ("failed", "train.no_label")
    assert "cutoff_len" in event["hint"]
