"""Room on the disk: asked for before the work, and recognised when it ran out during it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from slipway.core.errors import ResourceError, SlipwayError, ToolError
from slipway.core.i18n import tr


def require_space(folder: Path, needed: int) -> None:
    """Raise when the disk that will hold `folder` has less than `needed` bytes free."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ResourceError(
            "disk.full",
            tr(
                "{path} has {free} MB free, but {needed} MB are needed",
                path=str(existing),
                free=free // 1_000_000,
                needed=needed // 1_000_000,
            ),
            tr("free some space, or set SLIPWAY_HOME to a larger disk, then run the command again"),
        )


def disk_full(error: ToolError, folder: Path) -> SlipwayError:
    """The tool's error, or the right one when the tool ended because the disk is full."""
    text = error.message_en
    if re.search(r"No space left|ENOSPC|Errno 28|failed to write|Disk quota", text):
        return ResourceError(
            "disk.full",
            tr("no space left on the disk that holds {path}", path=str(folder)),
            tr("free some space, or set SLIPWAY_HOME to a larger disk, then run the command again"),
        )
    return error
