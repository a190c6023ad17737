"""How an answer is shown: thoughts apart, words wrapped on a terminal, timings after it."""

from __future__ import annotations

import os
import shutil
import sys

from slipway.cli.output import note
from slipway.cli.talk.wrap import Wrapper, printable
from slipway.client import Answer, Piece, Timings
from slipway.core.i18n import Text, tr

_GREY, _PLAIN = "\x1b[90m", "\x1b[0m"


class Screen:
    """Prints answers: text on stdout; thoughts in grey before it, on stderr when piped.

    Attributes:
        wordwrap: break lines between words (only on a terminal).
        verbose: print the timings after each answer.
        hide_thinking: leave thoughts out.
    """

    def __init__(
        self, *, wordwrap: bool = True, verbose: bool = False, hide_thinking: bool = False
    ) -> None:
        self.wordwrap = wordwrap
        self.verbose = verbose
        self.hide_thinking = hide_thinking
        self._tty = sys.stdout.isatty()
        self._wrapper: Wrapper | None = None
        self._thinking = False
        self._at_line_start = True

    def begin(self) -> None:
        """Get ready for the next answer."""
        self._thinking, self._at_line_start = False, True
        self._new_wrapper()

    def piece(self, piece: Piece) -> None:
        """Show the next piece."""
        if piece.thinking and not self.hide_thinking:
            if not self._thinking:
                self._thinking = True
                self._aside(str(tr("Thinking...")) + "\n")
            self._aside(self._wrapped(piece.thinking))
        if piece.text:
            self._end_of_thought()
            self._at_line_start = piece.text.endswith("\n")
            print(self._wrapped(piece.text), end="", flush=True)

    def end(self, answer: Answer | None) -> None:
        """Finish the answer; None when it was interrupted."""
        self._end_of_thought()
        if not self._at_line_start or (self._tty and answer is not None):
            print(flush=True)
        if answer is None:
            return
        if answer.truncated:
            note(
                tr(
                    "[left out to fit the context: {messages} messages, {tokens} tokens]",
                    messages=answer.truncated.get("messages", 0),
                    tokens=answer.truncated.get("tokens", 0),
                )
            )
        if answer.done_reason == "length":
            note(tr("[cut at the limit: see `num_predict` and `num_ctx`]"))
        if self.verbose and answer.timings:
            for line in timing_lines(answer.timings):
                note(line)

    def _end_of_thought(self) -> None:
        if self._thinking:
            self._thinking = False
            self._aside("\n" + str(tr("...done thinking.")) + "\n\n")
            self._new_wrapper()

    def _aside(self, text: str) -> None:
        if not self._tty:
            print(text, end="", file=sys.stderr, flush=True)
        elif os.environ.get("NO_COLOR"):
            print(text, end="", flush=True)
        else:
            print(f"{_GREY}{text}{_PLAIN}", end="", flush=True)

    def _new_wrapper(self) -> None:
        columns = shutil.get_terminal_size().columns
        self._wrapper = Wrapper(columns) if self.wordwrap and self._tty else None

    def _wrapped(self, text: str) -> str:
        if self._wrapper is not None:
            return self._wrapper.feed(text)
        return printable(text) if self._tty else text


def timing_lines(timings: Timings) -> list[Text]:
    """The timings of an answer, a line each, as Ollama prints them."""
    return [
        tr("total duration:       {value}", value=go_duration(timings.total_s)),
        tr("load duration:        {value}", value=go_duration(timings.load_s)),
        _prompt_line(timings),
        tr("prompt eval duration: {value}", value=go_duration(timings.prompt_s)),
        tr("prompt eval rate:     {rate} tokens/s", rate=_rate(timings.prompt_rate)),
        tr("eval count:           {count} token(s)", count=timings.completion_tokens),
        tr("eval duration:        {value}", value=go_duration(timings.completion_s)),
        tr("eval rate:            {rate} tokens/s", rate=_rate(timings.completion_rate)),
    ]


def _prompt_line(timings: Timings) -> Text:
    if not timings.cached_tokens:
        return tr("prompt eval count:    {count} token(s)", count=timings.prompt_tokens)
    return tr(
        "prompt eval count:    {count} token(s), {cached} of them cached",
        count=timings.prompt_tokens,
        cached=timings.cached_tokens,
    )


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.2f}"


def go_duration(seconds: float) -> str:
    """A duration as Go prints it: `1.5s`, `12.3ms`, `2m3.5s`, `0s`."""
    nanoseconds = round(seconds * 1e9)
    if nanoseconds == 0:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
        if nanoseconds < size * 1000:
            return f"{_decimal(nanoseconds / size)}{unit}"
    minutes, rest = divmod(nanoseconds, 60_000_000_000)
    text = f"{_decimal(rest / 1e9)}s"
    if minutes:
        hours, minutes = divmod(minutes, 60)
        text = f"{f'{hours}h' if hours else ''}{minutes}m{text}"
    return text


def _decimal(value: float) -> str:
    return f"{value:.9f}".rstrip("0").rstrip(".")
