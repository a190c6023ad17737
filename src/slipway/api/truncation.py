"""Leaving something out of a prompt that does not fit, when the client asked for it, and saying so.

Nothing is ever cut by itself: without `truncate: true` a prompt that is too long is refused with
the numbers. What goes, goes in whole turns from the oldest on; system texts and the last turn stay.
Only the one prompt of `/api/generate` is cut inside, as Ollama does: the first `num_keep` tokens
and the end stay.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.engine.client import EngineClient
from slipway.engine.table import Lease

_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Cut:
    """What was left out: whole messages, and tokens in all."""

    messages: int
    tokens: int

    @property
    def header(self) -> str:
        """As the header `X-Slipway-Truncated` says it."""
        return f"messages={self.messages}, tokens={self.tokens}"

    def as_json(self) -> dict[str, int]:
        """As the field `truncated` of an answer says it."""
        return {"messages": self.messages, "tokens": self.tokens}


Shorten = Callable[[EngineClient, Lease, dict[str, Any]], Awaitable[tuple[dict[str, Any], Cut]]]
"""Makes a payload fit the lease's context, and says what went."""


def room_for_prompt(num_ctx: int, num_predict: int) -> int:
    """Tokens that a shortened prompt may have, so that an answer still fits.

    What `num_predict` says, but no more than half of the context; an eighth when it says nothing.
    """
    answer = num_predict if num_predict > 0 else min(512, num_ctx // 8)
    return num_ctx - max(1, min(answer, num_ctx // 2))


def turns(messages: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[list[Any]]]:
    """System texts at the beginning, and turns: a user's message with all that answers it."""
    lead = 0
    while lead < len(messages) and messages[lead].get("role") in ("system", "developer"):
        lead += 1
    found: list[list[Any]] = []
    for message in messages[lead:]:
        if not found or message.get("role") in ("user", "system"):
            found.append([])
        found[-1].append(message)
    return list(messages[:lead]), found


async def fit_turns(
    messages: Sequence[dict[str, Any]],
    count: Callable[[list[dict[str, Any]]], Awaitable[int]],
    limit: int,
) -> tuple[list[dict[str, Any]], Cut]:
    """The conversation without as many of the oldest turns as must go.

    Args:
        count: tokens of a rendered conversation.

    Raises:
        UsageError: system texts and the last turn alone do not fit.
    """
    lead, rest = turns(messages)

    def kept(gone: int) -> list[dict[str, Any]]:
        return [*lead, *(message for turn in rest[gone:] for message in turn)]

    whole = await count(list(messages))
    low, high = 0, len(rest) - 1
    least = await count(kept(high)) if high > 0 else whole
    if least > limit:
        raise _too_long(least, limit)
    fewest = least
    while low < high:  # the smallest number of turns whose absence is enough
        middle = (low + high) // 2
        tokens = await count(kept(middle))
        if tokens <= limit:
            high, fewest = middle, tokens
        else:
            low = middle + 1
    gone = len(messages) - len(kept(high))
    return kept(high), Cut(gone, whole - fewest)


def shorten_chat(num_predict: int) -> Shorten:
    """For a conversation."""

    async def shorten(
        client: EngineClient, lease: Lease, payload: dict[str, Any]
    ) -> tuple[dict[str, Any], Cut]:
        async def count(messages: list[dict[str, Any]]) -> int:
            return await client.count_chat(lease, {**payload, "messages": messages})

        limit = room_for_prompt(lease.spec.num_ctx, num_predict)
        messages, cut = await fit_turns(payload["messages"], count, limit)
        return {**payload, "messages": messages}, cut

    return shorten


def shorten_prompt(num_predict: int, num_keep: int) -> Shorten:
    """For one prompt: the last message's text, or a raw prompt."""

    async def shorten(
        client: EngineClient, lease: Lease, payload: dict[str, Any]
    ) -> tuple[dict[str, Any], Cut]:
        limit = room_for_prompt(lease.spec.num_ctx, num_predict)
        chat = "messages" in payload
        text = payload["messages"][-1]["content"] if chat else payload["prompt"]
        tokens = (
            text if isinstance(text, list) else await client.tokenize(lease, text, special=False)
        )
        keep, gone = max(0, num_keep), 0

        async def with_gone(gone: int) -> dict[str, Any]:
            rest = [*tokens[:keep], *tokens[keep + gone :]]
            if not chat:
                return {**payload, "prompt": rest}
            last = {**payload["messages"][-1], "content": await client.detokenize(lease, rest)}
            return {**payload, "messages": [*payload["messages"][:-1], last]}

        async def size(changed: dict[str, Any]) -> int:
            if chat:
                return await client.count_chat(lease, changed)
            return len(changed["prompt"]) + 1  # the mark of the beginning

        changed = await with_gone(0)
        whole = over = await size(changed)
        for _ in range(_ROUNDS):  # a text that is put together anew may have a token more
            gone += max(0, over - limit)
            if keep + gone >= len(tokens):
                raise _too_long(whole, limit)
            changed = await with_gone(gone)
            over = await size(changed)
            if over <= limit:
                return changed, Cut(0, whole - over)
        raise _too_long(over, limit)

    return shorten


def _too_long(tokens: int, limit: int) -> UsageError:
    return UsageError(
        "engine.context_overflow",
        tr(
            "what may not be left out has {tokens} tokens, and there is room for {limit}",
            tokens=tokens,
            limit=limit,
        ),
        tr("shorten the messages, or ask for more context with the option `num_ctx`"),
    )
