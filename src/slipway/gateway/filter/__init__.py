"""Content filter and masking of personal data: pure, called by the relay.

    from slipway.gateway.filter import ContentFilter, Rule, load_words, mask_body, mask_personal

    words = load_words(Path("words.txt"))                   # one word a line, `#`, `word<TAB>group`
    filters = ContentFilter([Rule("house rules", words, mode="block")], gaps="spaces")

A request, its JSON decoded, before anything is reserved or sent:

    verdict = filters.check_request(body)
    if verdict.action == "block":                            # status STATUS (400), code CODE
        raise ApiError(STATUS, CODE, verdict.message, param=verdict.blocked.field)
    if verdict.hits:
        log(verdict.log())                                   # no words, masked excerpts

A whole answer: `filters.check_answer(body)`; a blocked one ends with FINISH_REASON and no content.

A streamed answer, for each event that has text (`looks_at_answers` says whether it is needed):

    stream = filters.stream()                                # one per request
    piece = stream.feed(choice, delta)                       # forward `piece` in place of `delta`
    if stream.is_blocked(choice):                            # send FINISH_REASON, close upstream
    rest = stream.finish(choice)                             # before the choice's own last event
    stream.verdict.log()                                     # after all

Choices are independent; so are texts that the client reads apart: name them `"0.reasoning"`,
`"0.tool.1"`. While nothing is blocked the pieces and the rest together are the original text.
A piece is empty when all of it must wait: such an event need not be sent.

Logs and captures: `mask_personal(text)`, `mask_body(json_value)`.

Building takes about 0.1 s for 20,000 words: do it in a thread when words change, then replace the
filter. `ContentFilter` may be shared between tasks and threads; a stream belongs to one request.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slipway.gateway.filter.matcher import Hit
    from slipway.gateway.filter.normalise import Gaps
    from slipway.gateway.filter.personal import mask_body, mask_personal
    from slipway.gateway.filter.policy import (
        CODE,
        FINISH_REASON,
        STATUS,
        Action,
        AnswerStream,
        ContentFilter,
        Verdict,
    )
    from slipway.gateway.filter.words import (
        Mode,
        Rule,
        Where,
        Word,
        load_words,
        parse_words,
        words_of,
    )

_HOME = {
    "matcher": ("Hit",),
    "normalise": ("Gaps",),
    "personal": ("mask_body", "mask_personal"),
    "policy": (
        "CODE",
        "FINISH_REASON",
        "STATUS",
        "Action",
        "AnswerStream",
        "ContentFilter",
        "Verdict",
    ),
    "words": ("Mode", "Rule", "Where", "Word", "load_words", "parse_words", "words_of"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "CODE",
    "FINISH_REASON",
    "STATUS",
    "Action",
    "AnswerStream",
    "ContentFilter",
    "Gaps",
    "Hit",
    "Mode",
    "Rule",
    "Verdict",
    "Where",
    "Word",
    "load_words",
    "mask_body",
    "mask_personal",
    "parse_words",
    "words_of",
]


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
