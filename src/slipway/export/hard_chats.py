"""Conversations that programs render in different ways: tools, thoughts, control tokens in a text.

They are compared as the plain ones are, but a difference is recorded, not refused: whether a model
is served with tools or with its thoughts is its user's choice, who should know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from slipway.core.errors import ToolError

Conversation = Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]]
"""What whoever is asked makes of messages before they are rendered."""

Result = Literal["equal", "differs", "refused by the template", "refused by the engine"]

_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find_order",
            "description": "Find an order by its number. 按编号查询订单。",
            "parameters": {
                "type": "object",
                "properties": {"number": {"type": "string", "description": "such as 48213"}},
                "required": ["number"],
            },
        },
    }
]
_ASK = {"role": "user", "content": "Where is my order 48213?"}
_CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "find_order", "arguments": {"number": "48213"}},
        }
    ],
}
_FOUND = {"role": "tool", "tool_call_id": "call_1", "content": '{"state": "在路上"}'}


@dataclass(frozen=True, slots=True)
class HardChat:
    """A conversation with its name, and the tools that are offered in it."""

    name: str
    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()


HARD_CHATS = (
    HardChat("tools offered", (_ASK,), tuple(_TOOLS)),
    HardChat("a tool called and its result", (_ASK, _CALL, _FOUND), tuple(_TOOLS)),
    HardChat(
        "thoughts of an earlier answer",
        (
            {"role": "user", "content": "Is 17 a prime?"},
            {"role": "assistant", "content": "<think>\n2, 3 and 4² < 17.\n</think>\n\nYes. 是。"},
            {"role": "user", "content": "And 18?"},
        ),
    ),
    HardChat(
        "control tokens in a user's text",
        ({"role": "user", "content": "What does <|im_end|> mean? </s> <|endoftext|>"},),
    ),
    HardChat(
        "an empty text and spaces at the edges",
        (
            {"role": "system", "content": ""},
            {"role": "user", "content": "  \n two lines \n\n"},
        ),
    ),
)


class Asked(Protocol):
    """Who tokenizes and renders: a llama-server, or a running daemon that answers as one."""

    def get(self, path: str) -> Any:
        """The JSON answer to a GET."""
        ...

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer to a POST."""
        ...


def compare_hard_chats(
    server: Asked,
    tokenizer: Any,
    conversation: Conversation = list,
    chats: Sequence[HardChat] = HARD_CHATS,
) -> list[dict[str, Any]]:
    """Each conversation as the folder and as the engine render it.

    Returns:
        For each: case, tokens (of the folder), result (`Result`), and detail (English): the first
        difference, or why it was refused.
    """
    return [_compare(server, tokenizer, chat, conversation) for chat in chats]


def _compare(
    server: Asked, tokenizer: Any, chat: HardChat, conversation: Conversation
) -> dict[str, Any]:
    from jinja2 import TemplateError

    messages = [dict(message) for message in chat.messages]
    tools = [dict(tool) for tool in chat.tools]
    try:
        trained = tokenizer.apply_chat_template(
            conversation(messages), tools=tools or None, add_generation_prompt=True, tokenize=False
        )
    except (TemplateError, TypeError, KeyError, ValueError) as error:
        return _told(chat, 0, "refused by the template", str(error))
    ids = list(tokenizer(trained, add_special_tokens=False)["input_ids"])
    count = len(ids)
    for message in messages:  # over HTTP arguments are a text
        for call in message.get("tool_calls", []):
            message["tool_calls"] = [_as_text(call)]
    body = {"messages": messages, **({"tools": tools} if tools else {})}
    try:
        found = str(server.post("/apply-template", body)["prompt"])
    except ToolError as error:
        return _told(chat, count, "refused by the engine", error.message_en.splitlines()[0])
    content = {"content": found, "add_special": True, "parse_special": True}
    if ids == server.post("/tokenize", content)["tokens"]:
        return _told(chat, count, "equal", "")
    at = next(
        (i for i, (a, b) in enumerate(zip(trained, found, strict=False)) if a != b),
        min(len(trained), len(found)),
    )
    place = slice(max(0, at - 20), at + 40)
    detail = "the same text, other tokens"
    if at < max(len(trained), len(found)):
        detail = f"at character {at}: trained {trained[place]!r}, engine {found[place]!r}"
    return _told(chat, count, "differs", detail)


def _as_text(call: dict[str, Any]) -> dict[str, Any]:
    import json

    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def _told(chat: HardChat, tokens: int, result: Result, detail: str) -> dict[str, Any]:
    return {"case": chat.name, "tokens": tokens, "result": result, "detail": detail[:300]}
