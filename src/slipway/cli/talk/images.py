"""Pictures for models that see: given by `--image`, or by their paths in a message."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from slipway.core.errors import InputError, from_os_error
from slipway.core.i18n import tr

MOST_BYTES = 64 << 20
_ENDS = r"\.(?:png|jpe?g|webp|gif)"
# a path in quotes, or one without spaces that begins with /, ./, ../ or ~/
_PATH = re.compile(rf"([\"'])(?P<q>[^\"']+?{_ENDS})\1|(?P<p>(?:~|\.{{1,2}})?/\S+?{_ENDS})\b", re.I)


def read_image(path: Path) -> str:
    """A picture as base64.

    Raises:
        InputError: it is too large.
        SlipwayError: it cannot be read.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(
                "run.image_too_large",
                tr("{path} is too large for a picture", path=str(path)),
                tr("at most {size} MB", size=MOST_BYTES >> 20),
            )
        return base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise from_os_error(error, path) from error


def take_images(text: str) -> tuple[str, list[Path]]:
    """The message without the paths of pictures that are there, and these paths."""
    found: list[Path] = []

    def replaced(match: re.Match[str]) -> str:
        path = Path(match["q"] or match["p"]).expanduser()
        try:
            if not path.is_file():
                return match[0]
        except OSError:
            return match[0]
        found.append(path)
        return ""

    rest = _PATH.sub(replaced, text)
    return (rest.strip() if found else text), found
