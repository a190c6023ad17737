"""Files that were uploaded, made into one GGUF: joined, converted, quantised, by child processes.

The work is heavy and must not hold up the daemon, and it must end when the client leaves; so each
step is a process of its own, killed with its children when its task is cancelled.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from slipway.core.errors import InputError, ToolError, UsageError
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.store.blobs import BlobStore

_TAIL = 600


def laid_out(files: Mapping[str, str], folder: Path, blobs: BlobStore) -> list[Path]:
    """The blobs under the names they were sent with, as links in a folder.

    Raises:
        UsageError: a name leaves the folder.
        InputError: a digest is none, or its blob is not there.
    """
    found = []
    for name, digest in files.items():
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or not parts.name or "\0" in name:
            raise UsageError(
                "create.bad_file_name", tr("`{name}` is not the name of a file", name=name)
            )
        blob = blobs.path(digest)
        if not blob.is_file():
            raise InputError(
                "create.no_blob",
                tr("{name}: blob {digest} is not there", name=name, digest=digest),
                tr("send it first: `POST /api/blobs/{digest}`", digest=digest),
            )
        path = folder.joinpath(*parts.parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(blob)
        found.append(path)
    return found


async def slipway(*arguments: str | Path, home: Home) -> None:
    """Run a command of ours to its end.

    Raises:
        ToolError: it failed; the message ends with its last words.
    """
    await run([sys.executable, "-m", "slipway", *arguments], home)


async def run(command: Sequence[str | Path], home: Home) -> None:
    """Run a program to its end; it is killed, with its children, when this task is cancelled.

    Raises:
        ToolError: see `slipway`.
    """
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "SLIPWAY_HOME": str(home.root), "SLIPWAY_LANG": "en"},
        start_new_session=True,
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    if process.returncode:
        text = output.decode("utf-8", "replace").strip()[-_TAIL:]
        raise ToolError("create.step_failed", tr("making the model failed: {reason}", reason=text))
