"""A TEMPLATE of a Modelfile in Go's language, rendered by Ollama's rules.

What a template may see: .System .Prompt .Response .Suffix, .Messages (Role, Content, Thinking,
Images, ToolCalls, ToolName, ToolCallID), .Tools, .Think .ThinkLevel .IsThinkSet. A template that
uses .Messages gets the whole conversation. An older one, that does not, is carried out for each
exchange of prompt and response, and the last time without what comes after .Response.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from slipway.store.gotemplate.evaluate import Evaluation
from slipway.store.gotemplate.functions import FUNCTIONS, SHORT
from slipway.store.gotemplate.nodes import (
    Action,
    Branch,
    Call,
    Chain,
    Command,
    Field,
    Pipe,
    Tree,
    Variable,
)
from slipway.store.gotemplate.parser import parse_tree
from slipway.store.gotemplate.values import Json, Struct

_NAMES = frozenset({*FUNCTIONS, *SHORT})
_PARAMETERS = ("type", "$defs", "items", "required", "properties")
_PROPERTY = ("anyOf", "type", "items", "description", "enum", "properties", "required")


@dataclass(frozen=True)
class Template:
    """A parsed template.

    Attributes:
        tree: its nodes.
        fields: lower-cased names of all fields that it uses.
    """

    tree: Tree
    fields: frozenset[str]

    @property
    def capabilities(self) -> list[str]:
        """What the template lets a model do beyond completing: tools, insert, thinking."""
        wanted = (("tools", "tools"), ("suffix", "insert"), ("think", "thinking"))
        return [ability for name, ability in wanted if name in self.fields]

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        think: bool | str | None = None,
    ) -> str:
        """The prompt that a conversation becomes.

        Args:
            messages: in OpenAI's or Ollama's shape.
            think: whether, or how much, the model shall think; None leaves it to the template.

        Raises:
            TemplateError: the template cannot be carried out on it.
        """
        thought = {
            "Think": bool(think),
            "ThinkLevel": think if isinstance(think, str) else "",
            "IsThinkSet": think is not None,
        }
        collated = _collated(messages)
        system = "\n\n".join(m["content"] for m in messages if m.get("role") == "system")
        if "messages" in self.fields:
            listed = [_message(message) for message in collated]
            offered = (
                Json([_tool(t) for t in tools], [_tool_fields(t) for t in tools]) if tools else None
            )
            data = {"System": system, "Messages": listed, "Tools": offered, "Response": ""}
            return self._run(self.tree, {**data, **thought})
        return "".join(self._exchanges(collated, thought))

    def fill(self, prefix: str, suffix: str) -> str:
        """The prompt that asks for what is between two texts."""
        data = {"Prompt": prefix, "Suffix": suffix, "Response": "", "System": ""}
        return self._run(self.tree, data)

    def _exchanges(
        self, messages: Sequence[Mapping[str, Any]], thought: dict[str, Any]
    ) -> Iterator[str]:
        """One text for each exchange, the last up to .Response."""
        now = {"System": "", "Prompt": "", "Response": ""}

        def done() -> str:
            text = self._run(self.tree, {**now, **thought})
            now.update(System="", Prompt="", Response="")
            return text

        for message in messages:
            match message["role"]:
                case "system":
                    if now["Prompt"] or now["Response"]:
                        yield done()
                    now["System"] = message["content"]
                case "user":
                    if now["Response"]:
                        yield done()
                    now["Prompt"] = message["content"]
                case "assistant":
                    now["Response"] = message["content"]
        cut = replace(self.tree, body=_up_to_response(self.tree.body)[0])
        yield self._run(cut, {**now, **thought})

    @staticmethod
    def _run(tree: Tree, data: dict[str, Any]) -> str:
        return Evaluation(tree).run(data)


@lru_cache(maxsize=64)
def parse(source: str) -> Template:
    """Parse a template; one that uses neither .Messages nor .Response gets `{{ .Response }}`.

    Raises:
        TemplateError: naming the line.
    """
    tree = parse_tree(source, _NAMES)
    bodies = [tree.body, *tree.defined.values()]
    used = frozenset(name.lower() for body in bodies for node in body for name in _fields(node))
    if not used & {"messages", "response"}:
        tree = parse_tree(source + "{{ .Response }}", _NAMES)
        used |= {"response"}
    return Template(tree, used)


def _fields(node: Any) -> Iterator[str]:
    """Names of the fields that a node uses, whatever they belong to."""
    match node:
        case Field() | Variable():
            yield from node.names
        case Chain():
            yield from node.names
            yield from _fields(node.inner)
        case Pipe():
            for command in node.commands:
                yield from _fields(command)
        case Command():
            for argument in node.arguments:
                yield from _fields(argument)
        case Action():
            yield from _fields(node.pipe)
        case Branch():
            yield from _fields(node.pipe)
            for inner in (*node.body, *node.otherwise):
                yield from _fields(inner)
        case Call() if node.pipe is not None:
            yield from _fields(node.pipe)


def _up_to_response(nodes: Sequence[Any]) -> tuple[tuple[Any, ...], bool]:
    """The nodes without all that comes after the one that uses .Response; whether one does."""
    kept: list[Any] = []
    for node in nodes:
        if isinstance(node, Branch):
            body, found = _up_to_response(node.body)
            otherwise, also = _up_to_response(node.otherwise)
            if "Response" in set(_fields(node.pipe)):
                kept.append(node)
                if not (found or also):
                    return tuple(kept), True
            kept[len(kept) - 1 :] = (
                [replace(node, body=body, otherwise=otherwise)]
                if kept and kept[-1] is node
                else [*kept[-1:], replace(node, body=body, otherwise=otherwise)]
            )
            if found or also:
                return tuple(kept), True
            continue
        kept.append(node)
        if "Response" in set(_fields(node)):
            return tuple(kept), True
    return tuple(kept), False


def _collated(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages of one role after another put together; results of tools stay apart."""
    found: list[dict[str, Any]] = []
    for message in messages:
        one = {**message, "content": _text(message.get("content"))}
        last = found[-1] if found else None
        if last is not None and last["role"] == one["role"] != "tool" and not _calls(last, one):
            last["content"] = "\n\n".join(t for t in (last["content"], one["content"]) if t)
        else:
            found.append(one)
    return found


