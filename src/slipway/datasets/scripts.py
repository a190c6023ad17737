"""Which script a text is written in, by its units; a guess at the language from that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

Script = Literal["latin", "han", "kana", "hangul", "cyrillic", "arabic", "other", "number"]
Language = Literal["zh", "ja", "ko", "latin", "cyrillic", "arabic", "other", "mixed", "none"]
LANGUAGES: tuple[Language, ...] = (
    "zh",
    "ja",
    "ko",
    "latin",
    "cyrillic",
    "arabic",
    "other",
    "mixed",
    "none",
)

_RANGES: tuple[tuple[int, int, Script], ...] = (
    (0x41, 0x24F, "latin"),
    (0x1E00, 0x1EFF, "latin"),
    (0x400, 0x52F, "cyrillic"),
    (0x600, 0x6FF, "arabic"),
    (0x750, 0x77F, "arabic"),
    (0x3040, 0x30FF, "kana"),
    (0x3400, 0x4DBF, "han"),
    (0x4E00, 0x9FFF, "han"),
    (0xF900, 0xFAFF, "han"),
    (0xAC00, 0xD7AF, "hangul"),
    (0x1100, 0x11FF, "hangul"),
)
_OF_SCRIPT: dict[Script, Language] = {
    "latin": "latin",
    "han": "zh",
    "kana": "ja",
    "hangul": "ko",
    "cyrillic": "cyrillic",
    "arabic": "arabic",
    "other": "other",
}
_MAX_KNOWN = 200_000
_MAIN = 0.8


class _Scripts(dict[str, Script]):
    def __missing__(self, unit: str) -> Script:
        if len(self) >= _MAX_KNOWN:
            self.clear()
        found = self[unit] = _script(unit)
        return found


_KNOWN = _Scripts()


def _script(unit: str) -> Script:
    char = next((c for c in unit if not c.isdigit()), "")
    if not char:
        return "number"
    code = ord(char)
    return next((script for low, high, script in _RANGES if low <= code <= high), "other")


def scripts_of(units: Sequence[str]) -> Counter[Script]:
    """How many units are of each script; numbers are not counted."""
    counts = Counter(map(_KNOWN.__getitem__, units))
    counts.pop("number", None)
    return counts


def language_of(scripts: Counter[Script]) -> Language:
    """The language that most of the units are of; Latin letters do not tell which.

    Chinese characters with a tenth of kana among them are Japanese. `mixed`: no language has four
    fifths of the units.
    """
    if not scripts:
        return "none"
    if len(scripts) == 1:
        return _OF_SCRIPT[next(iter(scripts))]
    total = sum(scripts.values())
    joined: dict[Script, int] = dict(scripts)
    han, kana = joined.get("han", 0), joined.get("kana", 0)
    if kana and kana * 10 >= han + kana:
        joined["kana"] = kana + joined.pop("han", 0)
    script = max(joined, key=lambda one: joined[one])
    return _OF_SCRIPT[script] if joined[script] >= _MAIN * total else "mixed"
