"""What tokens cost, and how many there are when nobody says.

A price is in micro-units (millionths of the currency) per million tokens, so that a price written
as 2.5 per million tokens is 2 500 000. A cost is rounded up once, to whole micro-units. A model
without a price costs nothing and its requests are marked as unpriced; channels to paid services
are refused without a price when they are added, so that only local models can be in that state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from slipway.core.errors import UsageError
from slipway.core.i18n import tr

MICRO = 1_000_000
# what a request without max_tokens is taken to generate at most, when its budget is reserved
ASSUMED_COMPLETION_TOKENS = 4096
# what one picture or sound in a prompt is taken to be
ASSUMED_MEDIA_TOKENS = 4096
_TOKENS_AROUND_MESSAGE = 16
# no answer is longer; keeps the cost of an absurd max_tokens within the books' 64-bit integers
_LONGEST_COMPLETION_TOKENS = 1 << 24


@dataclass(frozen=True, slots=True)
class Price:
    """Micro-units per million tokens; `cached` None means as `input`."""

    input: int
    output: int
    cached: int | None = None

    def as_json(self) -> dict[str, int | None]:
        """The price with its unit in each name."""
        return {
            "input_micro_per_mtok": self.input,
            "output_micro_per_mtok": self.output,
            "cached_micro_per_mtok": self.cached,
        }


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request.

    Attributes:
        prompt: all of them, with those that were read from or written to a cache.
        completion: all of them, with those of the reasoning.
        cached: of the prompt, read from the upstream's cache.
        estimated: the upstream did not say and the gateway counted.
        cache_write: of the prompt, written to the upstream's cache.
        reasoning: of the completion, thought and perhaps not shown.
    """

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    estimated: bool = False
    cache_write: int = 0
    reasoning: int = 0


def cost_micro(usage: Usage, price: Price | None) -> int:
    """The cost of a request in micro-units; 0 without a price."""
    if price is None:
        return 0
    cached_price = price.input if price.cached is None else price.cached
    cached = min(usage.cached, usage.prompt)
    total = (
        (usage.prompt - cached) * price.input
        + cached * cached_price
        + usage.completion * price.output
    )
    return -(-total // MICRO)


def parse_money(text: str, option: str) -> int:
    """An amount such as `1.50` in micro-units.

    Raises:
        UsageError: no number, negative, or finer than a micro-unit.
    """
    try:
        amount = Decimal(text) * MICRO
        if amount >= 0 and amount == amount.to_integral_value() and amount < 2**62:
            return int(amount)
    except (InvalidOperation, OverflowError, ValueError):
        pass
    raise UsageError(
        "gateway.bad_amount",
        tr("`{text}` is not an amount for {option}", text=text, option=option),
        tr("write a number with at most six decimals, for example `1.50`"),
    )


def usage_from(reported: object) -> Usage | None:
    """The `usage` object of an OpenAI answer; None when it is not one."""
    if not isinstance(reported, Mapping):
        return None
    prompt, completion = _count(reported, "prompt_tokens"), _count(reported, "completion_tokens")
    if prompt is None and completion is None:
        return None
    details = reported.get("prompt_tokens_details")
    cached = _count(details, "cached_tokens") if isinstance(details, Mapping) else None
    details = reported.get("completion_tokens_details")
    reasoning = _count(details, "reasoning_tokens") if isinstance(details, Mapping) else None
    return Usage(prompt or 0, completion or 0, cached or 0, reasoning=reasoning or 0)


def _count(values: Mapping[str, Any], key: str) -> int | None:
    value = values.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def estimate_tokens(text: str) -> int:
    """About how many tokens a text is: four Latin letters, or 1.4 Chinese characters, for one."""
    wide = sum(1 for character in text if ord(character) > 0x7F)
    return -(-(len(text) - wide) // 4) + -(-wide * 7 // 10)


def prompt_estimate(body: Mapping[str, Any]) -> int:
    """About how many tokens the prompt of a request is."""
    return sum(
        ASSUMED_MEDIA_TOKENS if _is_media(text) else estimate_tokens(text)
        for text in _prompt_texts(body)
    )


def most_tokens(body: Mapping[str, Any]) -> Usage:
    """More tokens than a request can use, to reserve its cost by.

    No tokenizer makes more tokens of a text than it has bytes. A request that sets no limit of
    its own is taken to generate `ASSUMED_COMPLETION_TOKENS` for each answer it asks for.
    """
    prompt = sum(
        ASSUMED_MEDIA_TOKENS if _is_media(text) else len(text.encode("utf-8", "replace"))
        for text in _prompt_texts(body)
    )
    messages = body.get("messages")
    prompt += _TOKENS_AROUND_MESSAGE * (1 + len(messages) if isinstance(messages, list) else 1)
    if "messages" not in body and "prompt" not in body:
        return Usage(prompt=prompt)  # embeddings generate nothing
    limit = _count(body, "max_completion_tokens")
    if limit is None:
        limit = _count(body, "max_tokens")
    answers = max(1, _count(body, "n") or 1, _count(body, "best_of") or 1)
    most = (ASSUMED_COMPLETION_TOKENS if limit is None else limit) * answers
    return Usage(prompt, min(most, _LONGEST_COMPLETION_TOKENS))


def tokens_estimate(body: Mapping[str, Any]) -> int:
    """About how many tokens a request uses: its prompt, and its longest answer where it says."""
    limit = _count(body, "max_completion_tokens")
    if limit is None:
        limit = _count(body, "max_tokens") or 0
    return prompt_estimate(body) + min(limit, _LONGEST_COMPLETION_TOKENS)


def _is_media(text: str) -> bool:
    return text.startswith("data:")


def _prompt_texts(body: Mapping[str, Any]) -> list[str]:
    """Every string that the upstream turns into prompt tokens."""
    found: list[str] = []
    waiting = [body.get(key) for key in ("messages", "prompt", "suffix", "input", "tools")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, Mapping):
            waiting.extend(value.keys())
            waiting.extend(value.values())
        elif isinstance(value, list):
            if value and isinstance(value[0], int):
                found.append("x" * len(value))  # token ids
            else:
                waiting.extend(value)
    return found
