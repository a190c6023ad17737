"""Carry a tree out on data, within bounds: a template is a stranger's program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slipway.store.gotemplate.functions import FUNCTIONS, MAX_TEXT, FunctionError
from slipway.store.gotemplate.nodes import (
    Action,
    Argument,
    Branch,
    Call,
    Chain,
    Command,
    Dot,
    Field,
    Function,
    Jump,
    Literal_,
    Pipe,
    TemplateError,
    Text,
    Tree,
    Variable,
)
from slipway.store.gotemplate.values import Struct, bare, is_true, printed, sorted_items

MAX_STEPS = 1_000_000
MAX_OUTPUT = 16 << 20
MAX_DEPTH = 60

_NONE = object()


class _Broken(Exception):
    """`break` or `continue` on its way to its `range`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class Evaluation:
    """One execution of a template."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.parts: list[str] = []
        self.size = self.steps = self.depth = 0
        self.scope: list[tuple[str, Any]] = []

    def run(self, data: Any) -> str:
        """The text that the template makes of `data`.

        Raises:
            TemplateError: something cannot be carried out, or a bound is passed.
        """
        self.scope = [("$", data)]
        self.body(self.tree.body, data)
        return "".join(self.parts)

    def body(self, nodes: Sequence[Any], dot: Any) -> None:
        known = len(self.scope)
        for node in nodes:
            self.node(node, dot)
        del self.scope[known:]

    def write(self, text: str, line: int) -> None:
        self.size += len(text)
        if self.size > MAX_OUTPUT:
            raise TemplateError("the text becomes too long", line)
        self.parts.append(text)

    def step(self, line: int) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise TemplateError("the template takes too many steps", line)

    def node(self, node: Any, dot: Any) -> None:
        self.step(node.line)
        match node:
            case Text():
                self.write(node.text, node.line)
            case Action():
                value = self.pipe(node.pipe, dot)
                if not node.pipe.names:
                    self.write(printed(value), node.line)
            case Branch(kind="range"):
                self.range(node, dot)
            case Branch():
                self.branch(node, dot)
            case Call():
                self.call(node, dot)
            case Jump():
                raise _Broken(node.kind)

    def branch(self, node: Branch, dot: Any) -> None:
        known = len(self.scope)
        value = self.pipe(node.pipe, dot)
        if is_true(value):
            self.body(node.body, value if node.kind == "with" else dot)
        else:
            self.body(node.otherwise, dot)
        del self.scope[known:]

    def range(self, node: Branch, dot: Any) -> None:
        known = len(self.scope)
        value = self.pipe(Pipe(node.pipe.line, node.pipe.commands), dot)
        if len(node.pipe.names) > 1 and isinstance(value, int) and not isinstance(value, bool):
            raise TemplateError("can't iterate over a number with two variables", node.line)
        items = self.items(value, node.line)
        if not items:
            self.body(node.otherwise, dot)
        for key, item in items:
            self.step(node.line)
            names = node.pipe.names
            for name, one in zip(names, (item,) if len(names) == 1 else (key, item), strict=False):
                self.assign(name, one, declares=node.pipe.declares, line=node.line)
            inner = len(self.scope)
            try:
                self.body(node.body, item)
            except _Broken as jump:
                if jump.kind == "break":
                    break
            del self.scope[known if node.pipe.declares else inner :]
        del self.scope[known:]

    def items(self, value: Any, line: int) -> list[tuple[Any, Any]]:
        value = bare(value)
        if value is None:
            return []
        if isinstance(value, list):
            return list(enumerate(value))
        if isinstance(value, Mapping) and not isinstance(value, Struct):
            return sorted_items(value)
        if isinstance(value, int) and not isinstance(value, bool):
            if value > MAX_STEPS:
                raise TemplateError("the template takes too many steps", line)
            return [(number, number) for number in range(value)]
        raise TemplateError("range can't iterate over this", line)

    def call(self, node: Call, dot: Any) -> None:
        body = self.tree.defined.get(node.name)
        if body is None:
            raise TemplateError(f"template {node.name!r} not defined", node.line)
        value = self.pipe(node.pipe, dot) if node.pipe else None
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TemplateError("templates call each other too deeply", node.line)
        outer, self.scope = self.scope, [("$", value)]
        self.body(body, value)
        self.scope = outer
        self.depth -= 1

    def assign(self, name: str, value: Any, *, declares: bool, line: int) -> None:
        if declares:
            self.scope.append((name, value))
            return
        for at in range(len(self.scope) - 1, -1, -1):
            if self.scope[at][0] == name:
                self.scope[at] = (name, value)
                return
        raise TemplateError(f"undefined variable {name}", line)

    def pipe(self, pipe: Pipe, dot: Any) -> Any:
        value: Any = _NONE
        for command in pipe.commands:
            value = self.command(command, dot, value)
        for name in pipe.names:
            self.assign(name, value, declares=pipe.declares, line=pipe.line)
        return value

    def command(self, command: Command, dot: Any, last: Any) -> Any:
        self.step(command.line)
        first, *rest = command.arguments
        if isinstance(first, Function):
            return self.function(first, rest, dot, last)
        if isinstance(first, Literal_) and first.value is None:
            raise TemplateError("nil is not a command", command.line)
        if rest or last is not _NONE:
            raise TemplateError("a value is given arguments but is no function", command.line)
        return self.value(first, dot)

    def function(self, name: Function, rest: Sequence[Argument], dot: Any, last: Any) -> Any:
        if name.name in ("and", "or"):
            return self.short(name, rest, dot, last)
        values = [self.value(argument, dot) for argument in rest]
        if last is not _NONE:
            values.append(last)
        try:
            result = FUNCTIONS[name.name](*values)
            if isinstance(result, str) and len(result) > MAX_TEXT:
                raise FunctionError("the text becomes too long")
            return result
        except FunctionError as error:
            raise TemplateError(f"{name.name}: {error}", name.line) from None
        except TypeError:
            raise TemplateError(f"{name.name}: wrong number of arguments", name.line) from None

    def short(self, name: Function, rest: Sequence[Argument], dot: Any, last: Any) -> Any:
        """`and`, `or`: the first argument that decides, else the last."""
        value: Any = _NONE
        for argument in rest:
            value = self.value(argument, dot)
            if is_true(value) == (name.name == "or"):
                return value
        if last is not _NONE:
            value = last
        if value is _NONE:
            raise TemplateError(f"{name.name}: wrong number of arguments", name.line)
        return value

    def value(self, argument: Argument, dot: Any) -> Any:
        match argument:
            case Literal_():
                return argument.value
            case Dot():
                return dot
            case Field():
                return self.fields(dot, argument.names, argument.line)
            case Variable():
                return self.fields(self.variable(argument), argument.names, argument.line)
            case Chain():
                return self.fields(self.pipe(argument.inner, dot), argument.names, argument.line)
            case Function():
                return self.function(argument, (), dot, _NONE)

    def variable(self, argument: Variable) -> Any:
        for name, value in reversed(self.scope):
            if name == argument.name:
                return value
        raise TemplateError(f"undefined variable {argument.name}", argument.line)

    def fields(self, value: Any, names: Sequence[str], line: int) -> Any:
        for name in names:
            inside = bare(value)
            if isinstance(inside, Struct):
                if name not in inside:
                    raise TemplateError(f"can't evaluate field {name}", line)
                value = inside[name]
            elif isinstance(inside, Mapping):
                value = inside.get(name)  # missingkey=zero
            elif inside is None:
                raise TemplateError(f"nil has no field {name}", line)
            else:
                raise TemplateError(f"can't evaluate field {name}", line)
        return value
