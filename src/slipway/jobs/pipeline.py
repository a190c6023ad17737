"""A pipeline of stages that remembers what is done.

A stage is run again only when the digest of its inputs changed or when what it made is no longer
there. The record of a stage is written (atomically) after the stage has finished, and a stage
makes its artefact with a rename as its last step; so a process killed at any moment continues at
the stage it was in, and a stage that can resume itself (training) does so.

    stage state:  new -> running -> done
                         running -> new      killed or failed: no record was written
                  done -> new                inputs changed, output missing, or `--fresh`
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from slipway.core.errors import ConflictError
from slipway.core.events import EventLog
from slipway.core.files import sha256_json, write_json
from slipway.core.i18n import Text, tr

Outputs = dict[str, Any]
Results = dict[str, Outputs]


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a pipeline.

    Attributes:
        name: stable identifier, used in the record and in the report.
        title: what the stage does, for people.
        inputs: from the earlier stages' outputs to a JSON value; its digest decides whether the
            stage must run again. Paths alone are not inputs: name digests.
        run: does the work and returns a JSON object that later stages read.
        intact: whether the outputs of an earlier run are still there and usable.
        always: run at every start (services, reports); never taken from the record.
        keep_when_fresh: a download or a build; `fresh` does not throw it away.
    """

    name: str
    title: Text
    inputs: Callable[[Results], Any]
    run: Callable[[Results], Outputs]
    intact: Callable[[Outputs], bool] = lambda outputs: True
    always: bool = False
    keep_when_fresh: bool = False


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What is remembered of a finished stage. `seconds` is the time when it really ran."""

    name: str
    inputs_digest: str
    outputs: Outputs
    seconds: float
    cached: bool = False


StageState = Literal["start", "done", "cached"]
Observer = Callable[[StageState, str, Stage, StageRecord | None], None]
"""Told (state, place such as " 3/13", stage, record) when a stage starts, ends or is kept."""


class Pipeline:
    """Runs stages in order with a record in `folder/pipeline.json`."""

    def __init__(
        self,
        folder: Path,
        stages: Sequence[Stage],
        *,
        events: EventLog | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.folder = folder
        self.stages = list(stages)
        self._record_path = folder / "pipeline.json"
        self._events = events or EventLog(folder / "events.jsonl")
        self._observer = observer or (lambda state, place, stage, record: None)

    def run(
        self, *, fresh: bool = False, forget: Callable[[], None] = lambda: None
    ) -> list[StageRecord]:
        """Run what must be run and return a record for each stage, in order.

        Args:
            fresh: forget earlier records, except of stages that keep their work.
            forget: with `fresh`, removes earlier products; called while no other process can
                run this pipeline.

        Raises:
            ConflictError: another process runs this pipeline.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with _exclusive(self.folder / "pipeline.lock"):
            known = self._load()
            if fresh:
                keep = {stage.name for stage in self.stages if stage.keep_when_fresh}
                known = {name: record for name, record in known.items() if name in keep}
                self._save(known)
                forget()
            results: Results = {}
            done: list[StageRecord] = []
            for index, stage in enumerate(self.stages):
                record = self._run_stage(index, stage, results, known)
                results[stage.name] = record.outputs
                done.append(record)
            return done

    def _run_stage(
        self, index: int, stage: Stage, results: Results, known: dict[str, StageRecord]
    ) -> StageRecord:
        place = f"{index + 1:>2}/{len(self.stages)}"
        digest = sha256_json(stage.inputs(results))
        old = known.get(stage.name)
        if old and not stage.always and old.inputs_digest == digest and stage.intact(old.outputs):
            record = StageRecord(stage.name, digest, old.outputs, old.seconds, cached=True)
            self._events.emit("state", stage=stage.name, state="cached")
            self._observer("cached", place, stage, record)
            return record
        self._events.emit("state", stage=stage.name, state="start")
        self._observer("start", place, stage, None)
        began = time.monotonic()
        outputs = stage.run(results)
        record = StageRecord(stage.name, digest, outputs, round(time.monotonic() - began, 3))
        known[stage.name] = record
        self._save(known)
        self._events.emit("state", stage=stage.name, state="done", seconds=record.seconds)
        self._observer("done", place, stage, record)
        return record

    def _load(self) -> dict[str, StageRecord]:
        try:
            raw = json.loads(self._record_path.read_text(encoding="utf-8"))
            return {name: StageRecord(**record) for name, record in raw.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _save(self, records: dict[str, StageRecord]) -> None:
        write_json(self._record_path, {name: asdict(record) for name, record in records.items()})


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold an advisory lock; the kernel drops it when the process dies."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConflictError(
                "pipeline.busy",
                tr("another process works in {folder}", folder=str(path.parent)),
                tr("wait for it to end, or choose another folder with `SLIPWAY_HOME`"),
            ) from None
        yield
