"""Results, one JSON line each, kept as they come, so that an interrupted benchmark goes on."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slipway.core.errors import from_os_error
from slipway.core.files import sha256_json
from slipway.core.manifest import utc_now
from slipway.export.bench.grid import Point, Setup


@dataclass(frozen=True, slots=True)
class Result:
    """One measurement.

    Attributes:
        model: name of the model.
        point: what was measured.
        samples: tokens per second of each repetition; of all streams together.
        prompt_samples: for streams, tokens per second of reading their prompts; else ().
        memory_bytes: most memory that the process had resident up to then (mapped weights count).
        others: share of the processor (0..1) that other programs took meanwhile; None: not known.
    """

    model: str
    point: Point
    samples: tuple[float, ...]
    prompt_samples: tuple[float, ...]
    memory_bytes: int | None
    others: float | None = None

    @property
    def mean(self) -> float:
        """Tokens per second."""
        return statistics.fmean(self.samples)

    @property
    def stddev(self) -> float:
        """Standard deviation of the repetitions; 0 when there is one only."""
        return statistics.stdev(self.samples) if len(self.samples) > 1 else 0.0

    @property
    def key(self) -> str:
        """What the result is found by."""
        return key_of(self.model, self.point)

    def as_json(self) -> dict[str, Any]:
        """The result as one flat JSON object."""
        point = asdict(self.point)
        setup = point.pop("setup")
        return {
            "model": self.model,
            **point,
            **setup,
            "tokens_per_s": round(self.mean, 3),
            "stddev": round(self.stddev, 3),
            "samples": [round(value, 3) for value in self.samples],
            "prompt_samples": [round(value, 3) for value in self.prompt_samples],
            "memory_bytes": self.memory_bytes,
            "others": None if self.others is None else round(self.others, 3),
        }


def key_of(model: str, point: Point) -> str:
    """The key of a measurement in a run."""
    return sha256_json([model, asdict(point)])[:16]


def result_of(raw: dict[str, Any]) -> Result:
    """A result as `Result.as_json` wrote it.

    Raises:
        KeyError, TypeError: it is none.
    """
    setup = Setup(*(raw[name] for name in ("threads", "batch", "ubatch", "flash_attn", "kv_type")))
    point = Point(raw["kind"], setup, raw["prompt"], raw["decode"], raw["depth"], raw["streams"])
    return Result(
        raw["model"],
        point,
        tuple(raw["samples"]),
        tuple(raw["prompt_samples"]),
        raw["memory_bytes"],
        raw.get("others"),
    )


class Journal:
    """The file of one grid: a line for each run's start, each result, and the run's end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def unfinished(self) -> list[Result]:
        """The results of the last run when it did not come to its end; else none."""
        found: list[Result] = []
        for line in self._lines():
            if line.get("event") in ("start", "end"):
                found = []
            elif line.get("event") == "result":
                try:
                    found.append(result_of(line))
                except (KeyError, TypeError):
                    continue
        return found

    def _lines(self) -> Iterable[dict[str, Any]]:
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return
        for line in text.splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue  # cut off by a kill
            if isinstance(value, dict):
                yield value

    def add(self, event: str, **values: Any) -> None:
        """Append a line.

        Raises:
            SlipwayError: the disk is full or the folder is not writable.
        """
        line = json.dumps({"event": event, "at": utc_now(), **values}, ensure_ascii=False)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                # a line that a kill cut off must not swallow this one
                torn = file.tell() > 0 and not self._ends_line()
                file.write(("\n" if torn else "").encode() + line.encode() + b"\n")
        except OSError as error:
            raise from_os_error(error, self.path) from error

    def _ends_line(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, 2)
            return file.read(1) == b"\n"
