from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from slipway.core.errors import ProofError
from slipway.core.events import EventLog, read_events
from slipway.core.i18n import catalogue
from slipway.training import LoraSpec, TrainSpec, checkpoint, train
from slipway.training.diagnose import (
    Finding,
    Watch,
    asked_bytes,
    check_memory,
    check_rate,
    check_trainable,
    check_truncation,
    eval_rises,
    loss_is_zero,
    out_of_memory,
    rate_range,
    smaller_pack,
    was_killed_for_memory,
    words_of,
)
from slipway.training.diagnose_words import CODES
from slipway.training.trainer import Trainer


def spec_of(base: Path, data: Path, **values: Any) -> TrainSpec:
    settings: dict[str, Any] = {
        "model": str(base),
        "data": str(data),
        "lora": LoraSpec(rank=4, alpha=8.0),
        "batch_tokens": 256,
        "learning_rate": 1e-3,
        "max_steps": 60,
        "epochs": 100.0,
        "threads": 1,
        "dtype": "fp32",
        **values,
    }
    return TrainSpec(**settings)


def findings(run_dir: Path) -> list[str]:
    return [event["code"] for event in read_events(run_dir / "events.jsonl", "diagnosis")]


def feed(watch: Watch, losses: list[float], **values: Any) -> list[Finding]:
    found = []
    for step, loss in enumerate(losses, 1):
        event = {"type": "metric", "kind": "train", "step": step, "loss": loss, **values}
        found += watch.observe(event)
    return found


# for real, with a tiny model


