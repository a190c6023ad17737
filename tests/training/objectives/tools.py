"""What the tests of the stages share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from slipway.core.events import EventLog, read_events
from slipway.datasets import Encoded, load_tokenizer
from slipway.training import TrainSpec
from slipway.training.folder import StopAsked
from slipway.training.methods import Tuned, attach
from slipway.training.model import load_base
from slipway.training.objectives import Objective, Setting, make_objective
from slipway.training.token_sets import token_sets

CPU = torch.device("cpu")


def quiet(*listeners: Any) -> EventLog:
    return EventLog(None, *listeners)


def objective_of(
    spec: TrainSpec, setting: Setting | None = None
) -> tuple[Objective, Tuned, list[Encoded]]:
    base = Path(spec.model)
    rows, heldout = token_sets(spec, load_tokenizer(base))
    torch.manual_seed(0)
    tuned = attach(load_base(base, torch.float32, CPU), spec, torch.float32)
    return make_objective(spec, tuned, rows, heldout or [], setting), tuned, list(rows)


def moved(tuned: Tuned) -> None:
    """Give the trained weights values that training might have given them."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.parameters:
            parameter.add_(0.05 * torch.randn_like(parameter))


def gradient(tuned: Tuned) -> torch.Tensor:
    """The gradient, taken away."""
    found = [p.grad.clone().flatten() for p in tuned.parameters if p.grad is not None]
    for parameter in tuned.parameters:
        parameter.grad = None
    return torch.cat(found)


def plain_logps(model: Any, ids: list[int], labels: list[int]) -> torch.Tensor:
    """An answer's log-probability by transformers' own forward, unpacked."""
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
    wanted = torch.tensor(labels[1:])
    logs = torch.log_softmax(logits, -1).gather(1, wanted.clamp_min(0)[:, None])[:, 0]
    return logs[wanted != -100].sum()


def evals(run_dir: Path) -> list[dict[str, Any]]:
    events = read_events(run_dir / "events.jsonl", "metric")
    return [event for event in events if event["kind"] == "eval"]


def told(run_dir: Path, *names: str) -> dict[int, tuple[float, ...]]:
    """Loss and other numbers of each step."""
    return {
        event["step"]: (event["loss"], *(event[name] for name in names))
        for event in read_events(run_dir / "events.jsonl", "metric")
        if event["kind"] == "train"
    }


def stop_after(step: int) -> Any:
    def listen(event: dict[str, Any]) -> None:
        if event["type"] == "metric" and event.get("step") == step and event["kind"] == "train":
            raise StopAsked

    return listen
