"""From a request's messages to what the worker is sent: the model's own texts put in."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import orjson

from slipway.api.schemas import Message
from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.store import ModelManifest

_PICTURES = ((b"\x89PNG", "image/png"), (b"GIF8", "image/gif"), (b"RIFF", "image/webp"))


def with_model_messages(
    model: ModelManifest, messages: Sequence[dict[str, Any]], system: str | None = None
) -> list[dict[str, Any]]:
    """The conversation as the model gets it: system, the Modelfile's MESSAGEs, the request's.

    The Modelfile's SYSTEM is used only when neither the request nor MESSAGE brings one.

    Args:
        system: the request's own system text; an empty one means none at all.
    """
    rest = list(messages)
    first: list[dict[str, Any]] = []
    if rest and rest[0]["role"] == "system":
        first = [rest.pop(0)]
    elif system is not None:
        first = [{"role": "system", "content": system}] if system else []
    elif model.system and not any(m["role"] == "system" for m in model.messages):
        first = [{"role": "system", "content": model.system}]
    return [*first, *model.messages, *rest]


def from_ollama(message: Message) -> dict[str, Any]:
    """A message of /api/chat in the worker's (OpenAI's) shape.

    Raises:
        UsageError: an image is not base64.
    """
    content: Any = message.content
    if message.images:
        content = with_images(message.content, message.images)
    turned: dict[str, Any] = {"role": message.role.lower(), "content": content}
    if message.tool_calls:
        turned["tool_calls"] = [_tool_call(c, i) for i, c in enumerate(message.tool_calls)]
    if message.tool_call_id:
        turned["tool_call_id"] = message.tool_call_id
    if message.tool_name:
        turned["name"] = message.tool_name
    return turned


def with_images(text: str, images: Sequence[str]) -> list[dict[str, Any]]:
    """A text and base64 pictures as content parts, the pictures first.

    Raises:
        UsageError: one is not base64.
    """
    parts: list[dict[str, Any]] = []
    for image in images:
        data = image.partition(",")[2] if image.startswith("data:") else image
        try:
            head = base64.b64decode(data, validate=True)[:12]
        except ValueError:
            raise UsageError("request.bad_image", tr("an image is not valid base64")) from None
        kind = next((k for mark, k in _PICTURES if head.startswith(mark)), "image/jpeg")
        url = {"url": f"data:{kind};base64,{data}"}
        parts.append({"type": "image_url", "image_url": url})
    return [*parts, {"type": "text", "text": text}]


def check_media(content: object, where: str) -> bool:
    """Whether a content has pictures; what else is no text is refused.

    A picture must come along as base64: nothing is fetched for a request.

    Raises:
        UsageError: sound, a file, or a picture that is only named by an address.
    """
    pictures = False
    for part in content if isinstance(content, list) else []:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("input_audio", "file"):
            raise UsageError("request.unsupported", tr("`{name}` is not supported", name=kind))
        if kind == "image_url":
            image = part.get("image_url")
            url = image.get("url") if isinstance(image, dict) else image
            if not (isinstance(url, str) and url.startswith("data:image/")):
                raise UsageError(
                    "request.bad_image",
                    tr("{where}: only pictures as base64 are read here", where=where),
                )
            pictures = True
    return pictures


def _tool_call(call: dict[str, Any], index: int) -> dict[str, Any]:
    function = call.get("function") or {}
    arguments = function.get("arguments") or {}
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    return {
        "id": call.get("id") or f"call_{index}",
        "type": "function",
        "function": {"name": function.get("name", ""), "arguments": text},
    }


def to_ollama(calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whole tool calls in Ollama's shape: arguments are an object."""
    turned = []
    for index, call in enumerate(calls):
        text = call["function"]["arguments"]
        try:
            arguments = orjson.loads(text) if text else {}
        except orjson.JSONDecodeError:
            arguments = {"_raw": text}  # cut by num_predict; the client sees what there is
        function = {"index": index, "name": call["function"]["name"], "arguments": arguments}
        turned.append({"id": call["id"], "function": function})
    return turned


def response_format(wanted: str | dict[str, Any] | None) -> dict[str, Any] | None:
    """Ollama's `format` as the JSON schema for the worker's grammar; None for free text.

    Raises:
        UsageError: neither "json" nor a schema.
    """
    if wanted is None or wanted == "":
        return None
    if wanted == "json":
        return {"type": "object"}
    if isinstance(wanted, dict):
        return wanted
    raise UsageError(
        "request.bad_format",
        tr('format must be "json" or a JSON schema, not `{value}`', value=wanted),
    )


def thinking_options(think: bool | str | None) -> dict[str, Any]:
    """Ollama's `think` as arguments for the chat template."""
    if think is None:
        return {}
    if isinstance(think, bool):
        return {"chat_template_kwargs": {"enable_thinking": think}}
    return {"chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": think}}
