"""What a request or an answer gets: passed on, noted, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from slipway.core.errors import InputError
from slipway.core.i18n import tr
from slipway.gateway.filter.bodies import Text, answer_texts, request_texts
from slipway.gateway.filter.excerpt import excerpt
from slipway.gateway.filter.matcher import Hit, Matcher
from slipway.gateway.filter.normalise import Gaps, Normaliser
from slipway.gateway.filter.stream import StreamMatcher
from slipway.gateway.filter.words import Rule

Action = Literal["allow", "audit", "block"]

CODE = "content_policy_violation"
"""`error.code` of a refused request; its status is 400."""

FINISH_REASON = "content_filter"
"""`finish_reason` of an answer that was ended (Anthropic's `stop_reason` is `refusal`)."""

STATUS = 400

MAX_HITS = 100
"""Hits kept of one request or answer; a blocking one always is."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is done with a request or an answer.

    Attributes:
        hits: what was found, in order, at most `MAX_HITS`.
        blocked: the first hit that refuses it, if one does.
    """

    hits: tuple[Hit, ...] = ()
    blocked: Hit | None = None

    @property
    def action(self) -> Action:
        """`allow` without hits, `audit` when they are only to be noted, else `block`."""
        if self.blocked is not None:
            return "block"
        return "audit" if self.hits else "allow"

    @property
    def message(self) -> str:
        """For the client: says the rule and the field, not the word."""
        if self.blocked is None:
            return ""
        where = f" in `{self.blocked.field}`" if self.blocked.field else ""
        return f"The content policy of this gateway (`{self.blocked.rule}`) refuses a text{where}."

    def log(self) -> list[dict[str, object]]:
        """The hits for a log: without the words, with masked excerpts."""
        return [
            {
                "rule": hit.rule,
                "mode": hit.mode,
                "group": hit.group,
                "field": hit.field,
                "start": hit.start,
                "end": hit.end,
                "excerpt": hit.excerpt,
            }
            for hit in self.hits
        ]


class AnswerStream:
    """An answer that arrives in pieces; each choice is a text of its own.

    What is held back of a choice comes with a later piece or with `finish`. The relay calls
    `finish` before it forwards the choice's end (`finish_reason`, `content_block_stop`).
    """

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self._choices: dict[int | str, StreamMatcher] = {}

    def feed(self, choice: int | str, text: str) -> str:
        """A piece of a choice; returns what can be forwarded now, perhaps nothing.

        Args:
            choice: its index; what the client reads apart (thoughts, a call's arguments) is a
                choice of its own, such as `"0.reasoning"`.
        """
        stream = self._choices.get(choice)
        return (stream or self._of(choice)).feed(text)

    def finish(self, choice: int | str) -> str:
        """A choice is complete: what was held back, unless it is blocked."""
        return self._of(choice).finish()

    def is_blocked(self, choice: int | str) -> bool:
        """Whether a choice was ended: the relay sends `FINISH_REASON` and nothing more of it."""
        return choice in self._choices and self._choices[choice].blocked is not None

    @property
    def verdict(self) -> Verdict:
        """What was found so far in all choices."""
        streams = self._choices.values()
        hits = tuple(hit for stream in streams for hit in stream.hits)
        blocked = next((stream.blocked for stream in streams if stream.blocked), None)
        return Verdict(hits, blocked)

    def _of(self, choice: int | str) -> StreamMatcher:
        if choice not in self._choices:
            self._choices[choice] = StreamMatcher(self._matcher, f"choice {choice}", most=MAX_HITS)
        return self._choices[choice]


class ContentFilter:
    """Rules ready for use; one for all requests, made again when a rule changes.

    It has no state of requests, so it can be shared and replaced at any time.

    Args:
        rules: names may not repeat.
        chinese: read traditional characters as simplified ones, in words and texts.
        gaps: what is passed over between two Chinese or Japanese characters.

    Raises:
        InputError: a rule or a word cannot be used; the message names it.
    """

    def __init__(self, rules: Iterable[Rule], *, chinese: bool = True, gaps: Gaps = "keep") -> None:
        self.rules = tuple(rules)
        names = [rule.name for rule in self.rules]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(
                "filter.rule_twice",
                tr("two rules are called `{name}`", name=twice),
                tr("give each rule a name of its own"),
            )
        normaliser = Normaliser(chinese=chinese, gaps=gaps)
        request = tuple(rule for rule in self.rules if rule.where != "answer")
        answer = tuple(rule for rule in self.rules if rule.where != "request")
        self._request = Matcher(request, normaliser)
        self._answer = self._request if answer == request else Matcher(answer, normaliser)

    @property
    def looks_at_answers(self) -> bool:
        """Whether any rule concerns answers; if none does, streams need not be fed."""
        return len(self._answer) > 0

    def check_request(self, body: Mapping[str, Any]) -> Verdict:
        """What a request's body gets, whatever its endpoint."""
        return _check(self._request, request_texts(body)) if len(self._request) else Verdict()

    def check_answer(self, body: Mapping[str, Any]) -> Verdict:
        """What a whole answer's body gets."""
        return _check(self._answer, answer_texts(body)) if len(self._answer) else Verdict()

    def check_text(self, text: str, where: Literal["request", "answer"] = "request") -> Verdict:
        """What one text gets."""
        return _check(self._request if where == "request" else self._answer, [("", text)])

    def stream(self) -> AnswerStream:
        """For one answer that arrives in pieces."""
        return AnswerStream(self._answer)


def _check(matcher: Matcher, texts: Iterable[Text]) -> Verdict:
    hits: list[Hit] = []
    blocked: Hit | None = None
    for field, text in texts:
        view = matcher.normaliser(text)
        for found in matcher.find(view.text):
            blocks = found.entry.mode == "block" and blocked is None
            if len(hits) >= MAX_HITS and not blocks:
                continue
            start, end = view.start(found.start), view.end(found.end)
            entry = found.entry
            hits.append(
                Hit(
                    rule=entry.rule,
                    mode=entry.mode,
                    group=entry.group,
                    word=entry.word,
                    start=start,
                    end=end,
                    excerpt=excerpt(text, start, end),
                    field=field,
                )
            )
            if blocks:
                blocked = hits[-1]
    return Verdict(tuple(hits), blocked)
