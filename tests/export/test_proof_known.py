"""What llama.cpp is known to tokenize otherwise is recorded; anything beside it is refused."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest

from slipway.export import proof


class ComposingTokenizer:
    """One token for each letter, after composing, and an ordinary token `</s>`."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in unicodedata.normalize("NFC", text)]}

    def get_vocab(self) -> dict[str, int]:
        return {"</s>": 1}

    def get_added_vocab(self) -> dict[str, int]:
        return {}


class FakeServer:
    """One token for each letter as it stands; `</s>` is one token; `wrong` letters become 0."""

    def __init__(self, wrong: str = "") -> None:
        self.wrong = wrong

    def post(self, path: str, body: dict[str, Any]) -> dict[str, list[int]]:
        text = body["content"].replace("</s>", "\1")
        return {"tokens": [0 if letter in self.wrong else ord(letter) for letter in text]}


@pytest.mark.parametrize(
    ("text", "wrong", "explained"),
    [
        ("e\u0301 and x", "", True),
        ("a </s> and x", "", True),
        ("e\u0301 and x", "x", False),
        ("a </s> and x", "x", False),
        ("plain x", "x", False),
        ("plain x", "", False),
    ],
)
def test_only_the_known_differences_are_explained(text: str, wrong: str, explained: bool) -> None:
    server: Any = FakeServer(wrong)
    assert proof._is_explained(server, ComposingTokenizer(), text) == explained
