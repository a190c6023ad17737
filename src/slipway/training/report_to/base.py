"""What a sink is, which numbers it gets, and how the ones a recipe names are opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from slipway.core.errors import missing_extra
from slipway.core.events import EventLog

# name in a recipe -> (module of ours, the package it stands on)
_SINKS = {
    "tensorboard": ("slipway.training.report_to.tensorboard", "tensorboard"),
    "swanlab": ("slipway.training.report_to.swanlab", "swanlab"),
    "wandb": ("slipway.training.report_to.wandb", "wandb"),
}
# event key -> name of the curve
_TRAIN = {
    "loss": "train/loss",
    "lr": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "tokens_per_s": "train/tokens_per_s",
    "memory_bytes": "train/memory_bytes",
    "epoch": "train/epoch",
}
_PLACES = frozenset({"type", "at", "kind", "step", "total_steps"})


class Sink(Protocol):
    """A place that gets numbers while a run goes on."""

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """Take the numbers of a step."""

    def text(self, step: int, name: str, text: str) -> None:
        """Take a text: a sample, a finding."""

    def close(self) -> None:
        """Write all that is not yet written."""


class Opener(Protocol):
    """How the module of a sink opens it."""

    def __call__(self, run_dir: Path, *, name: str, config: dict[str, Any]) -> Sink:
        """Open the sink of one run."""


def require_sinks(names: Sequence[str]) -> None:
    """Raise a ResourceError when the package of a sink is not installed."""
    for name in names:
        package = _SINKS[name][1]
        if find_spec(package) is None:
            raise missing_extra(package, name)


def numbers_of(event: dict[str, Any]) -> dict[str, float]:
    """The curves a metric event adds to: `train/loss`, `eval/loss`, and whatever else it has."""
    if event.get("type") != "metric":
        return {}
    prefix = str(event.get("kind", "train"))
    known = _TRAIN if prefix == "train" else {}
    return {
        known.get(key, f"{prefix}/{key}"): float(value)
        for key, value in event.items()
        if key not in _PLACES and isinstance(value, int | float) and not isinstance(value, bool)
    }


def listener(sink: Sink) -> Callable[[dict[str, Any]], None]:
    """A listener that hands a run's events to a sink."""

    def listen(event: dict[str, Any]) -> None:
        step = int(event.get("step") or 0)
        if event.get("type") == "metric":
            sink.numbers(step, numbers_of(event))
        elif event.get("type") == "sample":
            sink.text(step, "sample", f"{event.get('prompt')}\n\n{event.get('answer')}")
        elif event.get("type") == "diagnosis":
            sink.text(step, "diagnosis", f"{event.get('message')}\n\n{event.get('hint')}")

    return listen


@contextmanager
def open_sinks(
    names: Sequence[str], events: EventLog, run_dir: Path, *, name: str, config: dict[str, Any]
) -> Iterator[None]:
    """Let the sinks a recipe names listen to a run's events while the block runs.

    A sink that fails (no network, a full disk of theirs) is told of and left out; the run is
    worth more than its picture elsewhere.

    Args:
        name: what the run is called there.
        config: the run's settings, which are shown there.

    Raises:
        ResourceError: the package of one is not installed.
    """
    require_sinks(names)
    open_now: list[tuple[str, Sink]] = []
    for sink_name in dict.fromkeys(names):
        opener: Opener = import_module(_SINKS[sink_name][0]).open_sink
        try:
            sink = opener(run_dir, name=name, config=config)
        except Exception as error:
            _left_out(events, sink_name, error)
            continue
        open_now.append((sink_name, sink))
        events.subscribe(_careful(sink_name, listener(sink), events))
    try:
        yield
    finally:
        for sink_name, sink in open_now:
            try:
                sink.close()
            except Exception as error:
                _left_out(events, sink_name, error)


def _careful(
    name: str, listen: Callable[[dict[str, Any]], None], events: EventLog
) -> Callable[[dict[str, Any]], None]:
    broken: list[bool] = []

    def careful(event: dict[str, Any]) -> None:
        if broken:
            return
        try:
            listen(event)
        except Exception as error:
            broken.append(True)
            _left_out(events, name, error)

    return careful


def _left_out(events: EventLog, name: str, error: Exception) -> None:
    events.emit("log", message=f"report_to {name}: {error!r}; it gets no more of this run")
