"""Those who listen while a run goes on: the diagnosis, the live picture, and the sinks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from slipway.core.errors import ResourceError, SlipwayError
from slipway.core.events import EventLog, read_events
from slipway.core.hardware import probe
from slipway.training.curve import draw_curve
from slipway.training.diagnose import (
    Finding,
    Watch,
    check_memory,
    check_rate,
    check_trainable,
    check_truncation,
    out_of_memory,
)
from slipway.training.folder import CURVE, EVENTS
from slipway.training.obeyed import NOT_YET
from slipway.training.report_to import open_sinks
from slipway.training.spec import Resolved, TrainSpec

LIVE_EVERY_S = 10.0  # between pictures, however often evals come


@contextmanager
def observed(resolved: Resolved, run_dir: Path, events: EventLog) -> Iterator[None]:
    """Let diagnosis, picture and sinks listen to a run's events while the block runs.

    Raises:
        ResourceError: a package that `report_to` needs is not installed, or memory ran out.
        ProofError: the diagnosis ends the run.
    """
    spec = resolved.spec
    config = {key: setting.value for key, setting in resolved.settings().items()}
    name = spec.label or run_dir.name
    with open_sinks(spec.report_to, events, run_dir, name=name, config=config):
        diagnosis = Diagnosis(spec, run_dir, events)
        events.subscribe(diagnosis.listen)
        events.subscribe(live_picture(run_dir, title_of(spec)))
        diagnosis.look_at_recipe()
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            from slipway.training.memory import is_out_of_memory

            if not is_out_of_memory(error):
                raise
            raise diagnosis.out_of_memory(str(error)) from error


def title_of(spec: TrainSpec) -> str:
    """What stands above a run's curves."""
    return spec.label or f"{Path(spec.model).name} + {Path(spec.sources[0].path).name}"


class Diagnosis:
    """Watches a run's events; tells each finding once, and ends the run where it must."""

    def __init__(self, spec: TrainSpec, run_dir: Path, events: EventLog) -> None:
        self._spec, self._events = spec, events
        self._watch = Watch(stage=spec.stage, max_grad_norm=spec.max_grad_norm)
        for event in read_events(run_dir / EVENTS):  # of the parts before a resume
            self._watch.observe(event)
        self._device = "cpu"
        self._total = memory_limit(self._device)
        self._fixed = self._used = 0  # bytes

    def look_at_recipe(self) -> None:
        """What can be known before anything is loaded."""
        spec = self._spec
        self._tell(
            check_rate(
                spec.learning_rate,
                stage=spec.stage,
                method=spec.method,
                optimizer=spec.optimizer,
            )
        )

    def listen(self, event: dict[str, Any]) -> None:
        """Look at one event.

        Raises:
            ProofError: the run cannot recover from what it shows.
        """
        if event["type"] == "log" and "trained_weights" in event:
            # loaded, and nothing computed yet
            self._fixed = int(psutil.Process().memory_info().rss)
            self._device = str(event.get("device", "cpu"))
            self._total = memory_limit(self._device)
            self._tell(check_trainable(int(event["trained_weights"]), method=self._spec.method))
        if event["type"] == "log" and "truncated" in event:
            self._tell(
                check_truncation(
                    int(event["truncated"]),
                    int(event["documents"]),
                    self._spec.cutoff_len,
                    int(event["longest"]),
                )
            )
        for finding in self._watch.observe(event):
            self._tell(finding, known=True)
        if (
            event["type"] == "metric"
            and event.get("memory_bytes")
            and event.get("device") != "cuda"
        ):
            spec, self._used = self._spec, int(event["memory_bytes"])
            self._tell(
                check_memory(
                    self._used,
                    self._total,
                    pack_tokens=min(spec.pack_tokens, spec.batch_tokens),
                    fixed=self._fixed,
                )
            )

    def out_of_memory(self, message: str) -> ResourceError:
        """The error for an allocator that has nothing left; `message` is its own."""
        spec = self._spec
        used = int(psutil.Process().memory_info().rss) if self._device == "cpu" else self._used
        return out_of_memory(
            message,
            used=max(used, self._fixed),
            limit=self._total,
            fixed=self._fixed,
            pack_tokens=min(spec.pack_tokens, spec.batch_tokens),
            offers=self._offers(),
        )

    def _offers(self) -> list[str]:
        """Keys that save memory, that the recipe does not use, and that training obeys."""
        spec = self._spec
        unused = {
            "checkpointing": spec.checkpointing != "on",
            "quant.bits": spec.quant.bits is None and spec.method in ("lora", "oft"),
        }
        return [key for key, free in unused.items() if free and key not in NOT_YET]

    def _tell(self, finding: Finding | None, *, known: bool = False) -> None:
        if finding is None or (not known and finding.code in self._watch.told):
            return
        self._watch.told.add(finding.code)
        self._events.emit("diagnosis", **finding.as_event())
        if finding.severity == "stop":
            raise finding.as_error()


def memory_limit(device: str) -> int:
    """Bytes a process may use on a device: of the machine or container, or of the first GPU."""
    hardware = probe()
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            return min(soft, hardware.memory_bytes)
    if device.startswith("cuda") and hardware.accelerators:
        return hardware.accelerators[0].memory_bytes
    return hardware.memory_bytes


def live_picture(run_dir: Path, title: str) -> Callable[[dict[str, Any]], None]:
    """A listener that draws the run's curves at its evals, at most every `LIVE_EVERY_S`."""
    drawn = [time.monotonic()]

    def listen(event: dict[str, Any]) -> None:
        is_eval = event["type"] == "metric" and event.get("kind") == "eval"
        if not is_eval or time.monotonic() - drawn[0] < LIVE_EVERY_S:
            return
        with suppress(SlipwayError):  # no matplotlib, or a full disk: the run itself says so
            draw_curve(run_dir / EVENTS, run_dir / CURVE, title=title)
        drawn[0] = time.monotonic()

    return listen
