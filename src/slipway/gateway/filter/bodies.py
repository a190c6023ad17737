"""Which texts of a request or an answer are looked at.

Known are the bodies of OpenAI's chat completions, completions, embeddings, responses and
moderations, of Anthropic's messages, of Ollama's chat, generate and embed, and of rerank. Unknown
fields are not looked at; ids, names, pictures and sounds are no texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

MAX_DEPTH = 32
"""Levels of nesting that are looked at; the relay refuses deeper bodies."""

Text = tuple[str, str]
"""Where a text stands, such as `messages[2].content`, and the text."""

_REQUEST = (
    "system", "instructions", "messages", "prompt", "suffix", "input", "query", "documents",
    "template", "prediction",
)  # fmt: skip
_MESSAGE = (
    "content", "reasoning_content", "reasoning", "thinking", "refusal", "text", "input_text",
    "summary", "output", "arguments", "input", "tool_calls", "function_call", "function",
)  # fmt: skip
_PART = ("text", "thinking", "refusal", "input_text", "output_text")
_JSON = frozenset({"arguments", "input"})
_ANSWER = ("choices", "content", "output", "message", "response", "thinking")


def request_texts(body: Mapping[str, Any]) -> Iterator[Text]:
    """The texts of a request, in order."""
    for field in _REQUEST:
        if field in body:
            yield from _texts(field, body[field], 0)


def answer_texts(body: Mapping[str, Any]) -> Iterator[Text]:
    """The texts of a whole answer, in order."""
    for field in _ANSWER:
        value = body.get(field)
        if field == "choices" and isinstance(value, list):
            for number, choice in enumerate(value):
                if isinstance(choice, dict):
                    for inner in ("message", "text"):
                        where = f"choices[{number}].{inner}"
                        yield from _texts(where, choice.get(inner), 1)
        else:
            yield from _texts(field, value, 0)


def _texts(where: str, value: Any, depth: int) -> Iterator[Text]:
    if depth > MAX_DEPTH:
        return
    if isinstance(value, str):
        if value:
            yield where, value
    elif isinstance(value, list):
        yield from _list(where, value, depth)
    elif isinstance(value, dict):
        yield from _object(where, value, depth)


def _list(where: str, items: list[Any], depth: int) -> Iterator[Text]:
    """Texts of a list; parts of one content that follow each other are one text."""
    run: list[str] = []
    start = 0
    for number, item in enumerate(items):
        text = _part_text(item)
        if text is not None:
            start = start if run else number
            run.append(text)
            continue
        if run:
            yield f"{where}[{start}]", "".join(run)
            run = []
        yield from _texts(f"{where}[{number}]", item, depth + 1)
    if run:
        yield f"{where}[{start}]", "".join(run)


def _part_text(item: Any) -> str | None:
    """The text of a part that has nothing else (not a message: those have a role)."""
    if not isinstance(item, dict) or "role" in item or "content" in item:
        return None
    texts = [item[name] for name in _PART if isinstance(item.get(name), str)]
    return texts[0] if len(texts) == 1 else None


def _object(where: str, value: dict[str, Any], depth: int) -> Iterator[Text]:
    for name in _MESSAGE:
        inner = value.get(name)
        if inner is None:
            continue
        if name in _JSON:
            yield from _arguments(f"{where}.{name}", inner, depth + 1)
        else:
            yield from _texts(f"{where}.{name}", inner, depth + 1)
    source = value.get("source")
    if isinstance(source, dict):
        # a document: its text, or its content in parts; base64 data is no text
        if source.get("type") == "text":
            yield from _texts(f"{where}.source.data", source.get("data"), depth + 1)
        yield from _texts(f"{where}.source.content", source.get("content"), depth + 1)
    for name in ("title", "context"):
        if value.get("type") in ("document", "search_result"):
            yield from _texts(f"{where}.{name}", value.get(name), depth + 1)


def _arguments(where: str, value: Any, depth: int) -> Iterator[Text]:
    r"""The texts in a call's arguments, which may be JSON in a text (`\u6cd5` is read as 法)."""
    if isinstance(value, str):
        if value.lstrip()[:1] in ("{", "["):
            try:
                value = orjson.loads(value)
            except ValueError:
                yield where, value
                return
        elif value:
            yield where, value
            return
    if isinstance(value, dict | list):
        yield from _strings(where, value, depth)


def _strings(where: str, value: Any, depth: int) -> Iterator[Text]:
    if depth > MAX_DEPTH:
        return
    if isinstance(value, str):
        if value:
            yield where, value
    elif isinstance(value, dict):
        for name, item in value.items():
            if name:
                yield f"{where} (a name)", name
            yield from _strings(where, item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(where, item, depth + 1)
