"""Results that survive a kill: each measured part is a small file, kept while its inputs stand."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slipway.core.events import EventLog
from slipway.core.files import sha256_json, write_json


@dataclass(slots=True)
class Parts:
    """The parts of one evaluation.

    Attributes:
        folder: where the part files are.
        log: receives "progress" events with `stage` "eval", `part` and `fraction` of all parts.
        total: how many parts there will be.
        seconds: part -> seconds it took when it was measured.
        stage: what the events call the whole.
    """

    folder: Path
    log: EventLog
    total: int
    seconds: dict[str, float] = field(default_factory=dict)
    stage: str = "eval"

    def get(self, name: str, inputs: Any, measure: Callable[[], Any]) -> Any:
        """The part's value: from its file when it was measured from the same inputs, else new.

        Args:
            name: unique, such as "Q4_K_M.kld"; becomes the file's name.
            inputs: JSON value of everything the result depends on.
            measure: makes the value, which must be a JSON value.
        """
        path = self.folder / f"{name}.json"
        key = sha256_json(inputs)
        self.log.emit(
            "progress",
            stage=self.stage,
            part=name,
            fraction=min(1.0, len(self.seconds) / max(1, self.total)),
        )
        kept = self._read(path, key)
        if kept is None:
            started = time.monotonic()
            value = measure()
            kept = {"key": key, "seconds": round(time.monotonic() - started, 2), "value": value}
            write_json(path, kept)
        self.seconds[name] = kept["seconds"]
        return kept["value"]

    def has(self, name: str, inputs: Any) -> bool:
        """Whether the part is there already."""
        return self._read(self.folder / f"{name}.json", sha256_json(inputs)) is not None

    @staticmethod
    def _read(path: Path, key: str) -> dict[str, Any] | None:
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return kept if isinstance(kept, dict) and kept.get("key") == key else None
