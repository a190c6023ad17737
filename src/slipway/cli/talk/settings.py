"""The `/set` commands of the dialogue."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from slipway.cli.output import note
from slipway.cli.talk.line_editor import LineEditor
from slipway.cli.talk.screen import Screen
from slipway.cli.talk.session import Session
from slipway.cli.talk.values import read_format, read_option, read_think
from slipway.core.errors import UsageError, nearest
from slipway.core.i18n import Text, tr


class Settings:
    """What `/set NAME [VALUE]` changes, and the words for it."""

    def __init__(self, session: Session, screen: Screen, editor: LineEditor) -> None:
        self._session = session
        self._screen = screen
        self._editor = editor
        self._actions: dict[str, Callable[[str], Text]] = {
            "history": lambda _: self._history(True),
            "nohistory": lambda _: self._history(False),
            "wordwrap": lambda _: self._wordwrap(True),
            "nowordwrap": lambda _: self._wordwrap(False),
            "verbose": lambda _: self._verbose(True),
            "quiet": lambda _: self._verbose(False),
            "think": self._think,
            "nothink": lambda _: self._think("false"),
            "format": self._format,
            "noformat": lambda _: self._format(""),
            "parameter": self._parameter,
            "system": self._system,
        }

    @property
    def names(self) -> list[str]:
        """What can be set."""
        return list(self._actions)

    def set(self, text: str) -> None:
        """Do what follows `/set`, and say so.

        Raises:
            UsageError: no such setting, or a value that cannot be used.
        """
        name, _, value = text.strip().partition(" ")
        if name not in self._actions:
            close = nearest(name, self._actions, limit=1)
            raise UsageError(
                "run.no_setting",
                tr("no setting `{name}`", name=name),
                tr("did you mean {names}?", names=f"`/set {close[0]}`")
                if close
                else tr("there are {names}", names=", ".join(self._actions)),
            )
        note(self._actions[name](value.strip()))

    def _history(self, on: bool) -> Text:
        self._editor.remembers = on
        return tr("history on") if on else tr("history off")

    def _wordwrap(self, on: bool) -> Text:
        self._screen.wordwrap = on
        return tr("word wrap on") if on else tr("word wrap off")

    def _verbose(self, on: bool) -> Text:
        self._screen.verbose = on
        return tr("timings are shown") if on else tr("timings are not shown")

    def _think(self, level: str) -> Text:
        think = read_think(level or "true")
        if think is not False and not self._session.can("thinking"):
            raise UsageError(
                "run.cannot_think", tr("`{name}` cannot think", name=self._session.model)
            )
        # a model without thoughts is asked nothing about them
        self._session.think = think if self._session.can("thinking") else None
        if think is False:
            return tr("thinking off")
        return tr("thinking on ({level})", level=level or "true")

    def _format(self, text: str) -> Text:
        self._session.format = read_format(text) if text else None
        if self._session.format is None:
            return tr("answers have no set format")
        if self._session.format == "json":
            return tr("answers are JSON")
        return tr("answers match the schema")

    def _parameter(self, text: str) -> Text:
        try:
            name, *values = shlex.split(text)
        except ValueError:
            name, values = "", []
        if not values:
            raise UsageError(
                "run.no_value",
                tr("`/set parameter` needs a name and a value"),
                tr("for example `/set parameter temperature 0.2`"),
            )
        self._session.options[name] = read_option(name, values)
        return tr("{name} is {value}", name=name, value=" ".join(values))

    def _system(self, text: str) -> Text:
        if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
            text = text[1:-1]
        self._session.system = text
        if not text:
            return tr("the model's own system prompt holds again")
        return tr("system prompt set; /clear begins anew")
