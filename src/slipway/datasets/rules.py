"""What holds for every row once it is read: who may speak after whom, and that texts are there."""

from __future__ import annotations

from collections.abc import Iterator

from slipway.core.i18n import Text, tr
from slipway.datasets.formats import Layout, Parsed
from slipway.datasets.formats.fields import At

Fault = tuple[str, str, Text]
"""(field, code, reason)"""


def faults(parsed: Parsed, layout: Layout) -> Iterator[Fault]:
    """Everything wrong with a parsed row."""
    if parsed.text or layout.format == "text":
        if not parsed.text.strip():
            yield parsed.whole, "empty_text", tr("the text is empty")
        return
    if not parsed.messages:
        yield parsed.whole, "empty", tr("there is no turn")
        return
    yield from _order(parsed.messages, free_results=layout.registry)
    for at, message in (*parsed.messages, *_answers(parsed)):
        if not message.content.strip() and not message.tool_calls and message.role != "tool":
            yield at, "empty_text", tr("the text is empty")
    yield from _end(parsed)


def _answers(parsed: Parsed) -> Iterator[At]:
    for answer in (parsed.chosen, parsed.rejected):
        if answer:
            yield answer


def _order(messages: list[At], *, free_results: bool) -> Iterator[Fault]:
    """User and assistant in turn; results of functions where a call was, one or more.

    Args:
        free_results: results may stand wherever a user may.
    """
    wanted: tuple[str, ...] = ("user", "tool") if free_results else ("user",)
    for index, (at, message) in enumerate(messages):
        if message.role == "system":
            if index:
                yield at, "role_order", tr("a system turn may only be the first")
            continue
        if message.role not in wanted:
            yield (
                at,
                "role_order",
                tr(
                    "expected a turn of `{wanted}`, found `{found}`",
                    wanted=" / ".join(wanted),
                    found=message.role,
                ),
            )
        if message.role == "user":
            wanted = ("assistant",)
        elif message.role == "tool":
            wanted = ("assistant", "tool")
        elif free_results:
            wanted = ("user", "tool")
        else:
            wanted = ("tool",) if message.tool_calls else ("user",)


def _end(parsed: Parsed) -> Iterator[Fault]:
    last_at, last = parsed.messages[-1]
    if parsed.chosen:
        if last.role not in ("user", "tool"):
            yield last_at, "last_turn", tr("the turn before the two answers must be the user's")
        elif parsed.rejected and parsed.chosen[1] == parsed.rejected[1]:
            yield parsed.rejected[0], "same_answers", tr("both answers are the same")
    elif all(message.role != "assistant" for _, message in parsed.messages):
        yield (
            parsed.whole or last_at,
            "no_assistant",
            tr("there is no assistant turn to learn from"),
        )
    elif last.role != "assistant":
        yield last_at, "last_turn", tr("the last turn must be the assistant's")
