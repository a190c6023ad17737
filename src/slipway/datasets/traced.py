"""Texts that notice what a chat template does with them.

A template is run once on stand-ins for the contents of a conversation. A stand-in is a `str` that
may be joined with other texts. Asking it something (`'</think>' in content`) is noted together
with the answer; a change that can be repeated (`content | trim`) gives another stand-in; anything
else ends the attempt. So what comes out holds for every conversation of the same shape whose
contents give the same answers: the template has seen nothing else of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

# stand-ins are written with characters of a private plane: <hole>n<end>[<change>n<end>]
HOLE, CHANGE, END = "\U000f1a01", "\U000f1a02", "\U000f1a03"
_MARKS = (HOLE, CHANGE, END)

_QUESTIONS = ("__contains__", "startswith", "endswith", "__eq__", "__ne__", "isspace", "count")
_CHANGES = ("strip", "lstrip", "rstrip")
# filters that pass texts on, or use the methods above; all others could look inside unnoticed
_HARMLESS = frozenset(
    {"count", "d", "default", "first", "items", "last", "length", "list", "map", "reject"}
    | {"rejectattr", "reverse", "select", "selectattr", "string", "trim"}
)
# what a `str` needs to be one at all
_KEPT = frozenset(
    {"__new__", "__init__", "__class__", "__doc__", "__dir__", "__repr__", "__sizeof__"}
    | {"__getattribute__", "__setattr__", "__delattr__", "__reduce__", "__reduce_ex__"}
    | {"__init_subclass__", "__subclasshook__", "__getnewargs__", "__getstate__"}
)


class Untraceable(Exception):
    """The template does something with a content that cannot be repeated for another."""


@dataclass(frozen=True, slots=True)
class Question:
    """Something the template asked about a content, and the answer it got."""

    hole: int
    change: int
    method: str
    arguments: tuple[Any, ...]
    answer: Any

    def same_for(self, text: str) -> bool:
        """Whether another text (changed in the same way) gives the same answer."""
        return bool(getattr(text, self.method)(*self.arguments) == self.answer)


class Trace:
    """The stand-ins of one conversation, and what became of them.

    Attributes:
        questions: what was asked.
        changes: number -> method and arguments; number 0 is the text as it is.
    """

    def __init__(self) -> None:
        self.questions: set[Question] = set()
        self.changes: list[tuple[str, tuple[Any, ...]]] = [("__str__", ())]

    def stand_in(self, hole: int) -> StandIn:
        """The stand-in for a content."""
        return self._make(hole, 0)

    def _make(self, hole: int, change: int) -> StandIn:
        made = StandIn(f"{HOLE}{hole}{END}" + (f"{CHANGE}{change}{END}" if change else ""))
        made.trace, made.hole, made.change = self, hole, change
        return made

    def ask(self, of: StandIn, method: str, arguments: tuple[Any, ...]) -> Any:
        """Note a question; the answer is that of a text without anything special."""
        _refuse_marks(arguments)
        answer = getattr(str, method)(of, *arguments)
        self.questions.add(Question(of.hole, of.change, method, arguments, answer))
        return answer

    def alter(self, of: StandIn, method: str, arguments: tuple[Any, ...]) -> StandIn:
        """Note a change."""
        _refuse_marks(arguments)
        step = (method, arguments)
        if of.change:
            if self.changes[of.change] == step:
                return of  # trimming twice is trimming once
            raise Untraceable(method)
        if step not in self.changes:
            self.changes.append(step)
        return self._make(of.hole, self.changes.index(step))


class Joined(str):
    """A text that holds stand-ins among other characters: it can only be joined further."""

    def __add__(self, other: str) -> Joined:
        return Joined(str.__add__(self, other))

    def __radd__(self, other: str) -> Joined:
        return Joined(str.__add__(other, self))

    def __str__(self) -> Joined:  # `str(x)` keeps a subclass
        return self

    def __hash__(self) -> int:
        _refuse()

    def __bool__(self) -> bool:
        return True  # it holds a stand-in, which counts as not empty


class StandIn(Joined):
    """The place of one content; see `Trace`."""

    trace: Trace
    hole: int
    change: int

    def __bool__(self) -> bool:
        return not self.trace.ask(self, "__eq__", ("",))

    def __len__(self) -> int:
        raise Untraceable("length")

    def __hash__(self) -> int:
        _refuse()


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise Untraceable("a template looks into a text")


def _refuse_marks(arguments: Iterable[Any]) -> None:
    for argument in arguments:
        if isinstance(argument, str) and any(mark in str.__str__(argument) for mark in _MARKS):
            raise Untraceable("contents are compared with each other")


def _asking(method: str) -> Callable[..., Any]:
    return lambda self, *arguments: self.trace.ask(self, method, arguments)


def _changing(method: str) -> Callable[..., Any]:
    return lambda self, *arguments: self.trace.alter(self, method, arguments)


for _name in dir(str):
    if callable(getattr(str, _name)) and _name not in _KEPT and _name not in vars(Joined):
        setattr(Joined, _name, _refuse)
for _name in _QUESTIONS:
    setattr(StandIn, _name, _asking(_name))
for _name in _CHANGES:
    setattr(StandIn, _name, _changing(_name))


def traced_template(template: str) -> Any | None:
    """The template compiled so that stand-ins go through it unharmed.

    The environment is the one `transformers` renders chat templates in, with three places changed
    where Jinja joins or formats texts. None when this version of transformers has no such
    environment to offer.
    """
    try:
        from transformers.utils.chat_template_utils import _compile_jinja_template
    except ImportError:
        return None
    environment = _compile_jinja_template(template).environment.overlay()
    environment.concat = join
    environment.intercepted_binops = frozenset("%")
    environment.call_binop = _modulo
    environment.filters = {
        name: function if name in _HARMLESS else _guarded(function)
        for name, function in environment.filters.items()
    }
    environment.cache = None
    compiled = environment.from_string(template)
    compiled.root_render_func.__globals__["str_join"] = lambda parts: join(map(str, parts))
    return compiled


def join(parts: Iterable[str]) -> str:
    """Texts put together; what holds a stand-in stays one that is watched."""
    listed = list(parts)
    text = str.join("", listed)
    if len(listed) == 1:
        return listed[0]
    return Joined(text) if any(isinstance(part, Joined) for part in listed) else text


def _modulo(context: Any, operator: str, left: Any, right: Any) -> Any:
    if isinstance(left, str):
        _refuse()
    return left % right


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    from functools import wraps

    @wraps(function)  # keeps Jinja's marks on filters that want the context or the environment
    def guarded(*arguments: Any, **named: Any) -> Any:
        if _holds_stand_in([*arguments, *named.values()]):
            _refuse()
        return function(*arguments, **named)

    return guarded


def _holds_stand_in(value: Any) -> bool:
    if isinstance(value, Joined):
        return True
    if isinstance(value, dict):
        return any(map(_holds_stand_in, value.values()))
    return isinstance(value, list | tuple) and any(map(_holds_stand_in, value))
