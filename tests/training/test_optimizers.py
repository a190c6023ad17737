"""Optimisers: each learns, goes on exactly from its saved state, and takes the bytes foretold."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from slipway.core.errors import ResourceError, UsageError
from slipway.core.events import EventLog
from slipway.training import TrainSpec, train
from slipway.training.batch import batches, losses
from slipway.training.methods import Tuned, attach, make_optimizer
from slipway.training.methods.optimizer import state_bytes
from slipway.training.model import load_base
from slipway.training.tensor_file import read_tensors, write_tensors

CPU = torch.device("cpu")
# optimiser -> a rate that suits it on the tiny model
RATES = {
    "adamw": 3e-3,
    "adamw_8bit": 3e-3,
    "adafactor": 3e-3,
    "sgd": 0.3,
    "muon": 3e-3,
    "galore": 3e-3,
}


def make_spec(base: Path, optimizer: str, data: Path = Path("d"), **values: Any) -> TrainSpec:
    settings: dict[str, Any] = {
        "model": str(base),
        "data": str(data),
        "method": "full",
        "optimizer": optimizer,
        "learning_rate": RATES[optimizer],
        "weight_decay": 0.01,
        **values,
    }
    return TrainSpec(**settings)


@pytest.fixture(scope="module")
def batch() -> Any:
    from slipway.datasets import Encoded

    rows = [Encoded(str(n), list(range(5, 25 + n)), list(range(5, 25 + n))) for n in range(4)]
    ((_, found),) = batches(rows, 1000, CPU)
    return found


def steps(tuned: Tuned, optimizer: Any, batch: Any, count: int) -> list[float]:
    found = []
    for _ in range(count):
        optimizer.zero_grad(set_to_none=True)
        loss = losses(tuned.model, batch, 0.01).sum()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return found


def started(spec: TrainSpec, base: Path) -> tuple[Tuned, Any]:
    tuned = attach(load_base(base, torch.float32, CPU), spec, torch.float32)
    return tuned, make_optimizer(spec, tuned)


@pytest.mark.parametrize("name", RATES)
def test_an_optimizer_learns_and_goes_on_exactly(
    name: str, base: Path, batch: Any, tmp_path: Path
) -> None:
    spec = make_spec(base, name)
    tuned, optimizer = started(spec, base)
    first = steps(tuned, optimizer, batch, 3)
    kept = copy.deepcopy(tuned.state())
    write_tensors(tmp_path / "state", optimizer.state_dict())
    rest = steps(tuned, optimizer, batch, 3)
    assert rest[-1] < 0.9 * first[0]
    again, other = started(spec, base)
    again.load_state(kept, tmp_path)
    other.load_state_dict(read_tensors(tmp_path / "state"))
    assert steps(again, other, batch, 3) == rest
    for name_of, tensor in tuned.state().items():
        assert tensor.equal(again.state()[name_of])


@pytest.mark.parametrize("name", RATES)
def test_the_state_takes_the_bytes_foretold(name: str, base: Path, batch: Any) -> None:
    spec = make_spec(base, name)
    tuned, optimizer = started(spec, base)
    steps(tuned, optimizer, batch, 1)

    def count(value: Any) -> int:
        if isinstance(value, torch.Tensor):
            return value.nbytes if value.numel() > 256 or value.ndim > 1 else 0
        if isinstance(value, dict):
            # (the 8-bit tables are the same tensor for every weight)
            return sum(count(v) for key, v in value.items() if not str(key).startswith("qmap"))
        return sum(map(count, value)) if isinstance(value, list) else 0

    found = count(optimizer.state_dict())
    assert state_bytes(spec, tuned) == pytest.approx(found, rel=0.05, abs=30_000)


def test_every_group_has_its_ratio_and_norms_do_not_decay(base: Path) -> None:
    for name in RATES:
        tuned, optimizer = started(make_spec(base, name), base)
        groups = optimizer.param_groups
        assert {group["lr_ratio"] for group in groups} == {1.0}
        assert sum(len(group["params"]) for group in groups) == len(tuned.parameters)
        for group in groups:
            decays = {p.ndim > 1 for p in group["params"]}
            assert decays == {group["weight_decay"] > 0}


def test_muon_turns_matrices_and_leaves_tokens_to_adamw(base: Path) -> None:
    tuned, optimizer = started(make_spec(base, "muon"), base)
    muon = [g for g in optimizer.param_groups if "ns_steps" in g]
    ids = {id(p) for group in muon for p in group["params"]}
    embedding = tuned.model.get_input_embeddings().weight
    assert id(embedding) not in ids
    assert len(ids) == sum(p.ndim == 2 for p in tuned.parameters) - 1


def test_muon_and_8_bit_adamw_train_adapters_too(base: Path, batch: Any) -> None:
    for name in ("muon", "adamw_8bit", "adafactor"):
        spec = make_spec(base, name, method="lora", learning_rate=0.02)
        tuned, optimizer = started(spec, base)
        found = steps(tuned, optimizer, batch, 5)
        assert found[-1] < 0.97 * found[0]


def test_galore_is_not_for_adapters(base: Path) -> None:
    with pytest.raises(UsageError, match="galore"):
        started(make_spec(base, "galore", method="lora"), base)


@pytest.mark.parametrize(("name", "extra"), [("galore", "galore"), ("adamw_8bit", "qlora")])
def test_a_missing_package_is_named_with_its_extra(
    name: str, extra: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(base, name)
    tuned = attach(load_base(base, torch.float32, CPU), spec, torch.float32)
    monkeypatch.setattr(importlib.util, "find_spec", lambda module, *rest: None)
    with pytest.raises(ResourceError) as caught:
        make_optimizer(spec, tuned)
    assert f"slipway[{extra}]" in caught.value.hint_en


@pytest.mark.parametrize(
    "name",
    [
        "muon",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("adamw_8bit", "adafactor", "galore")),
    ],
)
def test_a_whole_run_resumes_to_the_same_weights(
    name: str, base: Path, data: Path, tmp_path: Path
) -> None:
    def stop(event: dict[str, Any]) -> None:
        if event["type"] == "metric" and event["kind"] == "train" and event["step"] == 4:
            raise KeyboardInterrupt

    settings = {"max_steps": 6, "save_every_steps": 3, "threads": 1, "dtype": "fp32"}
    spec = make_spec(base, name, data, batch_tokens=256, **settings)
    train(spec, run_dir=tmp_path / "whole", events=EventLog(None))
    with pytest.raises(KeyboardInterrupt):
        train(spec, run_dir=tmp_path / "cut", events=EventLog(None, stop))
    train(spec, run_dir=tmp_path / "cut", events=EventLog(None))
    file = "model/model.safetensors"
    assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
