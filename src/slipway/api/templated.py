"""An engine client for models whose TEMPLATE is in Go's language: the daemon renders it.

It answers what `EngineClient` answers. A chat becomes a raw completion of the rendered prompt, so
the engine does not take tool calls or thoughts apart; that is done here, on the text.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import orjson

from slipway.engine.client import Delta, EngineClient, Event, Finish
from slipway.engine.table import Lease
from slipway.store.gotemplate import Template

_CHAT_ONLY = ("messages", "tools", "tool_choice", "response_format", "chat_template_kwargs")
_THINK = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
_CALL_MARKS = re.compile(r"</?tool_call>|\[/?TOOL_CALLS\]|<\|python_tag\|>|```(?:json)?")


class TemplatedClient(EngineClient):
    """`client`, with `template` instead of the engine's own."""

    def __init__(self, client: EngineClient, template: Template) -> None:
        super().__init__(client.session)
        self._template = template

    async def render(self, lease: Lease, payload: Mapping[str, Any]) -> str:
        """The prompt that a chat payload becomes."""
        arguments = payload.get("chat_template_kwargs") or {}
        think = arguments.get("reasoning_effort", arguments.get("enable_thinking"))
        return self._template.chat(payload["messages"], payload.get("tools"), think)

    async def complete(
        self, lease: Lease, payload: Mapping[str, Any]
    ) -> AsyncGenerator[Event, None]:
        """As `EngineClient.complete`; a gap is filled by the template, when it knows how."""
        if "input_suffix" in payload and "insert" in self._template.capabilities:
            rest = {k: v for k, v in payload.items() if k not in ("input_prefix", "input_suffix")}
            prompt = self._template.fill(payload["input_prefix"], payload["input_suffix"])
            payload = {**rest, "prompt": prompt}
        async with aclosing(super().complete(lease, payload)) as events:
            async for event in events:
                yield event

    async def chat(self, lease: Lease, payload: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        """As `EngineClient.chat`. With tools the text comes whole, as it may be a call."""
        body = {name: value for name, value in payload.items() if name not in _CHAT_ONLY}
        body["prompt"] = await self.render(lease, payload)
        body |= _grammar(payload.get("response_format"))
        if body.pop("logprobs", False):
            body["n_probs"] = max(1, body.pop("top_logprobs", 0) or 0)
        held: list[str] | None = [] if payload.get("tools") else None
        async with aclosing(super().complete(lease, body)) as events:
            async for event in events:
                if held is None:
                    yield event
                elif isinstance(event, Delta):
                    held.append(event.text)
                else:
                    said = taken_apart("".join(held))
                    yield said
                    yield _finished(event, said)


def _grammar(wanted: Any) -> dict[str, Any]:
    """`response_format` of a chat in the words of a completion."""
    if not isinstance(wanted, Mapping):
        return {}
    if wanted.get("type") == "json_object":
        return {"json_schema": wanted.get("schema") or {"type": "object"}}
    schema = (wanted.get("json_schema") or {}).get("schema")
    return {"json_schema": schema} if schema else {}


def taken_apart(text: str) -> Delta:
    """An answer with the tool calls that it consists of, and its thoughts.

    Calls are objects with `name` and `arguments` (or `parameters`), one or a list of them, alone or
    within the marks that models put around them. Anything else is text.
    """
    thinking = ""
    if match := _THINK.match(text):
        thinking, text = match[1].strip(), text[match.end() :]
    calls = [call for part in _CALL_MARKS.split(text) for call in _calls(part)]
    rest = "".join(part for part in _CALL_MARKS.split(text) if not _calls(part)) if calls else text
    numbered = [{"index": index, **call} for index, call in enumerate(calls)]
    return Delta(rest.strip() if calls else rest, thinking, numbered)


def _calls(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    lines = [text] if text.lstrip().startswith("[") else [text, *text.splitlines()]
    for candidate in lines:
        try:
            value = orjson.loads(candidate)
        except orjson.JSONDecodeError:
            continue
        for one in value if isinstance(value, list) else [value]:
            call = _call(one)
            if call is None:
                return []
            found.append(call)
        if candidate is text:
            break
    return found


def _call(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if not isinstance(arguments, dict):
        return None
    function = {"name": value["name"], "arguments": orjson.dumps(arguments).decode()}
    return {"id": f"call_{secrets.token_hex(4)}", "type": "function", "function": function}


def _finished(finish: Finish, said: Delta) -> Finish:
    if not said.tool_calls:
        return finish
    return Finish(
        "tool_calls",
        finish.prompt_tokens,
        finish.completion_tokens,
        finish.cached_tokens,
        finish.prompt_s,
        finish.completion_s,
    )
