"""What POST /v1/responses takes, turned into the messages that every model is sent.

The daemon keeps no conversations: a client sends the earlier items again, as the ones that the
API's own documentation calls stateless.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from slipway.api.prompts import check_media
from slipway.api.schemas import OpenAIBody
from slipway.core.errors import UsageError
from slipway.core.i18n import tr

_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_CALLS = ("function_call", "custom_tool_call")


class ResponsesBody(OpenAIBody):
    """POST /v1/responses."""

    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    include: list[str] | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    truncation: str = "disabled"
    metadata: dict[str, Any] | None = None
    user: str | None = None
    store: bool | None = None
    background: bool = False
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None

    def named_options(self) -> dict[str, Any]:
        """As `OpenAIBody`'s, with this route's name for the longest answer."""
        named = super().named_options()
        if self.max_output_tokens is not None:
            named["num_predict"] = self.max_output_tokens
        return named

    @property
    def wants_logprobs(self) -> bool:
        """Whether log-probabilities of the answer's tokens were asked for."""
        return "message.output_text.logprobs" in (self.include or [])


def check_stateless(body: ResponsesBody) -> None:
    """Refuse what would need a conversation that is kept here.

    Raises:
        UsageError: the request goes on from an earlier one, or wants no answer now.
    """
    for name in ("previous_response_id", "conversation", "background"):
        if getattr(body, name):
            raise UsageError(
                "request.unsupported",
                tr("`{name}` is not supported: no conversations are kept here", name=name),
                tr("send the earlier items in `input`"),
            )


def to_messages(body: ResponsesBody) -> tuple[list[dict[str, Any]], bool]:
    """The request's items as chat messages, and whether there are pictures in them.

    Raises:
        UsageError: an item is of a kind that cannot be read here; it is named by its place.
    """
    if not body.input:
        raise UsageError("request.no_input", tr("input is required"))
    items = body.input
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    messages: list[dict[str, Any]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    pictures, thoughts = False, ""
    for index, item in enumerate(items):
        where = f"input.{index}"
        kind = item.get("type") or "message"
        if kind == "reasoning":
            thoughts += _text_of(item.get("content") or item.get("summary"), where)
            continue
        if kind == "message":
            message, has_pictures = _message(item, where)
            pictures = pictures or has_pictures
            messages.append(message)
        elif kind in _CALLS:
            _add_call(messages, item)
        elif kind in ("function_call_output", "custom_tool_call_output"):
            messages.append(_result(item, where))
        else:
            raise UsageError(
                "request.unsupported",
                tr("{where}: an item of type `{kind}` is not supported", where=where, kind=kind),
            )
        if thoughts and messages[-1]["role"] == "assistant":
            messages[-1]["reasoning_content"], thoughts = thoughts, ""
    return messages, pictures


def _message(item: dict[str, Any], where: str) -> tuple[dict[str, Any], bool]:
    role = item.get("role")
    if not isinstance(role, str):
        raise UsageError(
            "request.bad_field",
            tr("field `{field}`: {reason}", field=f"{where}.role", reason="required"),
        )
    content = item.get("content")
    parts = [_part(p, where) for p in content] if isinstance(content, list) else None
    if parts is not None and all(part["type"] == "text" for part in parts):
        content = "".join(part["text"] for part in parts)
    elif parts is not None:
        content = parts
    role = "system" if role == "developer" else role
    return {"role": role, "content": content or ""}, check_media(content, where)


def _part(part: Any, where: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _TEXTS:
        return {"type": "text", "text": str(part.get("text") or "")}
    if kind == "refusal":
        return {"type": "text", "text": str(part.get("refusal") or "")}
    if kind == "input_image":
        return {"type": "image_url", "image_url": {"url": part.get("image_url")}}
    raise UsageError(
        "request.unsupported",
        tr("{where}: a block of type `{kind}` is not supported", where=where, kind=kind),
    )


def _text_of(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    parts = [_part(part, where) for part in content or []]
    if any(part["type"] != "text" for part in parts):
        raise UsageError(
            "request.unsupported",
            tr(
                "{where}: a block of type `{kind}` is not supported",
                where=where,
                kind="input_image",
            ),
        )
    return "".join(part["text"] for part in parts)


def _add_call(messages: list[dict[str, Any]], item: dict[str, Any]) -> None:
    """Calls belong to the assistant's message before them; templates want them in one."""
    call = {
        "id": str(item.get("call_id") or item.get("id") or ""),
        "type": "function",
        "function": {
            "name": str(item.get("name") or ""),
            "arguments": str(item.get("arguments") or item.get("input") or "{}"),
        },
    }
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    messages[-1].setdefault("tool_calls", []).append(call)


def _result(item: dict[str, Any], where: str) -> dict[str, Any]:
    return {
        "role": "tool",
        "tool_call_id": str(item.get("call_id") or ""),
        "content": _text_of(item.get("output"), where),
    }


def to_tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Flat tools of this API as those of /v1/chat/completions.

    Raises:
        UsageError: a tool of the kind that OpenAI's servers run themselves.
    """
    turned = []
    for index, tool in enumerate(tools):
        if tool.get("type") != "function":
            raise UsageError(
                "request.unsupported",
                tr(
                    "tools.{index}: `{kind}` is run by OpenAI's servers, not here",
                    index=index,
                    kind=tool.get("type"),
                ),
            )
        names = ("name", "description", "parameters", "strict")
        function = {name: tool[name] for name in names if tool.get(name) is not None}
        turned.append({"type": "function", "function": function})
    return turned


def to_tool_choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    """`tool_choice`, where a function's name stands one level higher than in a chat."""
    if isinstance(choice, dict) and choice.get("type") == "function" and "name" in choice:
        return {"type": "function", "function": {"name": choice["name"]}}
    return choice


def to_format(text: dict[str, Any] | None) -> dict[str, Any] | None:
    """`text.format` as `response_format`; None is free text."""
    wanted = (text or {}).get("format") or {}
    kind = wanted.get("type", "text")
    if kind == "text":
        return None
    if kind == "json_schema":
        rest = {name: value for name, value in wanted.items() if name != "type"}
        return {"type": "json_schema", "json_schema": rest}
    return {"type": kind}
