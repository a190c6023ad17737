"""TensorBoard: event files in the run folder's `tensorboard/`, by the `tensorboard` package."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

FOLDER = "tensorboard"


class TensorBoardSink:
    """Writes scalars and texts with TensorBoard's own file writer; torch is not involved."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(folder), flush_secs=10)

    def _add(self, step: int, values: list[Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._writer.add_event(
            Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        )

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """Add a point to each curve."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._add(step, [Summary.Value(tag=k, simple_value=v) for k, v in values.items()])

    def text(self, step: int, name: str, text: str) -> None:
        """Add a text, shown on TensorBoard's page of texts."""
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._add(step, list(text_pb(name, text).value))

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def open_sink(run_dir: Path, *, name: str, config: dict[str, Any]) -> TensorBoardSink:
    """Open the run's files; settings go in as a text."""
    sink = TensorBoardSink(run_dir / FOLDER)
    sink.text(0, "settings", "    " + json.dumps(config, ensure_ascii=False, default=str))
    return sink
