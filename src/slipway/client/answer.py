"""An answer of the daemon as it comes: NDJSON lines in Ollama's shape, with their timings."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from slipway.client.failures import Explained, error_of_line
from slipway.core.errors import ToolError
from slipway.core.i18n import tr

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer: text for the reader, or a thought before it."""

    text: str
    thinking: str = ""


@dataclass(frozen=True, slots=True)
class Timings:
    """What the daemon measured of one answer.

    Attributes:
        total_s: from the request to the last token.
        load_s: spent on loading the model; 0 when it was there.
        prompt_tokens: tokens of the prompt.
        cached_tokens: of these, taken from the cache; 0 when the server does not say.
        prompt_s: time to read those that were not cached.
        completion_tokens: tokens of the answer.
        completion_s: time to make them.
    """

    total_s: float
    load_s: float
    prompt_tokens: int
    cached_tokens: int
    prompt_s: float
    completion_tokens: int
    completion_s: float

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Timings:
        """The timings of the last line of an answer; Ollama leaves out what is 0."""

        def seconds(name: str) -> float:
            return float(line.get(name) or 0) / 1e9

        return cls(
            seconds("total_duration"),
            seconds("load_duration"),
            int(line.get("prompt_eval_count") or 0),
            int(line.get("prompt_cached_count") or 0),
            seconds("prompt_eval_duration"),
            int(line.get("eval_count") or 0),
            seconds("eval_duration"),
        )

    @property
    def prompt_rate(self) -> float | None:
        """Prompt tokens read per second, cached ones apart; None when no time was measured."""
        read = self.prompt_tokens - self.cached_tokens
        return read / self.prompt_s if self.prompt_s > 0 else None

    @property
    def completion_rate(self) -> float | None:
        """Tokens of the answer per second; None when no time was measured."""
        return self.completion_tokens / self.completion_s if self.completion_s > 0 else None

    def as_json(self) -> dict[str, float | int | None]:
        """The timings and both rates, for `--json`."""
        return {
            **asdict(self),
            "prompt_tokens_per_s": self.prompt_rate,
            "completion_tokens_per_s": self.completion_rate,
        }


class Answer:
    """The pieces of an answer. Iterate for them; the attributes are complete after that.

    Closing early stops the model.

    Attributes:
        text: what has come so far.
        thinking: the thoughts that have come so far.
        done_reason: `stop`, `length`, `load`, `unload`; empty before the end.
        timings: known with the end.
        truncated: messages and tokens that were left out of the prompt; None is nothing.
        first_s: seconds until the first piece; None before it.
    """

    def __init__(self, response: httpx.Response, url: str, started: float) -> None:
        self._response = response
        self._url = url
        self._started = started
        self.text = ""
        self.thinking = ""
        self.done_reason = ""
        self.timings: Timings | None = None
        self.truncated: dict[str, int] | None = None
        self.first_s: float | None = None

    def __iter__(self) -> Iterator[Piece]:
        try:
            with Explained(self._url):
                for line in self._response.iter_lines():
                    piece = self._take(line)
                    if piece.text or piece.thinking:
                        if self.first_s is None:
                            self.first_s = time.perf_counter() - self._started
                        self.text += piece.text
                        self.thinking += piece.thinking
                        yield piece
        finally:
            self.close()
        if not self.done_reason:
            raise _cut()

    def read(self) -> Answer:
        """Wait for the end of the answer."""
        for _ in self:
            pass
        return self

    def close(self) -> None:
        """Stop the answer, if it still goes on."""
        self._response.close()

    def _take(self, text: str) -> Piece:
        if not text.strip():
            return Piece("")
        try:
            line = json.loads(text)
        except ValueError as error:
            raise _cut() from error
        if not isinstance(line, dict):
            raise _cut()
        if "error" in line:
            raise error_of_line(line)
        if line.get("done"):
            self.done_reason = line.get("done_reason") or "stop"
            self.timings = Timings.of(line)
            self.truncated = line.get("truncated")
        message = line.get("message") or {}
        return Piece(message.get("content") or "", message.get("thinking") or "")


def _cut() -> ToolError:
    return ToolError(
        "client.answer_cut",
        tr("the daemon broke off before the end of its answer"),
        tr("see whether it still runs with `slipway status`"),
    )
