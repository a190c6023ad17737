"""Anthropic's request bodies, and their messages and tools in the worker's (OpenAI's) shape."""

from __future__ import annotations

from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from slipway.api.schemas import KeepAlive
from slipway.core.errors import UsageError
from slipway.core.i18n import tr

Block = dict[str, Any]


class AnthropicMessage(BaseModel):
    """A turn: text, or blocks."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class CountBody(BaseModel):
    """POST /v1/messages/count_tokens."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str = ""
    messages: list[AnthropicMessage] = Field(default_factory=list)
    system: str | list[Block] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    keep_alive: KeepAlive = None


class MessagesBody(CountBody):
    """POST /v1/messages; `options`, `keep_alive` and `truncate` may be added as in Ollama."""

    max_tokens: int = Field(ge=1)
    stream: bool = False
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    stop_sequences: list[str] | None = None
    output_config: dict[str, Any] | None = None
    truncate: bool = False

    def named_options(self) -> dict[str, Any]:
        """The sampling fields in Ollama's names, over the `options` that came along."""
        named = {
            "num_predict": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "stop": self.stop_sequences,
        }
        return {**(self.options or {}), **{k: v for k, v in named.items() if v is not None}}


def to_messages(body: CountBody) -> list[dict[str, Any]]:
    """The conversation in the worker's shape; each tool's result is a message of its own.

    Raises:
        UsageError: a block of a kind that is not known here.
    """
    found: list[dict[str, Any]] = []
    system = body.system
    if system:
        text = system if isinstance(system, str) else _texts(system, "system")
        found.append({"role": "system", "content": text})
    for index, message in enumerate(body.messages):
        where = f"messages.{index}"
        if isinstance(message.content, str):
            found.append({"role": message.role, "content": message.content})
        elif message.role == "assistant":
            found.append(_assistant(message.content, where))
        else:
            found.extend(_user(message.role, message.content, where))
    return found


def _assistant(blocks: list[Block], where: str) -> dict[str, Any]:
    texts, thoughts, calls = [], [], []
    for index, block in enumerate(blocks):
        match block.get("type"):
            case "text":
                texts.append(str(block.get("text", "")))
            case "thinking":
                thoughts.append(str(block.get("thinking", "")))
            case "redacted_thinking":
                continue
            case "tool_use":
                arguments = orjson.dumps(block.get("input") or {}).decode()
                function = {"name": str(block.get("name", "")), "arguments": arguments}
                calls.append({"id": block.get("id"), "type": "function", "function": function})
            case kind:
                raise _unknown(f"{where}.content.{index}", kind)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _user(role: str, blocks: list[Block], where: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for index, block in enumerate(blocks):
        here = f"{where}.content.{index}"
        match block.get("type"):
            case "text":
                parts.append({"type": "text", "text": str(block.get("text", ""))})
            case "image":
                parts.append(_image(block, here))
            case "tool_result":
                content = block.get("content") or ""
                text = content if isinstance(content, str) else _texts(content, here)
                if block.get("is_error"):
                    text = f"error: {text}"
                result = {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text}
                found.append(result)
            case kind:
                raise _unknown(here, kind)
    if parts:
        plain = all(part["type"] == "text" for part in parts)
        content = "\n\n".join(part["text"] for part in parts) if plain else parts
        found.append({"role": role, "content": content})
    return found


def _image(block: Block, where: str) -> dict[str, Any]:
    source = block.get("source") or {}
    if source.get("type") != "base64":
        raise UsageError(
            "request.unsupported",
            tr("{where}: only pictures as base64 are read here", where=where),
        )
    url = f"data:{source.get('media_type', 'image/png')};base64,{source.get('data', '')}"
    return {"type": "image_url", "image_url": {"url": url}}


def _texts(blocks: list[Block], where: str) -> str:
    for index, block in enumerate(blocks):
        if block.get("type") != "text":
            raise _unknown(f"{where}.{index}", block.get("type"))
    return "\n\n".join(str(block.get("text", "")) for block in blocks)


def _unknown(where: str, kind: Any) -> UsageError:
    return UsageError(
        "request.unsupported",
        tr("{where}: a block of type `{kind}` is not supported", where=where, kind=kind),
    )


def has_images(messages: list[dict[str, Any]]) -> bool:
    """Whether some message carries a picture."""
    parts = [m["content"] for m in messages if isinstance(m.get("content"), list)]
    return any(part["type"] == "image_url" for content in parts for part in content)


def to_tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tools in the worker's shape.

    Raises:
        UsageError: one is run by Anthropic's servers, which are not here.
    """
    found = []
    for index, tool in enumerate(tools):
        if tool.get("type") not in (None, "custom"):
            raise UsageError(
                "request.unsupported",
                tr(
                    "tools.{index}: `{kind}` is a tool of Anthropic's servers",
                    index=index,
                    kind=tool["type"],
                ),
            )
        function = {
            "name": tool.get("name", ""),
            "description": tool.get("description", ""),
            "parameters": tool.get("input_schema") or {"type": "object"},
        }
        found.append({"type": "function", "function": function})
    return found


def to_tool_choice(choice: dict[str, Any] | None) -> str | dict[str, Any] | None:
    """`tool_choice` in the worker's words."""
    match (choice or {}).get("type"):
        case "any":
            return "required"
        case "none":
            return "none"
        case "tool":
            return {"type": "function", "function": {"name": (choice or {}).get("name", "")}}
    return None
