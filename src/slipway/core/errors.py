"""Errors for the reader: one tree, rendered once each by CLI, HTTP and pages.

    SlipwayError            anything a user can act on; never shown with a traceback
    ├── UsageError          wrong command, key or value                  exit 2, HTTP 400
    ├── InputError          a bad row, file or field in the user's data  exit 1, HTTP 400
    ├── UnreachableError    a server did not answer                      exit 3, HTTP 502
    ├── AuthError           key missing, wrong, or out of quota          exit 4, HTTP 401
    ├── NotFoundError       a file, model, run or name does not exist    exit 5, HTTP 404
    ├── ResourceError       too little memory, disk, or no compiler      exit 6, HTTP 507
    ├── ConflictError       the object is busy or already there          exit 1, HTTP 409
    ├── ProofError          a check that guards quality refused          exit 1, HTTP 422
    └── ToolError           an external program failed                   exit 1, HTTP 500

Every error carries `code` (stable, English, dotted: "data.bad_row"), `message` (what is
wrong, naming the file, line, field or key) and `hint` (the next command to type).
Any other exception is a bug in Slipway and keeps its traceback.
"""

from __future__ import annotations

import errno
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.core.i18n import Text, tr

if TYPE_CHECKING:
    from collections.abc import Iterable

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_AUTH = 4
EXIT_NOT_FOUND = 5
EXIT_RESOURCE = 6
EXIT_INTERRUPTED = 130


class SlipwayError(Exception):
    """Base of everything that is told to the user instead of shown as a traceback.

    Args:
        code: stable identifier, `<area>.<what>`; never translated.
        message: what is wrong; a `Text` from `tr(...)` is shown in the user's language.
        hint: what to do next, with the command in backticks; empty when there is nothing to do.
    """

    exit_code: int = EXIT_FAILED
    http_status: int = 500

    def __init__(self, code: str, message: Text | str, hint: Text | str = "") -> None:
        self.code = code
        self.message = message
        self.hint = hint
        super().__init__(code, message, hint)

    def __str__(self) -> str:
        return f"{self.code}: {self.message_en}"

    @property
    def message_en(self) -> str:
        """The message in English, for logs and JSON."""
        return self.message.en if isinstance(self.message, Text) else self.message

    @property
    def hint_en(self) -> str:
        """The hint in English, for logs and JSON."""
        return self.hint.en if isinstance(self.hint, Text) else self.hint

    def as_json(self) -> dict[str, object]:
        """The error as the object that `--json` and HTTP print: code, message, hint."""
        return {"code": self.code, "message": self.message_en, "hint": self.hint_en}


class UsageError(SlipwayError):
    """The command line, a config key or a request field is wrong."""

    exit_code = EXIT_USAGE
    http_status = 400


class InputError(SlipwayError):
    """The user's data or file is malformed; the message names the file, line and field."""

    http_status = 400


class UnreachableError(SlipwayError):
    """A server that should answer did not."""

    exit_code = EXIT_UNREACHABLE
    http_status = 502


class AuthError(SlipwayError):
    """A key is missing, wrong, expired or exhausted."""

    exit_code = EXIT_AUTH
    http_status = 401


class NotFoundError(SlipwayError):
    """Something was named that does not exist."""

    exit_code = EXIT_NOT_FOUND
    http_status = 404


class ResourceError(SlipwayError):
    """This machine lacks memory, disk space, a compiler or an optional package."""

    exit_code = EXIT_RESOURCE
    http_status = 507


class ConflictError(SlipwayError):
    """The object is in use, or exists already."""

    http_status = 409


class ProofError(SlipwayError):
    """A proof (merge, template, tokenizer, self-test) failed, so no artefact was made."""

    http_status = 422


class ToolError(SlipwayError):
    """An external program ended with an error; the message quotes the end of its log."""


def nearest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The known names most like `name`, best first, for "did you mean" hints."""
    return get_close_matches(name, list(known), n=limit, cutoff=0.5)


def unknown_key(key: str, known: Iterable[str], where: Text | str) -> UsageError:
    """An error for a key that is not one of `known`, offering the nearest names.

    Args:
        where: the file or request in which the key stands.
    """
    names = sorted(known)
    close = nearest(key, names)
    hint = (
        tr("did you mean {names}?", names=", ".join(f"`{n}`" for n in close))
        if close
        else tr("known keys: {names}", names=", ".join(names))
    )
    return UsageError(
        "config.unknown_key", tr("unknown key `{key}` in {where}", key=key, where=where), hint
    )


def from_os_error(error: OSError, path: Path | str) -> SlipwayError:
    """Turn an `OSError` on `path` into an error that says what to do; unknown kinds included."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(
            "disk.full",
            tr("no space left on the disk that holds {path}", path=str(path)),
            tr("free some space, or set SLIPWAY_HOME to a larger disk, then run the command again"),
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UsageError(
            "file.permission",
            tr("no permission to use {path}", path=str(path)),
            tr("check the owner with `ls -ld {path}`", path=str(path)),
        )
    if error.errno == errno.ENOENT:
        return NotFoundError(
            "file.not_found",
            tr("{path} does not exist", path=str(path)),
            tr("see what is there with `ls {folder}`", folder=Path(path).parent),
        )
    return ToolError(
        "file.error",
        tr("cannot use {path}: {reason}", path=str(path), reason=error.strerror or str(error)),
    )


def missing_extra(package: str, extra: str) -> ResourceError:
    """An error for an optional package that is not installed."""
    return ResourceError(
        "package.missing",
        tr("the package `{package}` is not installed", package=package),
        tr("install it with `pip install 'slipway[{extra}]'`", extra=extra),
    )
