"""One piece of feedback and its capture -> a row to learn from, or the reason why not. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import orjson

Reason = Literal[
    "no_capture",
    "user_disabled",
    "not_chosen",
    "cut_off",
    "no_text",
    "same_answer",
    "unreadable",
    "low_quality",
    "same",
    "near",
    "user_share",
]
"""Why feedback gives no row.

no_capture: prompt and answer are not kept; not_chosen: no correction, and no score that is high
enough; cut_off: the answer did not end by itself; no_text: an answer without text has nothing to
compare a correction with; same_answer: the correction is the answer; unreadable, low_quality: as
`slipway data check` says; same, near: another row is the same, or nearly; user_share: its user has
more rows than one may have.
"""

_WHOLE = (None, "stop", "tool_calls", "function_call")


@dataclass(frozen=True, slots=True)
class Given:
    """Feedback with what it is about, as the database has it.

    Attributes:
        prompt: JSON of `messages` and `tools`; None when nothing is kept.
        answer: JSON of the assistant's turn.
        finish: why the answer ended.
    """

    request_id: str
    user: str
    user_enabled: bool
    score: float | None
    correction: str | None
    prompt: bytes | None
    answer: bytes | None
    finish: str | None


def example_of(
    given: Given, *, preferences: bool, min_score: float
) -> tuple[dict[str, Any] | None, Reason | None]:
    """A row, or the reason why there is none.

    Args:
        preferences: a row of two answers instead of a conversation.
        min_score: from which an answer is learned as it is.
    """
    if not given.user_enabled:
        return None, "user_disabled"
    wanted = given.correction is not None
    if not wanted and (preferences or given.score is None or given.score < min_score):
        return None, "not_chosen"
    if given.prompt is None or given.answer is None:
        return None, "no_capture"
    prompt, said = orjson.loads(given.prompt), orjson.loads(given.answer)
    if given.correction is None and given.finish not in _WHOLE:
        return None, "cut_off"
    if given.correction is not None:
        better = {"role": "assistant", "content": given.correction}
        if better["content"].strip() == str(said.get("content")).strip():
            return None, "same_answer"
    else:
        better = said
    row: dict[str, Any] = {"id": given.request_id}
    if preferences:
        if not str(said.get("content") or "").strip() or said.get("tool_calls"):
            return None, "no_text"
        row |= {"prompt": prompt["messages"], "chosen": [better], "rejected": [said]}
    else:
        row["messages"] = [*prompt["messages"], better]
    if prompt.get("tools"):
        row["tools"] = prompt["tools"]
    return row, None
