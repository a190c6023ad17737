"""An Anthropic request as an OpenAI chat request, for channels that speak OpenAI's protocol.

Source: Anthropic's "Messages" and OpenAI's "Create chat completion" API references.
"""

from __future__ import annotations

from typing import Any

import orjson

from slipway.gateway.adapters.events import mapping, objects

_READ = {
    *("model", "messages", "system", "max_tokens", "temperature", "top_p", "stop_sequences"),
    *("stream", "tools", "tool_choice", "metadata", "output_config"),
}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh"}


def chat_body(
    body: dict[str, Any], model: str, limit_name: str
) -> tuple[dict[str, Any], list[str]]:
    """The body for `/v1/chat/completions`, and the fields that have no place in it.

    Args:
        limit_name: `max_tokens`, or `max_completion_tokens` where the former is refused.
    """
    dropped: list[str] = []
    messages: list[dict[str, Any]] = []
    if system := _text(body.get("system"), "system", dropped):
        messages.append({"role": "system", "content": system})
    for index, message in enumerate(objects(body.get("messages"))):
        messages += _turn(message, f"messages.{index}.content", dropped)
    found: dict[str, Any] = {"model": model, "messages": messages}
    names = {
        "max_tokens": limit_name,
        "temperature": "temperature",
        "top_p": "top_p",
        "stop_sequences": "stop",
    }
    found |= {name: body[key] for key, name in names.items() if body.get(key) is not None}
    if body.get("stream"):
        found |= {"stream": True, "stream_options": {"include_usage": True}}
    _tools(body, found, dropped)
    _output(mapping(body.get("output_config")), found, dropped)
    metadata = mapping(body.get("metadata"))
    if metadata.get("user_id"):
        found["user"] = metadata["user_id"]
    dropped += [f"metadata.{name}" for name in metadata if name != "user_id"]
    dropped += [name for name, value in body.items() if name not in _READ and value is not None]
    return found, dropped


def _output(output: dict[str, Any], found: dict[str, Any], dropped: list[str]) -> None:
    for name, value in output.items():
        form = mapping(value)
        if name == "effort" and value in _EFFORTS:
            found["reasoning_effort"] = _EFFORTS[value]
        elif name == "format" and form.get("type") == "json_schema":
            schema = {"name": "answer", "schema": form.get("schema"), "strict": True}
            found["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif value is not None:
            dropped.append(f"output_config.{name}")


def _tools(body: dict[str, Any], found: dict[str, Any], dropped: list[str]) -> None:
    tools = []
    for index, tool in enumerate(objects(body.get("tools"))):
        if "input_schema" not in tool:
            dropped.append(f"tools.{index}")  # runs at Anthropic's own servers
            continue
        function = {"name": tool.get("name"), "parameters": tool["input_schema"]}
        function |= {key: tool[key] for key in ("description", "strict") if key in tool}
        tools.append({"type": "function", "function": function})
        known = ("name", "input_schema", "description", "strict", "type")
        dropped += [f"tools.{index}.{key}" for key in tool if key not in known]
    if tools:
        found["tools"] = tools
    choice = mapping(body.get("tool_choice"))
    if not choice or not tools:
        return
    if choice.get("type") == "tool":
        found["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif choice.get("type") in _CHOICES:
        found["tool_choice"] = _CHOICES[choice["type"]]
    else:
        dropped.append("tool_choice")
    if choice.get("disable_parallel_tool_use"):
        found["parallel_tool_calls"] = False


def _turn(message: dict[str, Any], where: str, dropped: list[str]) -> list[dict[str, Any]]:
    """One turn; the results of tools become messages of their own, before the rest."""
    role, content = message.get("role"), message.get("content")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    results: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for index, block in enumerate(objects(content)):
        path = f"{where}.{index}"
        if "cache_control" in block:
            dropped.append(f"{path}.cache_control")
        kind = block.get("type")
        if kind == "tool_result":
            results.append(_result(block, path, dropped))
        elif kind == "tool_use":
            calls.append(_call(block))
        elif part := _part(block):
            parts.append(part)
        else:
            dropped.append(path)
    if role == "assistant":
        text = "".join(part.get("text", "") for part in parts)
        said: dict[str, Any] = {"role": role, "content": text or None}
        return [{**said, "tool_calls": calls} if calls else {**said, "content": text}]
    plain = all(part["type"] == "text" for part in parts) and len(parts) == 1
    rest = [{"role": role, "content": parts[0]["text"] if plain else parts}] if parts else []
    return results + rest


def _call(block: dict[str, Any]) -> dict[str, Any]:
    arguments = orjson.dumps(block.get("input") or {}).decode()
    function = {"name": block.get("name"), "arguments": arguments}
    return {"id": block.get("id"), "type": "function", "function": function}


def _result(block: dict[str, Any], where: str, dropped: list[str]) -> dict[str, Any]:
    if block.get("is_error"):
        dropped.append(f"{where}.is_error")
    text = _text(block.get("content"), f"{where}.content", dropped)
    return {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text}


def _text(content: object, where: str, dropped: list[str]) -> str:
    """The text of blocks that can be nothing else in OpenAI's protocol."""
    if isinstance(content, str):
        return content
    texts = []
    for index, block in enumerate(objects(content)):
        if block.get("type") == "text":
            texts.append(str(block.get("text", "")))
        else:
            dropped.append(f"{where}.{index}")
        if "cache_control" in block:
            dropped.append(f"{where}.{index}.cache_control")
    return "\n\n".join(texts)


def _part(block: dict[str, Any]) -> dict[str, Any] | None:
    if block.get("type") == "text":
        return {"type": "text", "text": str(block.get("text", ""))}
    source = mapping(block.get("source"))
    url = source.get("url")
    if source.get("type") == "base64":
        url = f"data:{source.get('media_type')};base64,{source.get('data')}"
    if block.get("type") == "image" and url:
        return {"type": "image_url", "image_url": {"url": url}}
    if block.get("type") == "document" and source.get("type") == "base64":
        name = block.get("title") or "document.pdf"
        return {"type": "file", "file": {"filename": name, "file_data": url}}
    return None
