"""Chinese and English for everything a user reads.

English stands in the code: `tr("no rows in {path}", path=p)`. The Chinese sentence stands in a
`*zh.toml` file beside the layer, keyed by the English one; a test checks that every sentence has
its translation with the same placeholders. Codes, JSON and logs stay English.
"""

from __future__ import annotations

import os
import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

Language = Literal["en", "zh"]


class Text:
    """A sentence with its values, rendered in the reader's language when shown."""

    __slots__ = ("msgid", "params")

    def __init__(self, msgid: str, params: dict[str, object]) -> None:
        self.msgid = msgid
        self.params = params

    @property
    def en(self) -> str:
        """The sentence in English."""
        return _fill(self.msgid, self.params, "en")

    def in_language(self, language: Language) -> str:
        """The sentence in `language`; English where no translation exists."""
        if language == "en":
            return self.en
        return _fill(catalogue().get(self.msgid, self.msgid), self.params, language)

    def __str__(self) -> str:
        return self.in_language(current_language())

    def __repr__(self) -> str:
        return f"Text({self.en!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return (Text, (self.msgid, self.params))


def tr(msgid: str, /, **params: object) -> Text:
    """Mark an English sentence for translation; values fill its `{placeholders}`."""
    return Text(msgid, params)


def _fill(sentence: str, params: dict[str, object], language: Language) -> str:
    """Fill placeholders; a nested `Text` is rendered in the same language."""
    values = {
        key: value.in_language(language) if isinstance(value, Text) else value
        for key, value in params.items()
    }
    return sentence.format(**values) if values else sentence


def current_language() -> Language:
    """`zh` or `en`, from SLIPWAY_LANG, else from LC_ALL, LC_MESSAGES, LANG."""
    for name in ("SLIPWAY_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name, "").strip().lower()
        if value:
            return "zh" if value.startswith("zh") else "en"
    return "en"


@cache
def catalogue() -> dict[str, str]:
    """English sentence -> Chinese sentence, read from every `*zh.toml` of the package."""
    sentences: dict[str, str] = {}
    for path in sorted(Path(__file__).parents[1].rglob("*zh.toml")):
        sentences.update(tomllib.loads(path.read_text(encoding="utf-8")))
    return sentences