def sharp(base: Path, folder: Path) -> Path:
    """The tiny model with logits eight times as large: it can be very wrong."""
    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 8
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_loss_that_explodes_ends_the_run_with_its_last_checkpoint(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Trainer.step

    def blown(self: Trainer, *arguments: Any) -> Any:
        result = original(self, *arguments)
        done.append(1)
        if len(done) >= 25:
            with torch.no_grad():
                for parameter in self.parameters:
                    parameter.normal_(std=10.0)
        return result

    done: list[int] = []
    monkeypatch.setattr(Trainer, "step", blown)
    spec = spec_of(
        sharp(base, tmp_path / "sharp"), data, learning_rate=0.02, save_every_steps=20, max_steps=90
    )
    run_dir = tmp_path / "run"
    with pytest.raises(ProofError) as caught:
        train(spec, run_dir=run_dir, events=EventLog(None))
    assert caught.value.code == "train.loss_exploded"
    assert "learning_rate" in caught.value.hint_en
    assert findings(run_dir) == ["rate_too_high", "loss_exploded"]
    (*_, last) = read_events(run_dir / "events.jsonl", "state")
    assert (last["state"], last["code"]) == ("failed", "train.loss_exploded")
    found = checkpoint.latest(run_dir)
    assert found is not None
    assert found[1].step == 20
    assert not (run_dir / "manifest.json").exists()


def test_a_rate_far_too_low_is_told_and_then_the_loss_that_does_not_fall(
    base: Path, data: Path, tmp_path: Path
) -> None:
    train(
        spec_of(base, data, learning_rate=1e-8, max_steps=45),
        run_dir=tmp_path,
        events=EventLog(None),
    )
    assert findings(tmp_path) == ["rate_too_low", "loss_stands_still"]


def test_learning_by_heart_is_seen_in_the_eval_loss(base: Path, data: Path, tmp_path: Path) -> None:
    from tests.training.conftest import write_rows

    write_rows(tmp_path / "few" / "train.jsonl", range(2))
    write_rows(tmp_path / "few" / "heldout.jsonl", range(103, 107))
    spec = spec_of(
        base,
        tmp_path / "few",
        learning_rate=0.02,
        schedule="constant",
        max_steps=60,
        eval_every=6,
        lora=LoraSpec(rank=32, alpha=64.0),
    )
    train(spec, run_dir=tmp_path / "run", events=EventLog(None))
    assert "eval_rises" in findings(tmp_path / "run")


def test_a_loss_of_zero_ends_the_run(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As fp16 that flushes to zero, or labels that were lost, would give it."""
    monkeypatch.setattr(
        "slipway.training.objectives.next_token.losses",
        lambda model, batch, scale=1.0: (
            torch.zeros(len(batch.targets))
            * next(p for p in model.parameters() if p.requires_grad).sum()
        ),
    )
    with pytest.raises(ProofError) as caught:
        train(spec_of(base, data, max_steps=10), run_dir=tmp_path, events=EventLog(None))
    assert caught.value.code == "train.loss_zero"


def test_a_healthy_run_has_no_findings(base: Path, data: Path, tmp_path: Path) -> None:
    train(spec_of(base, data, learning_rate=2e-3), run_dir=tmp_path, events=EventLog(None))
    # Whether steps became slow is the machine's affair: another program may run beside the tests.
    assert [code for code in findings(tmp_path) if code != "speed_collapsed"] == []


def test_a_finding_is_told_once_also_over_a_resume(base: Path, data: Path, tmp_path: Path) -> None:
    def stop(event: dict[str, Any]) -> None:
        if event["type"] == "metric" and event["kind"] == "train" and event["step"] == 2:
            raise KeyboardInterrupt

    spec = spec_of(base, data, learning_rate=1e-8, max_steps=4)
    with pytest.raises(KeyboardInterrupt):
        train(spec, run_dir=tmp_path, events=EventLog(None, stop))
    train(spec, run_dir=tmp_path, events=EventLog(None))
    assert findings(tmp_path) == ["rate_too_low"]


def test_a_trainer_that_leaves_nothing_to_train_is_stopped(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Trainer.prepare

    def untrained(self: Trainer, *arguments: Any) -> Any:
        self.events.emit("log", message="base", trained_weights=0, device="cpu")
        return original(self, *arguments)

    monkeypatch.setattr(Trainer, "prepare", untrained)
    with pytest.raises(ProofError, match="no weight to train"):
        train(spec_of(base, data, max_steps=2), run_dir=tmp_path, events=EventLog(None))


def test_rows_that_are_all_cut_are_told_with_the_length_they_need(
    base: Path, data: Path, tmp_path: Path
) -> None:
    spec = spec_of(base, data, cutoff_len=60, max_steps=2)
    train(spec, run_dir=tmp_path, events=EventLog(None))
    assert findings(tmp_path) == ["all_truncated"]
    (event,) = read_events(tmp_path / "events.jsonl", "diagnosis")
    longest = event["params"]["longest"]
    assert f"cutoff_len={longest}" in event["hint"]
    again = spec_of(base, data, cutoff_len=longest, max_steps=2)
    train(again, run_dir=tmp_path / "again", events=EventLog(None))
    assert findings(tmp_path / "again") == []


LIMITED = """
import json, resource, sys
from pathlib import Path
from slipway.core.errors import SlipwayError
from slipway.core.events import EventLog
from slipway.training import TrainSpec, train
import slipway.training.trainer, torch, psutil
def limit(event):
    if event["type"] == "log" and "total_steps" in event:  # loaded and measured
        room = psutil.Process().memory_info().vms + 30_000_000
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
try:
    train(TrainSpec.model_validate_json(sys.argv[1]), run_dir=Path(sys.argv[2]),
          events=EventLog(None, limit))
except SlipwayError as error:
    print(json.dumps(error.as_json()))
"""


def test_an_eval_loss_below_zero_rises_by_its_size_too() -> None:
    assert eval_rises([-0.500, -0.5005, -0.4990, -0.4980]) is None
    assert eval_rises([-0.2, -0.5, -0.4, -0.3]) is not None


@pytest.mark.slow
def test_memory_that_runs_out_for_real_is_told_with_what_to_change(
    base: Path, tmp_path: Path
) -> None:
    from tests.training.conftest import write_rows

    write_rows(tmp_path / "d" / "train.jsonl", range(400))
    spec = spec_of(base, tmp_path / "d", batch_tokens=30_000, pack_tokens=30_000, max_steps=3)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, spec.model_dump_json(), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=True,
    )
    error = json.loads(done.stdout)
    assert error["code"] == "train.out_of_memory"
    assert "GB more were asked for" in error["message"]
    better = int(re.findall(r"pack_tokens=(\d+)", error["hint"])[0])
    assert 64 <= better <= 15_000
    (*_, last) = read_events(tmp_path / "run" / "events.jsonl", "state")
    assert (last["state"], last["code"]) == ("failed", "train.out_of_memory")


# of values


def test_what_an_allocator_asked_for_is_read_from_its_message() -> None:
    cuda = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 24 GiB"
    assert asked_bytes(cuda) == 2.5 * 2**30
    cpu = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 12288000 bytes."
    assert asked_bytes(cpu) == 12_288_000
    assert asked_bytes("std::bad_alloc") is None


def test_advice_for_memory_depends_on_what_takes_it() -> None:
    sizes = {"used": 9 * 10**9, "limit": 10**10, "pack_tokens": 4096}
    asks = "tried to allocate 2000000000 bytes"
    both = ["checkpointing", "quant.bits"]
    error = out_of_memory(asks, fixed=10**9, offers=both, **sizes)
    assert "pack_tokens=2048" in error.hint_en and "checkpointing" in error.hint_en
    assert "checkpointing" not in out_of_memory(asks, fixed=10**9, **sizes).hint_en
    assert "quant.bits=4" in out_of_memory(asks, fixed=9 * 10**9, offers=both, **sizes).hint_en
    assert "slipway fit" in out_of_memory(asks, fixed=9 * 10**9, **sizes).hint_en


def test_every_pair_of_stage_and_method_has_a_range_or_none_on_purpose() -> None:
    for stage in ("pt", "sft", "dpo", "kto", "rm"):
        for method in ("lora", "full", "freeze", "oft"):
            limits = rate_range(stage, method)
            assert limits is not None
            assert 0 < limits[0] < limits[1]
    assert rate_range("grpo", "lora") is None


@pytest.mark.parametrize(
    ("rate", "stage", "method", "code"),
    [
        (1e-4, "sft", "lora", None),
        (2e-3, "sft", "lora", None),
        (1e-5, "sft", "full", None),
        (5e-6, "dpo", "lora", None),
        (1e-3, "sft", "full", "rate_too_high"),
        (1e-3, "dpo", "lora", "rate_too_high"),
        (1e-7, "sft", "lora", "rate_too_low"),
        (1e-9, "kto", "lora", "rate_too_low"),
        (5.0, "grpo", "lora", None),
    ],
)
def test_rates_are_judged_by_stage_and_method(
    rate: float, stage: str, method: str, code: str | None
) -> None:
    found = check_rate(rate, stage=stage, method=method)
    assert (found.code if found else None) == code
    assert check_rate(rate, stage=stage, method=method, optimizer="muon") is None


def test_rows_that_are_cut_matter_from_half_of_them_on() -> None:
    assert check_truncation(0, 0, 100, 0) is None
    assert check_truncation(4, 10, 100, 200) is None
    many, every = check_truncation(5, 10, 100, 200), check_truncation(10, 10, 100, 200)
    assert many is not None and many.code == "many_truncated"
    assert every is not None and every.code == "all_truncated"
    assert "cutoff_len=200" in every.remedy.en


def test_memory_advice_follows_from_what_was_measured() -> None:
    assert check_memory(10, 100, pack_tokens=2048) is None
    found = check_memory(19_000, 20_000, pack_tokens=2048, fixed=11_000)
    assert found is not None
    # 8,000 for 2,048 tokens; 15,000 - 11,000 leaves half of it
    assert found.params["better"] == 1024
    assert was_killed_for_memory(90, 100) is not None
    assert was_killed_for_memory(50, 100) is None
    assert was_killed_for_memory(None, 100) is None


@given(
    st.integers(64, 100_000), st.integers(0, 10**11), st.integers(0, 10**11), st.integers(0, 10**11)
)
def test_a_smaller_pack_is_smaller_and_usable(
    pack: int, used: int, wanted: int, fixed: int
) -> None:
    better = smaller_pack(pack, used, wanted, fixed)
    assert better >= 64
    assert better % 64 == 0
    assert better <= max(64, pack / 2)


def test_one_bad_batch_is_no_explosion_and_a_lasting_rise_is() -> None:
    assert feed(Watch(), [2.0] * 10 + [30.0] + [2.0] * 10) == []
    rises = feed(Watch(), [2.0] * 20 + [3.0] * 6)
    assert [finding.code for finding in rises] == ["loss_rises"]
    explodes = feed(Watch(), [2.0] * 20 + [9.0] * 6)
    assert [(f.code, f.severity) for f in explodes][-1] == ("loss_exploded", "stop")


def test_gradients_are_judged_against_the_usual_ones() -> None:
    watch = Watch(max_grad_norm=1.0)
    assert feed(watch, [2.0 - n / 100 for n in range(20)], grad_norm=0.8) == []
    event = {"type": "metric", "kind": "train", "step": 21, "loss": 1.7}
    assert watch.observe({**event, "grad_norm": 12.0}) == []
    (found,) = watch.observe({**event, "grad_norm": 40.0})
    assert (found.code, found.step) == ("gradient_exploded", 21)
    assert watch.observe({**event, "grad_norm": 90.0}) == []  # told once


def test_a_collapse_of_the_speed_is_told_and_a_pause_is_not() -> None:
    falling = [2.0 - n / 100 for n in range(30)]
    watch = Watch()
    assert feed(watch, falling, tokens_per_s=400.0) == []
    assert feed(watch, falling[:3], tokens_per_s=10.0) == []
    assert feed(watch, falling, tokens_per_s=400.0) == []
    assert [f.code for f in feed(watch, falling, tokens_per_s=100.0)] == ["speed_collapsed"]


def test_a_preference_loss_may_come_near_zero() -> None:
    assert loss_is_zero(deque([1e-9] * 5), "dpo") is None
    assert loss_is_zero(deque([1e-9] * 5), "sft") is not None


def test_an_eval_loss_rises_when_it_is_worse_than_the_best_twice_in_a_row() -> None:
    def run(losses: list[float]) -> list[str]:
        watch = Watch()
        found = []
        for step, loss in enumerate(losses):
            event = {"type": "metric", "kind": "eval", "step": step, "loss": loss}
            found += [finding.code for finding in watch.observe(event)]
        return found

    assert run([4.0, 2.0, 1.9, 1.91, 1.9]) == []
    assert run([4.0, 2.0, 2.1, 2.05]) == []
    assert run([4.0, 2.0, 2.1, 2.2, 2.4]) == ["eval_rises"]


@given(st.lists(st.floats(1.0, 3.0), min_size=60, max_size=60), st.integers(0, 10))
def test_noise_alone_never_ends_a_run(losses: list[float], seed: int) -> None:
    random.Random(seed).shuffle(losses)
    found = feed(Watch(), losses, grad_norm=1.0, tokens_per_s=100.0)
    assert all(finding.severity == "warning" for finding in found)


def test_every_code_has_words_in_both_languages_and_comes_back_from_its_event() -> None:
    values = {
        **dict.fromkeys(("rate", "low", "high", "loss", "start", "now", "norm", "usual"), 1.0),
        **dict.fromkeys(("before", "best", "used", "total"), 1e9),
        **dict.fromkeys(("truncated", "rows", "cutoff", "longest", "pack_tokens", "better"), 64),
        "stage": "sft",
        "method": "lora",
    }
    for code in CODES:
        event = Finding(code, values).as_event()
        cause, remedy = words_of(event)
        assert (str(cause), str(remedy)) == (event["message"], event["hint"])
        for text in (Finding(code, values).cause, Finding(code, values).remedy):
            assert text.msgid in catalogue()
    assert words_of({"message": "m", "hint": "h", "code": "unknown"}) == ("m", "h")
    assert check_trainable(5, method="lora") is None