def _calls(*messages: Mapping[str, Any]) -> bool:
    return any(message.get("tool_calls") for message in messages)


def _text(content: Any) -> str:
    """A message's text; of several parts the texts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def _message(message: Mapping[str, Any]) -> Struct:
    calls = [_call(call, index) for index, call in enumerate(message.get("tool_calls") or [])]
    return Struct(
        Role=str(message.get("role", "")),
        Content=message["content"],
        Thinking=str(message.get("thinking") or message.get("reasoning_content") or ""),
        Images=[],
        ToolCalls=calls,
        ToolName=str(message.get("tool_name") or message.get("name") or ""),
        ToolCallID=str(message.get("tool_call_id") or ""),
    )


def _call(call: Mapping[str, Any], index: int) -> Struct:
    function = call.get("function") or {}
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = {"_raw": arguments}
    name = str(function.get("name", ""))
    return Struct(
        ID=str(call.get("id") or ""),
        Function=Struct(Index=index, Name=name, Arguments=Json(arguments)),
    )


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as Ollama writes it: the fields it knows, in its order."""
    found: dict[str, Any] = {"type": str(tool.get("type") or "function")}
    if tool.get("items"):
        found["items"] = tool["items"]
    return {**found, "function": _function(tool)}


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function") or {}
    shape = function.get("parameters") or {}
    parameters = {key: shape[key] for key in _PARAMETERS if shape.get(key)}
    parameters.setdefault("type", "")
    properties = shape.get("properties") or {}
    ordered = {key: parameters[key] for key in _PARAMETERS if key in parameters}
    ordered["properties"] = {name: _property(one) for name, one in properties.items()}
    return {
        "name": str(function.get("name", "")),
        "description": str(function.get("description", "")),
        "parameters": ordered,
    }


def _property(one: Any) -> Any:
    if not isinstance(one, Mapping):
        return one
    return {key: one[key] for key in _PROPERTY if one.get(key)}


def _tool_fields(tool: Mapping[str, Any]) -> Json:
    plain = _tool(tool)
    function = plain["function"]
    parameters = function["parameters"]
    shown = Struct(
        Type=parameters.get("type", ""),
        Defs=parameters.get("$defs"),
        Items=parameters.get("items"),
        Required=parameters.get("required") or [],
        Properties={
            name: Json(one, _capital(one)) for name, one in parameters["properties"].items()
        },
    )
    described = Struct(
        Name=function["name"],
        Description=function["description"],
        Parameters=Json(parameters, shown),
    )
    fields = Struct(
        Type=plain["type"], Items=plain.get("items"), Function=Json(function, described)
    )
    return Json(plain, fields)


def _capital(one: Any) -> Any:
    """A property's fields by their names in templates."""
    if not isinstance(one, Mapping):
        return one
    return Struct(
        AnyOf=one.get("anyOf") or [],
        Type=one.get("type") or "",
        Items=one.get("items"),
        Description=one.get("description") or "",
        Enum=one.get("enum") or [],
        Properties=one.get("properties") or {},
        Required=one.get("required") or [],
    )
