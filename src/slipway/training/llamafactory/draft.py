"""Our keys as they are gathered from a LLaMA Factory file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slipway.core.errors import UsageError
from slipway.core.i18n import Text, tr
from slipway.core.manifest import Origin
from slipway.training.llamafactory.table import KEYS
from slipway.training.llamafactory.values import Values


@dataclass(slots=True)
class Draft:
    """What is known so far.

    Attributes:
        spec: our dotted keys and their values.
        decided_by: our key -> the keys of the file that decide it.
        notes: what a reader should know: keys without effect, and choices that were made.
        run_dir: the run's folder (`output_dir`), if the file says.
        fresh: whether an earlier run in that folder is dropped.
    """

    values: Values
    spec: dict[str, Any] = field(default_factory=dict)
    decided_by: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: list[Text] = field(default_factory=list)
    run_dir: Path | None = None
    fresh: bool = False

    def put(self, ours: str, value: Any, *keys: str) -> None:
        """Set one of our keys; `keys` are those of the file that decide it."""
        self.spec[ours] = value
        self.decided_by[ours] = keys

    def copy(self, *keys: str) -> None:
        """Set our key to the value as it is, for keys that decide one of ours alone."""
        for key in keys:
            (ours,) = KEYS[key].to
            self.put(ours, self.values.get(key), key)

    def note(self, text: Text) -> None:
        """Tell the reader something."""
        self.notes.append(text)

    def refuse(self, key: str, why: Text, instead: Text | str = "") -> UsageError:
        """An error about a value that asks for something Slipway does not do."""
        values = self.values
        return UsageError(
            "llamafactory.unsupported",
            tr(
                "{where}: `{key}: {value}` is not done here: {why}",
                where=values.where.place(key),
                key=key,
                value=values.get(key),
                why=why,
            ),
            instead or tr("take the key out; `docs/llamafactory.md` says what each key does here"),
        )

    def origin(self, ours: str) -> Origin:
        """Where the value of one of our keys came from."""
        keys = self.decided_by.get(ours)
        if keys is None:
            return "default"
        if any(key in self.values.where.flags for key in keys):
            return "flag"
        return "file" if any(self.values.has(key) for key in keys) else "llamafactory"
