"""OpenAI's chat and embedding requests as Gemini's.

Source: "Generating content" and "Embeddings" of the Gemini API reference (ai.google.dev).
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.gateway.adapters.events import mapping, objects

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.DOTALL)
_SAMPLING = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "n": "candidateCount",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
    "max_tokens": "maxOutputTokens",
    "max_completion_tokens": "maxOutputTokens",
}
_READ = {
    *_SAMPLING,
    *("model", "messages", "stop", "stream", "stream_options", "tools", "tool_choice"),
    *("response_format", "reasoning_effort", "safety_settings"),
}
# tokens of thought; the figures by which Gemini's own OpenAI face translates these words
_THOUGHT = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}
_MODES = {"auto": "AUTO", "required": "ANY", "none": "NONE"}


def generate_body(body: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The body for `generateContent`, and the fields that have no place in it.

    Raises:
        UsageError: a message that cannot be translated.
    """
    dropped: list[str] = []
    system, contents = _conversation(body.get("messages"), dropped)
    found: dict[str, Any] = {"contents": contents}
    if system:
        found["systemInstruction"] = {"parts": system}
    if config := _config(body, dropped):
        found["generationConfig"] = config
    _tools(body, found, dropped)
    if body.get("safety_settings") is not None:
        found["safetySettings"] = body["safety_settings"]
    dropped += [name for name, value in body.items() if name not in _READ and value is not None]
    return found, dropped


def embed_body(body: dict[str, Any], model: str) -> tuple[dict[str, Any], list[str]]:
    """The body for `batchEmbedContents`, and the fields that have no place in it.

    Raises:
        UsageError: the input is not text.
    """
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _unreadable("input")
    size = body.get("dimensions")
    more = {} if size is None else {"outputDimensionality": size}
    requests = [
        {"model": f"models/{model}", "content": {"parts": [{"text": text}]}, **more}
        for text in texts
    ]
    known = ("model", "input", "dimensions")
    dropped = [
        name
        for name, value in body.items()
        if name not in known and value is not None and (name, value) != ("encoding_format", "float")
    ]
    return {"requests": requests}, dropped


def _config(body: dict[str, Any], dropped: list[str]) -> dict[str, Any]:
    config = {name: body[key] for key, name in _SAMPLING.items() if body.get(key) is not None}
    if stop := body.get("stop"):
        config["stopSequences"] = [stop] if isinstance(stop, str) else stop
    form = mapping(body.get("response_format"))
    if form.get("type") in ("json_object", "json_schema"):
        config["responseMimeType"] = "application/json"
        if schema := mapping(form.get("json_schema")).get("schema"):
            config["responseJsonSchema"] = schema
    elif form and form.get("type") != "text":
        dropped.append("response_format")
    effort = body.get("reasoning_effort")
    if effort in _THOUGHT:
        budget = _THOUGHT[effort]
        config["thinkingConfig"] = {"thinkingBudget": budget, "includeThoughts": budget > 0}
    elif effort is not None:
        dropped.append("reasoning_effort")
    return config


def _tools(body: dict[str, Any], found: dict[str, Any], dropped: list[str]) -> None:
    declared = []
    for index, tool in enumerate(objects(body.get("tools"))):
        function = mapping(tool.get("function"))
        if not function.get("name"):
            dropped.append(f"tools.{index}")
            continue
        made = {"name": function["name"], "description": function.get("description") or ""}
        if parameters := function.get("parameters"):
            made["parametersJsonSchema"] = parameters
        if function.get("strict") is not None:
            dropped.append(f"tools.{index}.function.strict")
        declared.append(made)
    if declared:
        found["tools"] = [{"functionDeclarations": declared}]
    choice = body.get("tool_choice")
    name = mapping(mapping(choice).get("function")).get("name")
    if isinstance(choice, str) and choice in _MODES:
        found["toolConfig"] = {"functionCallingConfig": {"mode": _MODES[choice]}}
    elif name:
        only = {"mode": "ANY", "allowedFunctionNames": [name]}
        found["toolConfig"] = {"functionCallingConfig": only}
    elif choice is not None:
        dropped.append("tool_choice")


