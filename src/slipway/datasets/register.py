"""An entry in a dataset_info.json beside a file of rows, so that LLaMA Factory finds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slipway.core.errors import ConflictError, UsageError
from slipway.core.files import locked, write_json
from slipway.core.i18n import tr
from slipway.datasets.convert_rows import Target, registry_entry
from slipway.datasets.registry import REGISTRY, read_registry


def register(file: Path, name: str, target: Target, columns: set[str], *, force: bool) -> Path:
    """Add or replace the entry `name`; other entries stay.

    Returns:
        The dataset_info.json.

    Raises:
        UsageError: LLaMA Factory cannot read such rows.
        ConflictError: there is an entry with that name, and `force` is not set.
        InputError: the file that is there is no registry.
    """
    entry = registry_entry(file.name, target, columns)
    if entry is None:
        raise UsageError(
            "data.no_entry",
            tr("LLaMA Factory does not read rows of the format {target}", target=target),
            tr("convert to openai, sharegpt or alpaca"),
        )
    path = file.parent / REGISTRY
    with locked(path):
        entries: dict[str, Any] = dict(read_registry(path)) if path.exists() else {}
        if name in entries and not force:
            raise ConflictError(
                "data.registered",
                tr("{path} has an entry `{name}` already", path=str(path), name=name),
                tr("give another name, or overwrite it with `--force`"),
            )
        entries[name] = entry
        write_json(path, json.loads(json.dumps(entries)))
    return path
