"""Samples into rows of another format. What a format has no place for is named, never dropped in
silence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from slipway.core.i18n import Text, tr
from slipway.datasets.model import Message, Sample

Target = Literal["openai", "sharegpt", "alpaca", "trl", "text"]
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True, slots=True)
class Loss:
    """A part of a row that the format has no place for.

    Attributes:
        field: in the terms of the new format or of a sample, such as `tools`.
        whole: the row cannot be written at all without it.
    """

    field: str
    reason: Text
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Converted:
    """A row in the new format and what it lost; None when nothing sensible is left."""

    row: dict[str, Any] | None
    losses: tuple[Loss, ...] = ()


def convert(sample: Sample, target: Target) -> Converted:
    """Write a sample as a row of `target`."""
    if (sample.kind == "text") != (target == "text"):
        reason = (
            tr("a text is no conversation")
            if sample.kind == "text"
            else tr("a conversation is no plain text")
        )
        return Converted(None, (Loss(sample.kind, reason, whole=True),))
    losses: list[Loss] = []
    row = _WRITERS[target](sample, losses)
    if any(loss.whole for loss in losses):
        return Converted(None, tuple(losses))
    own = sample.id != f"{sample.file.stem}:{sample.line}"
    head = {"id": sample.id} if own else {}
    if sample.topic:
        head["topic"] = sample.topic
    return Converted({**head, **row}, tuple(losses))


def _openai(sample: Sample, losses: list[Loss]) -> dict[str, Any]:
    row: dict[str, Any] = {"messages": _openai_turns(sample.messages)}
    if sample.tools:
        row["tools"] = list(sample.tools)
    if sample.chosen and sample.rejected:
        row["chosen"], row["rejected"] = _openai_turns((sample.chosen, sample.rejected))
    if sample.desirable is not None:
        row["kto_tag"] = sample.desirable
    return row


def _openai_turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Turns as the API has them: arguments are JSON text, results name the call they answer."""
    turns: list[dict[str, Any]] = []
    calls = 0
    waiting: list[str] = []
    for message in messages:
        turn: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            waiting = [f"call_{calls + n}" for n in range(len(message.tool_calls))]
            calls += len(waiting)
            turn["tool_calls"] = [
                {
                    "id": name,
                    "type": "function",
                    "function": {"name": call.name, "arguments": _json(call.arguments)},
                }
                for name, call in zip(waiting, message.tool_calls, strict=True)
            ]
        if message.role == "tool" and waiting:
            turn["tool_call_id"] = waiting.pop(0)
        turns.append(turn)
    return turns


_SHAREGPT = {"user": "human", "assistant": "gpt", "tool": "observation"}


def _sharegpt(sample: Sample, losses: list[Loss]) -> dict[str, Any]:
    system, messages = _without_system(sample.messages)
    turns: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        before = messages[number - 1].role if number else ""
        if message.role == "tool" == before:
            losses.append(
                Loss(
                    f"conversations[{number}]",
                    tr("two results after one another; they are put into one turn"),
                )
            )
            turns[-1]["value"] += f"\n{message.content}"
            continue
        turns.append(_sharegpt_turn(message, f"conversations[{number}]", losses))
    row: dict[str, Any] = {"conversations": turns}
    if system is not None:
        row["system"] = system
    if sample.tools:
        row["tools"] = _json([tool["function"] for tool in sample.tools])
    if sample.chosen and sample.rejected:
        row["chosen"] = _sharegpt_turn(sample.chosen, "chosen", losses)
        row["rejected"] = _sharegpt_turn(sample.rejected, "rejected", losses)
    if sample.desirable is not None:
        row["kto_tag"] = sample.desirable
    return row


def _sharegpt_turn(message: Message, at: str, losses: list[Loss]) -> dict[str, Any]:
    if not message.tool_calls:
        return {"from": _SHAREGPT[message.role], "value": message.content}
    calls = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
    thought, ends, said = message.content.rpartition("</think>")
    if said.strip():
        losses.append(Loss(f"{at}.content", tr("a call of functions has no text beside it")))
    value = _json(calls[0] if len(calls) == 1 else calls)
    return {"from": "function_call", "value": f"{thought}{ends}\n{value}" if ends else value}