def _conversation(
    messages: object, dropped: list[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """System parts, and turns; results of tools name the function, which the call's id leads to."""
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    names: dict[object, object] = {}
    for index, message in enumerate(objects(messages)):
        where, role = f"messages.{index}", message.get("role")
        if message.get("name") is not None and role != "tool":
            dropped.append(f"{where}.name")
        if role == "tool":
            parts = [_result(message, names, where, dropped)]
        elif role in ("system", "developer", "user", "assistant"):
            parts = _parts(message.get("content"), f"{where}.content", dropped)
        else:
            raise _unreadable(f"{where}.role")
        if role in ("system", "developer"):
            system += parts
            continue
        if role == "assistant":
            if message.get("reasoning_content"):
                dropped.append(f"{where}.reasoning_content")
            for number, call in enumerate(objects(message.get("tool_calls"))):
                parts.append(_call(call, f"{where}.tool_calls.{number}"))
                names[call.get("id")] = mapping(call.get("function")).get("name")
        turn_role = "model" if role == "assistant" else "user"
        if turns and turns[-1]["role"] == turn_role:
            turns[-1]["parts"] += parts
        elif parts:
            turns.append({"role": turn_role, "parts": parts})
    return system, turns


def _call(call: dict[str, Any], where: str) -> dict[str, Any]:
    function = mapping(call.get("function"))
    path = f"{where}.function.arguments"
    arguments = _object(function.get("arguments") or "{}")
    if arguments is None:
        raise _unreadable(path)
    part: dict[str, Any] = {"functionCall": {"name": function.get("name"), "args": arguments}}
    google = mapping(mapping(call.get("extra_content")).get("google"))
    if signature := google.get("thought_signature"):
        part["thoughtSignature"] = signature
    return part


def _result(
    message: dict[str, Any], names: dict[object, object], where: str, dropped: list[str]
) -> dict[str, Any]:
    name = names.get(message.get("tool_call_id")) or message.get("name")
    if not name:
        raise _unreadable(f"{where}.tool_call_id")
    parts = _parts(message.get("content"), f"{where}.content", dropped)
    text = "".join(part.get("text", "") for part in parts)
    response = _object(text) or {"result": text}
    return {"functionResponse": {"name": name, "response": response}}


def _parts(content: object, where: str, dropped: list[str]) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"text": content}] if content else []
    found = []
    for index, given in enumerate(objects(content)):
        part = _part(given)
        if part is None:
            dropped.append(f"{where}.{index}")
        else:
            found.append(part)
    return found


def _part(part: dict[str, Any]) -> dict[str, Any] | None:
    kind = part.get("type")
    if kind in ("text", "refusal"):
        return {"text": str(part.get(kind, ""))}
    if kind == "input_audio":
        audio = mapping(part.get("input_audio"))
        return _inline(f"audio/{audio.get('format')}", audio.get("data"))
    image = part.get("image_url")
    data = image if isinstance(image, str) else mapping(image).get("url")
    if kind == "file":
        data = mapping(part.get("file")).get("file_data")
    match = _DATA_URL.fullmatch(data) if isinstance(data, str) else None
    return _inline(match[1], match[2]) if match else None


def _inline(mime_type: str, data: object) -> dict[str, Any]:
    return {"inlineData": {"mimeType": mime_type, "data": data}}


def _object(text: object) -> dict[str, Any] | None:
    try:
        value = orjson.loads(text) if isinstance(text, str) else None
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _unreadable(where: str) -> UsageError:
    return UsageError(
        "gateway.untranslatable",
        tr("`{where}` cannot be translated for this model's server", where=where),
        tr("correct it, or ask for a model that is served by OpenAI's protocol"),
    )
