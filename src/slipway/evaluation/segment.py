"""Texts into units: what an n-gram is made of, in Chinese and in languages with spaces."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

from slipway.core.errors import missing_extra
from slipway.export.scoring import words as by_character

_CJK = re.compile("[\\u3040-\\u30ff\\u3400-\\u4dbf\\u4e00-\\u9fff]")
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)

__all__ = ["answer_of", "by_character", "by_word", "has_cjk", "jieba_cut", "normalised"]


def has_cjk(texts: Sequence[str]) -> bool:
    """Whether any text holds a Chinese character or kana."""
    return any(_CJK.search(text) for text in texts)


@lru_cache(maxsize=1 << 16)
def _words(text: str) -> tuple[str, ...]:
    return tuple(
        word for piece in jieba_cut(text.lower()) if (word := "".join(by_character(piece)))
    )


def by_word(text: str) -> list[str]:
    """The words of a text in lower case, punctuation left out; Chinese is cut by jieba.

    Raises:
        ResourceError: `jieba` is not installed.
    """
    if not _CJK.search(text):
        return by_character(text)
    return list(_words(text))


def jieba_cut(text: str) -> list[str]:
    """Every piece that jieba cuts a text into, spaces and punctuation included."""
    return list(_jieba().cut(text))


@cache
def _jieba() -> Any:
    import logging
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own regular expressions and pkg_resources
            import jieba

            jieba.setLogLevel(logging.WARNING)
            cutter = jieba.Tokenizer()
            cutter.initialize()
    except ImportError as error:
        raise missing_extra("jieba", "train") from error
    return cutter


def answer_of(text: str) -> str:
    """What a reader sees of an answer: without `<think>...</think>`, trimmed."""
    return _THOUGHT.sub("", text).strip()


def normalised(text: str) -> str:
    """For exact match: NFKC, case folded, punctuation and spaces left out.

    A text of nothing but punctuation keeps it, so that "?" is not equal to "!".
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(c for c in folded if unicodedata.category(c)[0] not in "PZC")
    return kept or folded.strip()
