"""The saved address and key that `slipway chat` uses when none are given."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from slipway.core.errors import InputError, from_os_error
from slipway.core.files import write_json
from slipway.core.i18n import tr
from slipway.core.paths import Home


@dataclass(frozen=True, slots=True)
class Profile:
    """Where to chat by default; empty strings where nothing is known."""

    url: str = ""
    key: str = ""
    model: str = ""

    def __repr__(self) -> str:
        return f"Profile(url={self.url!r}, key=<hidden>, model={self.model!r})"


def profile_path(home: Home) -> Path:
    """The file of the profile."""
    return home.root / "client.json"


def save_profile(home: Home, url: str, key: str, model: str) -> Path:
    """Write the profile, readable by its owner only; replaces an older one."""
    path = profile_path(home)
    write_json(path, asdict(Profile(url, key, model)), mode=0o600)
    return path


def load_profile(home: Home) -> Profile:
    """The saved profile; an empty one when there is none.

    Raises:
        InputError: the file is no JSON object of texts.
        SlipwayError: it cannot be read.
    """
    path = profile_path(home)
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return Profile()
    except OSError as error:
        raise from_os_error(error, path) from error
    except ValueError as error:
        raise _broken(path) from error
    fields = {name: value.get(name, "") for name in asdict(Profile())} if _is_map(value) else {}
    if not fields or not all(isinstance(field, str) for field in fields.values()):
        raise _broken(path)
    return Profile(**fields)


def _is_map(value: object) -> bool:
    return isinstance(value, dict)


def _broken(path: Path) -> InputError:
    return InputError(
        "client.profile_broken",
        tr("{path} is not a saved profile", path=path),
        tr("remove it with `rm {path}` and give `--url` and `--key`", path=path),
    )
