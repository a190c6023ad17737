"""A conversation in the terminal: read, ask, print the answer as it comes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from slipway.client.http import ChatStream, GatewayClient, Message
from slipway.core.errors import SlipwayError, nearest
from slipway.core.i18n import Text, tr

_QUOTES = '"""'
_HISTORY_LINES = 1000


class Conversation:
    """What has been said to a model, and to whom the next message goes."""

    def __init__(self, client: GatewayClient, model: str, system: str = "") -> None:
        self.client = client
        self.model = model
        self.system = system
        self.turns: list[Message] = []

    def ask(self, text: str, on_piece: Callable[[str], None]) -> ChatStream:
        """Send a message and hand over the answer piece by piece.

        The turn joins the conversation when the answer is complete, or with what had come when it
        was interrupted after its first piece.

        Raises:
            SlipwayError: see `GatewayClient.chat`; the conversation is as before.
            KeyboardInterrupt: the user stopped the answer.
        """
        asked: Message = {"role": "user", "content": text}
        stream = self.client.chat(self.model, [*self._opening(), *self.turns, asked])
        try:
            for piece in stream:
                on_piece(piece)
        except KeyboardInterrupt:
            if stream.text:
                self.turns += [asked, {"role": "assistant", "content": stream.text}]
            raise
        finally:
            stream.close()
        self.turns += [asked, {"role": "assistant", "content": stream.text}]
        return stream

    def _opening(self) -> list[Message]:
        return [{"role": "system", "content": self.system}] if self.system else []


class Repl:
    """The dialogue loop. Commands start with `/`; a block stands between lines of three quotes.

    Args:
        read: gives a line for a prompt; raises EOFError at the end of the input.
        write: shows a piece of an answer.
        note: shows a line that is not part of an answer.
    """

    def __init__(
        self,
        conversation: Conversation,
        *,
        read: Callable[[str], str] = input,
        write: Callable[[str], None] | None = None,
        note: Callable[[Text | str], None] | None = None,
    ) -> None:
        self._talk = conversation
        self._read = read
        self._write = write or _print_piece
        self._note = note or _print_note
        self._commands: dict[str, Callable[[str], None]] = {
            "/system": self._set_system,
            "/model": self._set_model,
            "/clear": self._clear,
            "/help": self._help,
        }

    def run(self) -> None:
        """Talk until `/bye`, the end of the input, or Ctrl-C twice."""
        self._note(tr("{model}: type a message; /help lists the commands", model=self._talk.model))
        leaving = False
        while True:
            try:
                text = self._read_message()
            except EOFError:
                return
            except KeyboardInterrupt:
                if leaving:
                    return
                leaving = True
                self._note("")
                self._note(tr("Ctrl-C again, or /bye, leaves"))
                continue
            leaving = False
            if text in ("/bye", "/exit", "/quit"):
                return
            if text:
                leaving = self._handle(text)

    def _handle(self, text: str) -> bool:
        """Do what a message says; True when the user interrupted it."""
        try:
            name, _, rest = text.partition(" ")
            if not text.startswith("/") or "\n" in text:
                self._answer(text)
            elif name in self._commands:
                self._commands[name](rest.strip())
            else:
                close = nearest(name, [*self._commands, "/bye"], limit=1) or ["/help"]
                self._note(
                    tr("no command {name}; did you mean {other}?", name=name, other=close[0])
                )
        except KeyboardInterrupt:
            self._note("")
            self._note(tr("stopped; Ctrl-C again leaves"))
            return True
        except SlipwayError as error:
            self._note(f"{tr('error')}: {error.message}")
            if str(error.hint):
                self._note(f"{tr('hint')}: {error.hint}")
        return False

    def _answer(self, text: str) -> None:
        stream = self._talk.ask(text, self._write)
        self._write("\n")
        self._note(summary(stream))

    def _read_message(self) -> str:
        line = self._read(">>> ").strip()
        if not line.startswith(_QUOTES):
            return line
        lines = [line.removeprefix(_QUOTES)]
        while not lines[-1].rstrip().endswith(_QUOTES):
            lines.append(self._read("... "))
        lines[-1] = lines[-1].rstrip().removesuffix(_QUOTES)
        return "\n".join(lines).strip()

    def _set_system(self, text: str) -> None:
        if text:
            self._talk.system = text.strip('"')
            self._note(tr("system prompt set; /clear begins anew"))
        else:
            self._note(self._talk.system or tr("no system prompt"))

    def _set_model(self, name: str) -> None:
        known = self._talk.client.models()
        if not name:
            for model in known:
                self._note(f"{'*' if model == self._talk.model else ' '} {model}")
        elif name in known or f"{name}:latest" in known:
            self._talk.model = name
            self._note(tr("talking to {model}", model=name))
        else:
            self._note(
                tr(
                    "no model {name}; there are {names}",
                    name=name,
                    names=", ".join(nearest(name, known) or known),
                )
            )

    def _clear(self, _rest: str) -> None:
        self._talk.turns.clear()
        self._note(tr("begun anew"))

    def _help(self, _rest: str) -> None:
        for line in (
            tr("/system TEXT   set the system prompt; without TEXT show it"),
            tr("/model NAME    talk to another model; without NAME list them"),
            tr("/clear         forget what was said"),
            tr("/bye           leave"),
            tr('"""            begins and ends a message of several lines'),
        ):
            self._note(line)


def summary(stream: ChatStream) -> Text | str:
    """One line on an answer: tokens in and out, time to the first, tokens per second."""
    if stream.usage is None or stream.first_s is None:
        return f"[{stream.total_s:.1f} s]"
    speed = stream.tokens_per_s
    return tr(
        "[{prompt} tokens in, {completion} out, first after {first} s, {speed} tokens/s]",
        prompt=stream.usage.prompt_tokens,
        completion=stream.usage.completion_tokens,
        first=f"{stream.first_s:.2f}",
        speed="-" if speed is None else f"{speed:.1f}",
    )


def use_history(path: Path) -> Callable[[], None]:
    """Let `input` edit lines and remember those of earlier conversations.

    Returns:
        a function that saves them (for the owner's eyes only); call it at the end.
    """
    try:
        import readline
    except ImportError:  # not on every platform; plain lines then
        return lambda: None
    with suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(_HISTORY_LINES)

    def save() -> None:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            readline.write_history_file(path)

    return save


def _print_piece(text: str) -> None:
    print(text, end="", flush=True)


def _print_note(text: Text | str) -> None:
    print(text, file=sys.stderr, flush=True)
