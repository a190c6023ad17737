"""Answers on disk as they are made: one JSON line each, never lost, never made twice.

The fields `prompt`, `predict` and `label` are those of LLaMA Factory's
`generated_predictions.jsonl`. A line cut by a kill is dropped at the next start; what stands before
it counts.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from slipway.core.errors import ConflictError, NotFoundError, from_os_error
from slipway.core.files import write_json, write_text
from slipway.core.i18n import tr


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer.

    Attributes:
        predict: as the model gave it, `<think>` included; empty when it failed.
        label: the reference.
        finish: `stop`, `length`, or what the server said.
        prompt_tokens, tokens: of the prompt and of the answer; None when unknown.
        seconds: from asking to the whole answer; of the batch, where a batch was asked.
        error: why there is no answer; such rows are scored as empty and asked again.
    """

    id: str
    prompt: str
    predict: str
    label: str
    finish: str = ""
    prompt_tokens: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    error: str = ""

    def line(self) -> str:
        """The line of the file; empty fields are left out."""
        fields = {
            key: value
            for key, value in asdict(self).items()
            if value not in (None, "") or key in ("prompt", "predict", "label")
        }
        return json.dumps(fields, ensure_ascii=False) + "\n"


class Lines:
    """A file of JSON lines with an `id` each, appended to by several threads.

    Args:
        identity: what the lines depend on; kept beside the file in `<name>.identity.json`.

    Raises:
        ConflictError: the file holds lines of another identity.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self._identity = path.with_name(path.stem + ".identity.json")
        self._lock = threading.Lock()
        self._require_same(identity)
        self.found = {str(line["id"]): line for line in read_lines(path)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not self._identity.is_file():
                write_json(self._identity, identity)
            _drop_torn_line(path)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise from_os_error(error, path) from error

    def _require_same(self, identity: dict[str, Any]) -> None:
        try:
            there = json.loads(self._identity.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except ValueError:
            there = {}
        changed = sorted(k for k in {*there, *identity} if there.get(k) != identity.get(k))
        if changed:
            raise ConflictError(
                "eval.other_settings",
                tr(
                    "{path} was made with another {what}",
                    path=str(self.path),
                    what=", ".join(changed),
                ),
                tr("give another folder with `-o`, or start anew in this one with `--fresh`"),
            )

    def add(self, key: str, line: str) -> None:
        """Append a line at once; what was there under the same id is outdated."""
        try:
            with self._lock:
                self._file.write(line)
                self._file.flush()
                self.found[key] = json.loads(line)
        except OSError as error:
            raise from_os_error(error, self.path) from error

    def finish(self, order: Sequence[str]) -> list[dict[str, Any]]:
        """Rewrite the file atomically in the order of the rows; return its lines."""
        lines = [self.found[key] for key in order]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        if self.path.read_text(encoding="utf-8") != text:
            write_text(self.path, text)
        return lines

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def read_lines(path: Path) -> Iterable[dict[str, Any]]:
    """The whole lines of a file in order; none when there is no file."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and "id" in line:
                yield line


def read_predictions(path: Path) -> list[Prediction]:
    """The finished predictions of a model.

    Raises:
        NotFoundError: there are none.
    """
    names = set(Prediction.__dataclass_fields__)
    found = [
        Prediction(**{k: v for k, v in line.items() if k in names}) for line in read_lines(path)
    ]
    if not found:
        raise NotFoundError(
            "eval.no_predictions", tr("{path} holds no predictions", path=str(path))
        )
    return found


def _drop_torn_line(path: Path) -> None:
    if not path.is_file():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        with path.open("rb+") as file:
            file.truncate(data.rfind(b"\n") + 1)
