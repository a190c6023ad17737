"""What every stage of the demo is given."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slipway.core.events import EventLog
from slipway.core.files import sha256_json
from slipway.core.i18n import Text
from slipway.core.paths import Home
from slipway.demo.options import DemoOptions


@dataclass(frozen=True, slots=True)
class DemoContext:
    """The demo's choices and places.

    Attributes:
        folder: holds the pipeline's record and every artefact of this demo.
        base: name of the base model, already decided.
        data: the dataset folder, already decided.
        say: tells the reader one fact about the running stage.
    """

    options: DemoOptions
    home: Home
    folder: Path
    base: str
    data: Path
    events: EventLog
    say: Callable[[Text | str], None]


def stage_folder(context: DemoContext, name: str, inputs: object) -> Path:
    """The folder for a stage's product, named after its inputs.

    A killed stage finds its own half-done work again, and other inputs never meet it; older
    products of the stage are removed.
    """
    folder = context.folder / f"{name}-{sha256_json(inputs)[:10]}"
    for other in context.folder.glob(f"{name}-*"):
        if other != folder and other.is_dir():
            shutil.rmtree(other, ignore_errors=True)
    return folder
