"""Why a row loses quality: the reasons, and the points that each takes off 100."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from slipway.core.i18n import Text, tr


class Reason(StrEnum):
    """Something about a row that makes it worse to learn from. The order is that of the bits."""

    EMPTY_ANSWER = "empty_answer"
    REFUSAL = "refusal"
    SHORT_ANSWER = "short_answer"
    UNFINISHED = "unfinished"
    REPETITION = "repetition"
    ECHO = "echo"
    LANGUAGE = "language"
    GARBLED = "garbled"
    HTML = "html"
    PLACEHOLDER = "placeholder"
    IDENTITY = "identity"
    PERSONAL = "personal"
    VAGUE_QUESTION = "vague_question"
    SAME_ANSWERS = "same_answers"
    TRUNCATED = "truncated"
    DROPPED = "dropped"
    NOT_ENCODED = "not_encoded"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    NEAR_QUESTION = "near_question"
    LEAK = "leak"


REASONS: tuple[Reason, ...] = tuple(Reason)
BIT: dict[Reason, int] = {reason: 1 << number for number, reason in enumerate(REASONS)}

POINTS: dict[Reason, int] = {
    Reason.EMPTY_ANSWER: 70,
    Reason.REFUSAL: 30,
    Reason.SHORT_ANSWER: 10,
    Reason.UNFINISHED: 15,
    Reason.REPETITION: 30,
    Reason.ECHO: 30,
    Reason.LANGUAGE: 25,
    Reason.GARBLED: 50,
    Reason.HTML: 15,
    Reason.PLACEHOLDER: 20,
    Reason.IDENTITY: 15,
    Reason.PERSONAL: 30,
    Reason.VAGUE_QUESTION: 10,
    Reason.SAME_ANSWERS: 40,
    Reason.TRUNCATED: 20,
    Reason.DROPPED: 80,
    Reason.NOT_ENCODED: 100,
    Reason.DUPLICATE: 60,
    Reason.NEAR_DUPLICATE: 20,
    Reason.NEAR_QUESTION: 5,
    Reason.LEAK: 100,
}


def reasons_of(bits: int) -> list[Reason]:
    """The reasons in a number of bits."""
    return [reason for reason, bit in BIT.items() if bits & bit]


def score_of(reasons: Iterable[Reason]) -> int:
    """100 less the points of each reason, 0 at least."""
    return max(0, 100 - sum(POINTS[reason] for reason in reasons))


def in_words(reason: Reason) -> Text:
    """The reason for people."""
    return _WORDS[reason]


_WORDS: dict[Reason, Text] = {
    Reason.EMPTY_ANSWER: tr("an answer says nothing"),
    Reason.REFUSAL: tr("an answer refuses"),
    Reason.SHORT_ANSWER: tr("the answer is very short"),
    Reason.UNFINISHED: tr("the answer stops in the middle"),
    Reason.REPETITION: tr("an answer repeats itself"),
    Reason.ECHO: tr("the answer repeats the question"),
    Reason.LANGUAGE: tr("question and answer are in different languages"),
    Reason.GARBLED: tr("garbled characters"),
    Reason.HTML: tr("remains of HTML"),
    Reason.PLACEHOLDER: tr("a placeholder was not filled in"),
    Reason.IDENTITY: tr("an answer says that it is another company's assistant"),
    Reason.PERSONAL: tr("personal data"),
    Reason.VAGUE_QUESTION: tr("the question has no words"),
    Reason.SAME_ANSWERS: tr("the better and the worse answer are nearly the same"),
    Reason.TRUNCATED: tr("longer than the cut-off: its end is not learned"),
    Reason.DROPPED: tr("longer than the cut-off: nothing is left to learn"),
    Reason.NOT_ENCODED: tr("cannot be encoded for this model"),
    Reason.DUPLICATE: tr("the same conversation as an earlier row"),
    Reason.NEAR_DUPLICATE: tr("nearly the same conversation as an earlier row"),
    Reason.NEAR_QUESTION: tr("nearly the same question as an earlier row"),
    Reason.LEAK: tr("a held-out question that also stands in train"),
}
