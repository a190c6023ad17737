"""The dialogue of `slipway run`: messages, and commands that start with `/`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from slipway.cli.output import note
from slipway.cli.talk.facts import SUBJECTS, show
from slipway.cli.talk.line_editor import LineEditor
from slipway.cli.talk.saving import save_as
from slipway.cli.talk.screen import Screen
from slipway.cli.talk.session import Session
from slipway.cli.talk.settings import Settings
from slipway.core.errors import SlipwayError, nearest
from slipway.core.i18n import Text, tr

_QUOTES = '"""'
_LEAVE = ("/bye", "/exit", "/quit")


class Repl:
    """Reads and answers until `/bye` or Ctrl-D. Ctrl-C stops an answer, or drops a line.

    Args:
        history: the file of earlier lines.
    """

    def __init__(self, session: Session, screen: Screen, history: Path) -> None:
        self._session = session
        self._screen = screen
        self._editor = LineEditor(history, self._complete)
        self._settings = Settings(session, screen, self._editor)
        self._commands: dict[str, Callable[[str], None]] = {
            "/set": self._set,
            "/show": self._show,
            "/load": self._load,
            "/save": self._save,
            "/clear": self._clear,
            "/help": self._help,
            "/?": self._help,
        }

    def run(self) -> None:
        """Talk until the user leaves."""
        note(tr("{model}: type a message; /help lists the commands", model=self._session.model))
        try:
            while True:
                try:
                    text, is_block = self._read_message()
                except EOFError:
                    note("")
                    return
                except KeyboardInterrupt:
                    note("")
                    note(tr("Ctrl-D or /bye leaves"))
                    continue
                if text.strip() in _LEAVE and not is_block:
                    return
                if text.strip():
                    self._handle(text, is_block)
        finally:
            self._editor.save()

    def _handle(self, text: str, is_block: bool) -> None:
        try:
            name, _, rest = text.strip().partition(" ")
            if is_block:
                self._answer(text)
            elif name in self._commands:
                self._commands[name](rest.strip())
            elif text.startswith("/") and "/" not in name[1:]:
                close = nearest(name, [*self._commands, *_LEAVE], limit=1) or ["/help"]
                note(tr("no command {name}; did you mean {other}?", name=name, other=close[0]))
            else:
                self._answer(text)
        except KeyboardInterrupt:
            note(tr("stopped"))
        except SlipwayError as error:
            note(f"{tr('error')}: {error.message}")
            if str(error.hint):
                note(f"{tr('hint')}: {error.hint}")

    def _answer(self, text: str) -> None:
        self._screen.begin()
        answer = None
        try:
            answer = self._session.ask(text, self._screen.piece)
        finally:
            self._screen.end(answer)

    def _read_message(self) -> tuple[str, bool]:
        """A line, or everything between three quotes, and whether it was such a block.

        A command may have a block for its value; it is a command still.
        """
        line = self._editor.read(">>> ")
        before, opened, rest = line.partition(_QUOTES)
        if not opened or (before.strip() and not before.startswith("/set ")):
            return line, False
        lines = [rest]
        while not lines[-1].rstrip().endswith(_QUOTES):
            lines.append(self._editor.read("... "))
        lines[-1] = lines[-1].rstrip().removesuffix(_QUOTES)
        return before + "\n".join(lines).strip("\n"), not before.strip()

    def _set(self, text: str) -> None:
        if text:
            self._settings.set(text)
        else:
            self._help("set")

    def _show(self, text: str) -> None:
        if text:
            show(self._session, text)
        else:
            self._help("show")

    def _load(self, name: str) -> None:
        if not name:
            note(tr("which model? `/load NAME`"))
            return
        self._session.begin(name)
        note(tr("loading {model}", model=name))
        self._session.load()
        note(tr("talking to {model}", model=name))

    def _save(self, name: str) -> None:
        if not name:
            note(tr("under which name? `/save NAME`"))
            return
        save_as(self._session, name)
        note(tr("saved as {model}", model=name))

    def _clear(self, _rest: str) -> None:
        self._session.turns.clear()
        note(tr("begun anew"))

    def _help(self, subject: str) -> None:
        subject = subject.removeprefix("/")
        lines: Sequence[Text | str]
        if subject == "set":
            lines = _SET_HELP
        elif subject == "show":
            lines = [f"/show {name}" for name in SUBJECTS]
        elif subject == "shortcuts":
            lines = _KEYS
        else:
            lines = _HELP
        for line in lines:
            note(line)

    def _complete(self, begun: str) -> list[str]:
        """Whole lines that begin with what was typed."""
        if begun.startswith("/load "):
            try:
                names = [str(row["name"]) for row in self._session.daemon.models()]
            except SlipwayError:
                names = []
            known = [f"/load {name}" for name in names]
        elif begun.startswith("/"):
            known = [f"/set {name}" for name in self._settings.names]
            known += [f"/show {name}" for name in SUBJECTS]
            known += [name for name in (*self._commands, "/bye") if name not in ("/set", "/show")]
            if " " not in begun:
                known = [*self._commands, "/bye"]
        else:
            return []
        return [line for line in known if line.startswith(begun)]


_HELP = (
    tr("/set            set parameters, system prompt, format and more; alone it lists them"),
    tr("/show           show what the model is: info, template, ...; alone it lists them"),
    tr("/load NAME      talk to another model, begun anew"),
    tr("/save NAME      save system prompt, parameters and what was said as a model"),
    tr("/clear          forget what was said"),
    tr("/bye            leave"),
    tr("/? shortcuts    the keys"),
    tr('"""             begins and ends a message of several lines'),
)
_SET_HELP = (
    tr("/set parameter NAME VALUE   a parameter, such as temperature 0.2 or num_ctx 8192"),
    tr("/set system TEXT            the system prompt"),
    tr("/set format json|SCHEMA     answers in JSON; /set noformat ends it"),
    tr("/set think [LEVEL]          let the model think first; /set nothink ends it"),
    tr("/set verbose                timings after each answer; /set quiet ends it"),
    tr("/set wordwrap               break lines between words; /set nowordwrap ends it"),
    tr("/set history                remember lines; /set nohistory ends it"),
)
_KEYS = (
    tr("Ctrl-C   stop the answer, or drop the line"),
    tr("Ctrl-D   leave"),
    tr("Ctrl-A, Ctrl-E   to the beginning, to the end of the line"),
    tr("Up, Down, Ctrl-R   earlier lines"),
    tr("Tab   complete a command or a model's name"),
)
