"""Who we are at a registry: from the environment or a file that nobody else may read.

Both hold the same JSON object, host (with its port) to `{"user": …, "password": …}` or
`{"token": …}`. A secret belongs to one host and is never sent to another one.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from dataclasses import dataclass, field

from slipway.core.errors import AuthError, InputError, from_os_error
from slipway.core.i18n import tr
from slipway.core.paths import Home

VARIABLE = "SLIPWAY_REGISTRY_AUTH"
FILE = "registries.json"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user with a password, or a token; never part of a printed representation."""

    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The header for user and password, or empty."""
        if not self.user:
            return ""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    @property
    def bearer(self) -> str:
        """The header for the token, or empty."""
        return f"Bearer {self.token}" if self.token else ""


def credentials_for(host: str, home: Home) -> Credentials:
    """What is known for a host; empty when nothing is.

    Raises:
        AuthError: the file can be read by others.
        InputError: the text is not such an object.
    """
    for text, where in ((os.environ.get(VARIABLE, ""), VARIABLE), _file(home)):
        if not text:
            continue
        try:
            known = json.loads(text)
            entry = {name.lower(): value for name, value in known.items()}.get(host.lower())
            if entry is not None:
                return Credentials(**{name: str(value) for name, value in entry.items()})
        except (ValueError, TypeError, AttributeError):  # the text itself is a secret
            raise InputError(
                "registry.bad_credentials",
                tr("{where} does not hold registry credentials as JSON", where=where),
                tr('write `{{"host": {{"user": "…", "password": "…"}}}}` or a `token`'),
            ) from None
    return Credentials()


def _file(home: Home) -> tuple[str, str]:
    path = home.root / FILE
    try:
        mode = path.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise AuthError(
                "registry.open_credentials",
                tr("others can read the registry credentials in {path}", path=path),
                tr("run `chmod 600 {path}`", path=path),
            )
        return path.read_text(encoding="utf-8"), str(path)
    except FileNotFoundError:
        return "", str(path)
    except OSError as error:
        raise from_os_error(error, path) from error