def _alpaca(sample: Sample, losses: list[Loss]) -> dict[str, Any]:
    system, messages = _without_system(sample.messages)
    if any(message.role == "tool" or message.tool_calls for message in messages) or (
        sample.chosen
        and (sample.chosen.tool_calls or (sample.rejected or sample.chosen).tool_calls)
    ):
        losses.append(
            Loss("tool_calls", tr("an instruction has no calls of functions"), whole=True)
        )
        return {}
    texts = [message.content for message in messages]
    answer = [] if sample.chosen else [texts.pop()]
    question = texts.pop() if texts else ""
    row: dict[str, Any] = {"instruction": question, "input": ""}
    if sample.chosen and sample.rejected:
        row["chosen"], row["rejected"] = sample.chosen.content, sample.rejected.content
    else:
        row["output"] = answer[0]
    if texts:
        row["history"] = [list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
    if system is not None:
        row["system"] = system
    if sample.tools:
        row["tools"] = _json([tool["function"] for tool in sample.tools])
    if sample.desirable is not None:
        row["kto_tag"] = sample.desirable
    return row


def _trl(sample: Sample, losses: list[Loss]) -> dict[str, Any]:
    extra: dict[str, Any] = {"tools": list(sample.tools)} if sample.tools else {}
    if sample.chosen and sample.rejected:
        return {
            "prompt": _openai_turns(sample.messages),
            "chosen": _openai_turns([sample.chosen]),
            "rejected": _openai_turns([sample.rejected]),
            **extra,
        }
    turns = _openai_turns(sample.messages)
    if sum(message.role == "assistant" for message in sample.messages) > 1:
        losses.append(
            Loss("prompt", tr("TRL learns the last answer only; earlier ones become the prompt"))
        )
    row = {"prompt": turns[:-1], "completion": turns[-1:], **extra}
    if sample.desirable is not None:
        row["label"] = sample.desirable
    return row


def _text(sample: Sample, losses: list[Loss]) -> dict[str, Any]:
    return {"text": sample.text}


_WRITERS: dict[Target, Callable[[Sample, list[Loss]], dict[str, Any]]] = {
    "openai": _openai,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "trl": _trl,
    "text": _text,
}


def _without_system(messages: Sequence[Message]) -> tuple[str | None, Sequence[Message]]:
    if messages and messages[0].role == "system":
        return messages[0].content, messages[1:]
    return None, messages


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def registry_entry(file_name: str, target: Target, columns: set[str]) -> dict[str, Any] | None:
    """What a dataset_info.json says of a file of such rows; None: LLaMA Factory cannot read them.

    Args:
        columns: those that the rows have.
    """
    if target == "trl":
        return None
    entry: dict[str, Any] = {"file_name": file_name}
    if target == "text":
        return {**entry, "columns": {"prompt": "text"}}
    named = {
        "openai": {"messages": "messages", "tools": "tools"},
        "sharegpt": {"messages": "conversations", "system": "system", "tools": "tools"},
        "alpaca": {"prompt": "instruction", "query": "input", "response": "output"}
        | {"history": "history", "system": "system", "tools": "tools"},
    }[target]
    named |= {"chosen": "chosen", "rejected": "rejected", "kto_tag": "kto_tag"}
    if target != "alpaca":
        # its `openai` adds a sentence to system turns, so it is for rows with functions only
        entry["formatting"] = target if "tools" in columns else "sharegpt"
    if {"chosen", "rejected"} <= columns:
        entry["ranking"] = True
    entry["columns"] = {part: column for part, column in named.items() if column in columns}
    if target == "openai":
        entry["tags"] = {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "observation_tag": "tool",
            "function_tag": "function_call",
            "system_tag": "system",
        }
    return entry
