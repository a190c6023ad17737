"""An OpenAI chat request as an Anthropic one.

Source: Anthropic's "Messages" and OpenAI's "Create chat completion" API references.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.gateway.adapters.events import mapping, objects
from slipway.gateway.pricing import ASSUMED_COMPLETION_TOKENS

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.DOTALL)
# Anthropic's own fields, for clients that add them to an OpenAI body
_OWN_FIELDS = ("top_k", "thinking", "cache_control", "container", "output_config")
_READ_ELSEWHERE = {
    *("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p"),
    *("stop", "stream", "stream_options", "tools", "tool_choice", "parallel_tool_calls"),
    *("user", "response_format", "reasoning_effort", "metadata"),
}
_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh"}


def messages_body(body: dict[str, Any], model: str) -> tuple[dict[str, Any], list[str]]:
    """The body for `/v1/messages`, and the fields that have no place in it.

    Raises:
        UsageError: a message that cannot be translated.
    """
    dropped: list[str] = []
    system, turns = _conversation(body.get("messages"), dropped)
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    found: dict[str, Any] = {
        "model": model,
        "max_tokens": limit or ASSUMED_COMPLETION_TOKENS,
        "messages": turns,
    }
    if system:
        found["system"] = system
    if body.get("stream"):
        found["stream"] = True
    for field in _OWN_FIELDS:
        if body.get(field) is not None:
            found[field] = body[field]
    _sampling(body, found, dropped)
    _tools(body, found, dropped)
    _output(body, found, dropped)
    metadata = mapping(body.get("metadata"))
    if user := body.get("user") or metadata.get("user_id"):
        found["metadata"] = {"user_id": user}
    dropped += [f"metadata.{name}" for name in metadata if name != "user_id"]
    for field, value in body.items():
        unknown = field not in _READ_ELSEWHERE and field not in _OWN_FIELDS
        if unknown and value is not None and not (field == "n" and value == 1):
            dropped.append(field)
    return found, dropped


def _sampling(body: dict[str, Any], found: dict[str, Any], dropped: list[str]) -> None:
    temperature = body.get("temperature")
    if isinstance(temperature, int | float):
        # OpenAI's goes to 2
        found["temperature"] = min(temperature, 1)
        if temperature > 1:
            dropped.append("temperature")
    if body.get("top_p") is not None:
        found["top_p"] = body["top_p"]
    if stop := body.get("stop"):
        found["stop_sequences"] = [stop] if isinstance(stop, str) else stop


def _output(body: dict[str, Any], found: dict[str, Any], dropped: list[str]) -> None:
    output: dict[str, Any] = {}
    form = mapping(body.get("response_format"))
    if form.get("type") == "json_schema":
        schema = mapping(form.get("json_schema")).get("schema")
        output["format"] = {"type": "json_schema", "schema": schema}
    elif form and form.get("type") != "text":
        dropped.append("response_format")
    effort = body.get("reasoning_effort")
    if effort == "none":
        found.setdefault("thinking", {"type": "disabled"})
    elif effort in _EFFORTS:
        output["effort"] = _EFFORTS[effort]
    elif effort is not None:
        dropped.append("reasoning_effort")
    if output:
        found["output_config"] = {**output, **mapping(found.get("output_config"))}


def _tools(body: dict[str, Any], found: dict[str, Any], dropped: list[str]) -> None:
    tools = []
    for index, tool in enumerate(objects(body.get("tools"))):
        function = mapping(tool.get("function"))
        if function.get("name"):
            schema = function.get("parameters") or {"type": "object", "properties": {}}
            made = {"name": function["name"], "input_schema": schema}
            kept = ((key, function.get(key)) for key in ("description", "strict"))
            made |= {key: value for key, value in kept if value is not None}
            tools.append(made)
        elif tool.get("name"):
            tools.append(tool)  # one of Anthropic's own
        else:
            dropped.append(f"tools.{index}")
    if tools:
        found["tools"] = tools
    choice = _tool_choice(body.get("tool_choice"), dropped)
    if body.get("parallel_tool_calls") is False and tools:
        choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
    if choice:
        found["tool_choice"] = choice


def _tool_choice(choice: object, dropped: list[str]) -> dict[str, Any] | None:
    if choice is None:
        return None
    if isinstance(choice, str) and choice in ("auto", "none", "required"):
        return {"type": "any" if choice == "required" else choice}
    asked = mapping(choice)
    if name := mapping(asked.get("function")).get("name"):
        return {"type": "tool", "name": name}
    dropped.append("tool_choice")
    return None


def _conversation(
    messages: object, dropped: list[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """System blocks, and turns; neighbours of one role become one turn, as Anthropic wants it."""
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for index, message in enumerate(objects(messages)):
        where = f"messages.{index}"
        role = message.get("role")
        if message.get("name") is not None and role != "tool":
            dropped.append(f"{where}.name")
        if role in ("system", "developer"):
            system += _blocks(message.get("content"), f"{where}.content", dropped)
            continue
        if role == "tool":
            blocks = [_tool_result(message, f"{where}.content", dropped)]
        elif role == "assistant":
            blocks = _assistant(message, where, dropped)
        elif role == "user":
            blocks = _blocks(message.get("content"), f"{where}.content", dropped)
        else:
            raise _unreadable(f"{where}.role")
        turn_role = "assistant" if role == "assistant" else "user"
        if turns and turns[-1]["role"] == turn_role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": turn_role, "content": blocks})
    return system, turns


def _assistant(message: dict[str, Any], where: str, dropped: list[str]) -> list[dict[str, Any]]:
    if message.get("reasoning_content"):
        # thinking can only be given back with the signature that OpenAI's protocol has no place for
        dropped.append(f"{where}.reasoning_content")
    blocks = _blocks(message.get("content"), f"{where}.content", dropped)
    for index, call in enumerate(objects(message.get("tool_calls"))):
        function = mapping(call.get("function"))
        path = f"{where}.tool_calls.{index}.function.arguments"
        try:
            arguments = orjson.loads(function.get("arguments") or "{}")
        except (orjson.JSONDecodeError, TypeError) as error:
            raise _unreadable(path) from error
        if not isinstance(arguments, dict):
            raise _unreadable(path)
        used = {"id": call.get("id"), "name": function.get("name"), "input": arguments}
        blocks.append({"type": "tool_use", **used})
    return blocks


def _tool_result(message: dict[str, Any], where: str, dropped: list[str]) -> dict[str, Any]:
    result = {"type": "tool_result", "tool_use_id": message.get("tool_call_id")}
    content = message.get("content")
    return {
        **result,
        "content": content if isinstance(content, str) else _blocks(content, where, dropped),
    }


def _blocks(content: object, where: str, dropped: list[str]) -> list[dict[str, Any]]:
    if isinstance(content, str):
        # empty text is refused
        return [{"type": "text", "text": content}] if content else []
    found = []
    for index, part in enumerate(objects(content)):
        block = _block(part)
        if block is None:
            dropped.append(f"{where}.{index}")
        elif block.get("text") != "":
            if "cache_control" in part:
                block["cache_control"] = part["cache_control"]
            found.append(block)
    return found


def _block(part: dict[str, Any]) -> dict[str, Any] | None:
    kind = part.get("type")
    if kind in ("text", "refusal"):
        return {"type": "text", "text": str(part.get(kind, ""))}
    if kind == "image_url":
        image = part.get("image_url")
        url = str(image if isinstance(image, str) else mapping(image).get("url", ""))
        return {"type": "image", "source": _source(url)}
    if kind == "file":
        data = mapping(part.get("file")).get("file_data")
        if isinstance(data, str) and _DATA_URL.fullmatch(data):
            return {"type": "document", "source": _source(data)}
    return None


def _source(url: str) -> dict[str, Any]:
    if match := _DATA_URL.fullmatch(url):
        return {"type": "base64", "media_type": match[1], "data": match[2]}
    return {"type": "url", "url": url}


def _unreadable(where: str) -> UsageError:
    return UsageError(
        "gateway.untranslatable",
        tr("`{where}` cannot be translated for this model's server", where=where),
        tr("correct it, or ask for a model that is served by OpenAI's protocol"),
    )
