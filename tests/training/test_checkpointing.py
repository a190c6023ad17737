from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from slipway.core.errors import UsageError
from slipway.core.events import EventLog
from slipway.datasets import Encoded
from slipway.training import lora, train
from slipway.training.batch import batches, losses
from slipway.training.checkpointing import compute_twice, is_wanted
from slipway.training.estimate.parts import Estimate, Memory, Seconds, Work
from slipway.training.estimate.peak import AllocationPeak
from slipway.training.spec import TrainSpec

CPU = torch.device("cpu")


def rows() -> list[Encoded]:
    draw = torch.Generator().manual_seed(5)
    made = []
    for number in range(6):
        ids = torch.randint(0, 300, (120,), generator=draw).tolist()
        made.append(Encoded(str(number), ids, [-100] * 100 + ids[100:]))
    return made


def learn(base: Path, method: str, dropout: float, twice: bool) -> tuple[Any, dict[str, Any], int]:
    from slipway.training.model import load_base

    model = load_base(base, torch.float32, CPU)
    torch.manual_seed(0)
    if method == "lora":
        lora.attach(model, rank=4, alpha=8.0, dropout=dropout, target="all")
        for _, layer in lora.adapters(model):
            torch.nn.init.normal_(layer.lora_b, std=0.05)
    else:
        model.requires_grad_(True)
    if twice:
        compute_twice(model)
    model.train()
    ((_, batch),) = batches(rows(), 1 << 20, CPU)
    counter = AllocationPeak()
    counter.ignore([list(model.parameters()), list(model.buffers())])
    with counter:
        loss = losses(model, batch).mean()
        loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients, counter.peak


@pytest.mark.parametrize(("method", "dropout"), [("lora", 0.0), ("lora", 0.1), ("full", 0.0)])
def test_activations_computed_twice_are_the_same_to_the_bit_in_less_memory(
    method: str, dropout: float, base: Path
) -> None:
    loss, gradients, peak = learn(base, method, dropout, twice=False)
    same_loss, same_gradients, lower = learn(base, method, dropout, twice=True)
    assert torch.equal(loss, same_loss)
    assert gradients.keys() == same_gradients.keys()
    assert all(torch.equal(gradients[name], same_gradients[name]) for name in gradients)
    assert lower < 0.9 * peak


def test_a_model_that_cannot_is_named() -> None:
    with pytest.raises(UsageError, match="twice") as error:
        compute_twice(torch.nn.Linear(2, 2))
    assert error.value.code == "train.no_checkpointing"


def foreseen(checkpointing: bool) -> Estimate:
    work = Work(1, 1.0, 1, 1, 1, [0], [0])
    return Estimate(Memory(1, 1, 0, 1, 1, 1, 1), Seconds(0, 0, 1, 0, 0), work, 1, 1, checkpointing)


def test_auto_does_as_foreseen_and_a_run_that_goes_on_as_it_did(tmp_path: Path) -> None:
    auto = TrainSpec(model="m", data="d")
    path = tmp_path / "events.jsonl"
    assert [is_wanted(auto, foreseen(found), path) for found in (True, False)] == [True, False]
    assert not is_wanted(auto, None, path)
    events = EventLog(path)
    for found in (False, True):
        events.emit("log", message="base", checkpointing=found)
        assert is_wanted(auto, None, path) is found
    for word, found in (("on", True), ("off", False)):
        fixed = auto.model_copy(update={"checkpointing": word})
        assert is_wanted(fixed, foreseen(not found), path) is found


def test_a_run_that_does_not_fit_computes_twice_and_tells(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway.training.estimate import make

    monkeypatch.setattr(make, "available_memory_bytes", lambda: 0)
    told: list[dict[str, Any]] = []
    spec = TrainSpec(model=str(base), data=str(data), max_steps=1, epochs=1)
    train(spec, run_dir=tmp_path / "run", events=EventLog(None, told.append))
    assert [e["checkpointing"] for e in told if "checkpointing" in e] == [True]
    (estimated,) = (e["estimate"] for e in told if "estimate" in e)
    assert estimated["checkpointing"] is True
