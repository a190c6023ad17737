"""A model split over processes: what files of accelerate and DeepSpeed ask, and the same run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from slipway.core.errors import InputError, UsageError
from slipway.core.events import EventLog, read_events
from slipway.training import TrainSpec, train
from slipway.training.sharding import read_sharding
from slipway.training.sharding.choose import sharding_for
from slipway.training.sharding.split import clip_
from slipway.training.world import World

FSDP = {
    "distributed_type": "FSDP",
    "mixed_precision": "bf16",
    "fsdp_config": {"fsdp_version": 2, "fsdp_reshard_after_forward": True},
}


def zero(stage: int, **more: Any) -> dict[str, Any]:
    return {"zero_optimization": {"stage": stage, **more}, "bf16": {"enabled": "auto"}}


def spec_of(folder: Path, key: str, value: Any, **values: Any) -> TrainSpec:
    path = folder / ("config.json" if key == "deepspeed" else "config.yaml")
    path.write_text(json.dumps(value) if key == "deepspeed" else yaml.safe_dump(value))
    return TrainSpec(model="m", data="d", **{"method": "full", key: str(path), **values})


@pytest.mark.parametrize(
    ("key", "value", "split", "reshard", "offload"),
    [
        ("fsdp", FSDP, True, True, False),
        ("fsdp", {"fsdp_config": {"fsdp_sharding_strategy": "FULL_SHARD"}}, True, True, False),
        ("fsdp", {"fsdp_config": {"fsdp_sharding_strategy": 2}}, True, False, False),
        ("fsdp", {"fsdp_config": {"fsdp_sharding_strategy": "NO_SHARD"}}, False, True, False),
        ("fsdp", {"fsdp_offload_params": True}, True, True, True),
        ("deepspeed", zero(0), False, False, False),
        ("deepspeed", zero(2), True, False, False),
        ("deepspeed", zero(3), True, True, False),
        ("deepspeed", zero(3, offload_param={"device": "cpu"}), True, True, True),
    ],
)
def test_files_of_accelerate_and_deepspeed_say_what_is_split(
    key: str, value: Any, split: bool, reshard: bool, offload: bool, tmp_path: Path
) -> None:
    found = read_sharding(spec_of(tmp_path, key, value))
    assert found is not None
    assert (found.split, found.offload) == (split, offload)
    assert not split or found.reshard == reshard


def test_keys_that_the_recipe_decides_are_told(tmp_path: Path) -> None:
    found = read_sharding(spec_of(tmp_path, "deepspeed", zero(2)))
    assert found is not None
    assert ["bf16" in str(note) for note in found.notes] == [True]


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("deepspeed", {**zero(2), "optimizer": {"type": "Adam"}}, "optimizer"),
        ("deepspeed", zero(3, offload_param={"device": "nvme"}), "nvme"),
        ("deepspeed", zero(7), "stage"),
        ("fsdp", {"fsdp_config": {"fsdp_sharding_strategy": "SIDEWAYS"}}, "SIDEWAYS"),
        ("fsdp", {"distributed_type": "DEEPSPEED"}, "DEEPSPEED"),
    ],
)
def test_what_is_not_done_is_refused_by_name(
    key: str, value: Any, named: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=named):
        read_sharding(spec_of(tmp_path, key, value))


def test_a_file_that_holds_no_keys_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.yaml"):
        read_sharding(spec_of(tmp_path, "fsdp", ["a"]))
    spec = spec_of(tmp_path, "fsdp", FSDP)
    Path(str(spec.fsdp)).write_text("{")
    with pytest.raises(InputError, match=r"config\.yaml"):
        read_sharding(spec)


def test_one_process_has_nothing_to_split_and_says_so(tmp_path: Path) -> None:
    logs: list[dict[str, Any]] = []
    spec = spec_of(tmp_path, "deepspeed", zero(3), method="lora")
    assert sharding_for(spec, World(), EventLog(None, logs.append)) is None
    assert "one process" in logs[-1]["message"]


def test_a_base_under_an_adapter_is_not_split(tmp_path: Path) -> None:
    events = EventLog(None)
    with pytest.raises(UsageError, match="adapter"):
        sharding_for(spec_of(tmp_path, "deepspeed", zero(3), method="lora"), World(0, 2), events)
    two = spec_of(tmp_path, "deepspeed", zero(2), method="lora")
    assert sharding_for(two, World(0, 2), events) is None  # what is trained is small
    with pytest.raises(UsageError, match="dpo"):
        sharding_for(spec_of(tmp_path, "fsdp", FSDP, stage="dpo"), World(0, 2), events)


def test_clipping_is_that_of_torch() -> None:
    ours = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))]
    theirs = [torch.nn.Parameter(torch.zeros_like(p)) for p in ours]
    for one, other in zip(ours, theirs, strict=True):
        one.grad = torch.randn_like(one)
        other.grad = one.grad.clone()
    norm = clip_(ours, 0.5)
    assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(theirs, 0.5)))
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.slow
@pytest.mark.parametrize(("key", "config"), [("fsdp", FSDP), ("deepspeed", zero(2))])
def test_a_split_model_takes_the_steps_of_a_whole_one_and_resumes(
    key: str, config: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    recipe = {
        "model": str(base),
        "data": str(data),
        "method": "full",
        "batch_rows": 23,  # of 24, so that every second step leaves one process without a row
        "pack_tokens": 100,
        "learning_rate": 0.003,
        "max_steps": 6,
        "epochs": 50.0,
        "save_every_steps": 2,
        "keep_best": True,
        "sample_prompts": ["can i return my cup"],
        "threads": 1,
        "dtype": "fp32",
    }
    train(TrainSpec(**recipe), run_dir=tmp_path / "one", events=EventLog(None))
    file = spec_of(tmp_path, key, config)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe, key: getattr(file, key)}))
    run_dir = tmp_path / "two"
    words = ["train", str(path), "--run-dir", str(run_dir), "--processes", "2"]
    command = [sys.executable, "-m", "slipway", *words]
    killed = subprocess.Popen(command)
    while len(told(run_dir)) < 3:
        assert killed.poll() is None
    for child in children_of(killed.pid):
        child.kill()
    killed.wait(timeout=60)
    subprocess.run(command, check=True, timeout=240)
    by_step = {event["step"]: event for event in told(run_dir)}
    alone = {event["step"]: event for event in told(tmp_path / "one")}
    for name in ("loss", "grad_norm"):
        ours = [by_step[step][name] for step in sorted(by_step)]
        assert ours == pytest.approx([alone[step][name] for step in sorted(alone)], abs=1e-3)
    after = load_file(run_dir / "model" / "model.safetensors")
    wanted = load_file(tmp_path / "one" / "model" / "model.safetensors")
    for name, tensor in wanted.items():
        torch.testing.assert_close(after[name], tensor, atol=1e-3, rtol=1e-3)


def told(run_dir: Path) -> list[dict[str, Any]]:
    events = read_events(run_dir / "events.jsonl", "metric")
    return [event for event in events if event["kind"] == "train"]


def children_of(pid: int) -> list[Any]:
    import psutil

    return psutil.Process(pid).children()
