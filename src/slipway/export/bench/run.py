"""Make the measurements of a grid, for one model or several, and keep each as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError, NotFoundError, ToolError
from slipway.core.files import locked, sha256_json
from slipway.core.i18n import Text, tr
from slipway.core.paths import Home
from slipway.export.bench.child import TimeUpError, Watched
from slipway.export.bench.grid import BenchSpec, Grid, Pace, Point, Setup, estimate_s, grid
from slipway.export.bench.machine import Load
from slipway.export.bench.records import Journal, Result, key_of
from slipway.export.bench.tools import (
    measure_pace,
    run_single,
    run_streams,
    run_streams_served,
)
from slipway.export.toolchain import Toolchain
from slipway.export.toolchain.cpu import stamp_here

_MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A model to measure: its name in tables and its GGUF file."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Failure:
    """A setup that did not run: model, setup, and why (English, from the tool)."""

    model: str
    setup: Setup
    why: str


@dataclass(slots=True)
class BenchReport:
    """What was measured.

    Attributes:
        results: in the order of the grid, those of an interrupted run before included.
        failures: setups that llama.cpp refused.
        grid: what was asked for.
        resumed: results that an interrupted run had made.
        missing: measurements not made because the time was over.
        load: the machine before the start.
        seconds: time taken.
        journal: the file with every result.
    """

    grid: Grid
    load: Load
    journal: Path
    results: list[Result] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    resumed: int = 0
    missing: int = 0
    seconds: float = 0.0


OnPace = Callable[[float, int, int], None]
"""Before the start: seconds it will take, measurements to make, results that are there already."""

OnResult = Callable[[Result, int, int], None]
"""After each measurement: the result, how many are there, how many there will be."""


def require_model(path: Path) -> None:
    """Refuse what is no GGUF before a minute is spent on it.

    Raises:
        NotFoundError: no such file.
        InputError: another kind of file, or an empty one.
    """
    if not path.is_file():
        raise NotFoundError(
            "file.not_found",
            tr("{path} does not exist", path=str(path)),
            tr("give a GGUF file, an artefact's folder, or a name:tag of `slipway list`"),
        )
    with path.open("rb") as file:
        if file.read(4) != _MAGIC:
            raise InputError(
                "bench.no_gguf",
                tr("{path} is no GGUF file", path=str(path)),
                tr("make one with `slipway convert MODEL`"),
            )


def journal_of(
    home: Home, models: Sequence[BenchModel], spec: BenchSpec, toolchain: Toolchain
) -> Journal:
    """The file in which this grid, of these files, by these tools, on this processor, is kept."""
    files = [
        [model.name, str(model.path.resolve()), (s := model.path.stat()).st_size, s.st_mtime_ns]
        for model in models
    ]
    tools = [str(toolchain.folder), toolchain.version, toolchain.variant, stamp_here()]
    name = sha256_json([files, asdict(spec), tools])[:16]
    return Journal(home.root / "bench" / f"{name}.jsonl")


def bench(
    models: Sequence[BenchModel],
    spec: BenchSpec,
    *,
    home: Home,
    toolchain: Toolchain,
    load: Load,
    on_pace: OnPace | None = None,
    on_result: OnResult | None = None,
    max_time_s: float | None = None,
    again: bool = False,
) -> BenchReport:
    """Measure every combination for every model.

    Each result is written to the home as it comes. When a run was interrupted, the same call goes
    on where it was; when it came to its end, everything is measured anew.

    Args:
        load: the machine as it was before, kept with the results.
        max_time_s: after so many seconds no more is measured.
        again: measure anew although an interrupted run is there.

    Raises:
        NotFoundError, InputError: a model is no GGUF file.
        UsageError: nothing to measure.
        ToolError: no setup of a model runs at all; the first failure is told.
    """
    started = time.monotonic()
    wanted = grid(spec)
    for model in models:
        require_model(model.path)
    journal = journal_of(home, models, spec, toolchain)
    with locked(journal.path):
        known = {} if again else {result.key: result for result in journal.unfinished()}
        if not known:
            journal.add("start", spec=asdict(spec), load=asdict(load), tools=_tools(toolchain))
        run = _Run(toolchain, spec, journal, known, on_result)
        run.total = len(models) * len(wanted.points)
        run.deadline = None if max_time_s is None else started + max_time_s
        _tell_pace(run, models, wanted, on_pace)
        for model in models:
            for setup, points in wanted.groups:
                run.group(model, setup, points)
        report = BenchReport(wanted, load, journal.path, failures=run.failures)
        every = [key_of(model.name, point) for model in models for point in wanted.points]
        report.results = [run.known[key] for key in every if key in run.known]
        report.resumed = run.resumed
        failed = {(failure.model, failure.setup) for failure in run.failures}
        report.missing = sum(
            key_of(model.name, point) not in run.known and (model.name, point.setup) not in failed
            for model in models
            for point in wanted.points
        )
        if not report.missing:
            journal.add("end")
    if not report.results and run.failures:
        raise ToolError("bench.failed", run.failures[0].why)
    report.seconds = time.monotonic() - started
    return report


def _tools(toolchain: Toolchain) -> dict[str, Any]:
    return {"version": toolchain.version, "variant": toolchain.variant}


def _tell_pace(
    run: _Run, models: Sequence[BenchModel], wanted: Grid, on_pace: OnPace | None
) -> None:
    """Estimate the time of what is to be measured, by a short run of each model."""
    seconds, count = 0.0, 0
    for model in models:
        left = [p for p in wanted.points if key_of(model.name, p) not in run.known]
        if left and on_pace:
            pace = run.pace(model, max((p.setup for p in left), key=lambda s: s.threads))
            seconds += estimate_s(left, pace, run.spec.repeat) if pace else 0.0
        count += len(left)
    if on_pace:
        on_pace(seconds, count, run.resumed)


class _Run:
    """One call of `bench`: what is known, and how the rest is measured."""

    def __init__(
        self,
        toolchain: Toolchain,
        spec: BenchSpec,
        journal: Journal,
        known: dict[str, Result],
        on_result: OnResult | None,
    ) -> None:
        self.toolchain = toolchain
        self.spec = spec
        self.known = dict(known)
        self.resumed = len(known)
        self.failures: list[Failure] = []
        self.total = 0
        self.deadline: float | None = None
        self._journal = journal
        self._on_result = on_result

    def pace(self, model: BenchModel, setup: Setup) -> Pace | None:
        """A short run; None when this setup does not run, which its group will tell."""
        try:
            return measure_pace(self.toolchain, model.path, setup)
        except (ToolError, KeyError):
            return None

    def group(self, model: BenchModel, setup: Setup, points: Sequence[Point]) -> None:
        """Measure the points of a setup that are not known yet, as far as time allows."""
        left = [p for p in points if key_of(model.name, p) not in self.known]

        def keep(point: Point, samples: list[float], prompts: list[float], seen: Watched) -> None:
            result = Result(
                model.name, point, tuple(samples), tuple(prompts), seen.peak_bytes, seen.others
            )
            if result.key in self.known:
                return  # llama-bench measures each length with each depth
            self.known[result.key] = result
            self._journal.add("result", **result.as_json())
            if self._on_result:
                self._on_result(result, len(self.known), self.total)

        single = [p for p in left if p.kind != "streams"]
        streams = [p for p in left if p.kind == "streams"]
        batched = (self.toolchain.bin / "llama-batched-bench").is_file()
        for chosen, measure in (
            (single, run_single),
            (streams, run_streams if batched else run_streams_served),
        ):
            remaining = None if self.deadline is None else self.deadline - time.monotonic()
            if not chosen or (remaining is not None and remaining <= 0):
                continue
            try:
                measure(
                    self.toolchain, model.path, setup, chosen, self.spec.repeat, keep, remaining
                )
            except TimeUpError:
                return
            except ToolError as error:
                self.failures.append(Failure(model.name, setup, error.message_en))


def why_left_out(grid: Grid) -> list[Text]:
    """The reasons for which combinations were left out, each once."""
    return list({why.en: why for _, why in grid.left_out}.values())
