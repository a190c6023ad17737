"""The tree of a template, and the error of one that cannot be read or carried out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from slipway.core.errors import InputError
from slipway.core.i18n import tr


class TemplateError(InputError):
    """A Go template cannot be parsed or carried out; the message names the line."""

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(
            "template.error",
            tr("template, line {line}: {reason}", line=line, reason=reason),
            tr("correct TEMPLATE in the Modelfile, or delete it to use the GGUF's own"),
        )
        self.reason, self.line = reason, line


@dataclass(frozen=True, slots=True)
class Node:
    """A part of a template that begins on a line."""

    line: int


@dataclass(frozen=True, slots=True)
class Text(Node):
    """Text that is written as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Literal_(Node):
    """A string, number, character, bool, or nil."""

    value: Any


@dataclass(frozen=True, slots=True)
class Dot(Node):
    """The current value."""


@dataclass(frozen=True, slots=True)
class Field(Node):
    """`.A.B` of the current value."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variable(Node):
    """`$x.A.B`; `$` alone is the data the template was given."""

    name: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Function(Node):
    """The name of a function."""

    name: str


@dataclass(frozen=True, slots=True)
class Chain(Node):
    """`(pipeline).A.B`."""

    inner: Pipe
    names: tuple[str, ...]


Argument = Literal_ | Dot | Field | Variable | Function | Chain


@dataclass(frozen=True, slots=True)
class Command(Node):
    """A function with its arguments, or one value."""

    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Pipe(Node):
    """Commands, each of which gets the one before as its last argument.

    Attributes:
        names: variables that take the result.
        declares: with `:=`; `=` sets one that is there.
    """

    commands: tuple[Command, ...]
    names: tuple[str, ...] = ()
    declares: bool = False


@dataclass(frozen=True, slots=True)
class Action(Node):
    """`{{ pipeline }}`."""

    pipe: Pipe


@dataclass(frozen=True, slots=True)
class Branch(Node):
    """`if`, `with`, `range` with what is done otherwise."""

    kind: Literal["if", "with", "range"]
    pipe: Pipe
    body: tuple[Any, ...]
    otherwise: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Call(Node):
    """`{{ template "name" pipeline }}`, and `block`."""

    name: str
    pipe: Pipe | None


@dataclass(frozen=True, slots=True)
class Jump(Node):
    """`break` or `continue`."""

    kind: Literal["break", "continue"]


@dataclass(slots=True)
class Tree:
    """A parsed template.

    Attributes:
        body: what is carried out.
        defined: `define` and `block` by name.
    """

    body: tuple[Any, ...]
    defined: dict[str, tuple[Any, ...]] = field(default_factory=dict)
