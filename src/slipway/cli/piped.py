"""A prompt from the command line, from a pipe, or both."""

from __future__ import annotations

import io
import os
import stat
import sys

from slipway.core.errors import InputError, UsageError
from slipway.core.i18n import tr


def given_text(prompt: str | None, command: str) -> str | None:
    """The prompt with what is piped in below it; None when a person sits at the terminal.

    Args:
        command: named in the hint, such as `slipway chat`.

    Raises:
        UsageError: neither a terminal nor a text.
        InputError: what is piped in is no text.
    """
    if sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty():
        return prompt
    parts = [part for part in (prompt, piped_text()) if part]
    if not parts:
        raise UsageError(
            "chat.no_prompt",
            tr("there is no terminal and no prompt"),
            tr("for example `{command} 'hello'`", command=command),
        )
    return "\n\n".join(parts)


def piped_text() -> str:
    """What a pipe, a file or a stream in memory gives; a null device or nothing at all, nothing."""
    if sys.stdin is None or sys.stdin.closed:  # started with `<&-`
        return ""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except io.UnsupportedOperation:  # in memory, so reading it cannot wait for anybody
        mode = stat.S_IFREG
    except OSError:  # the descriptor is gone
        return ""
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
        return ""
    try:
        return sys.stdin.read().strip()
    except UnicodeDecodeError as error:
        raise InputError(
            "chat.not_text",
            tr("what is piped in is not UTF-8 text ({reason})", reason=error.reason),
            tr("convert it first, for example with `iconv -f GB18030 -t UTF-8`"),
        ) from error
