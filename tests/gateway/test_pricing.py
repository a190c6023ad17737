from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.core.errors import UsageError
from slipway.gateway.pricing import (
    ASSUMED_COMPLETION_TOKENS,
    ASSUMED_MEDIA_TOKENS,
    Price,
    Usage,
    cost_micro,
    estimate_tokens,
    most_tokens,
    parse_money,
    prompt_estimate,
    usage_from,
)

PRICE = Price(input=2_500_000, output=10_000_000)


def chat(text: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def test_a_cost_is_rounded_up_once() -> None:
    assert cost_micro(Usage(1000, 100), PRICE) == 3500
    assert cost_micro(Usage(1, 0), PRICE) == 3
    assert cost_micro(Usage(1, 0), Price(1, 0)) == 1
    assert cost_micro(Usage(0, 0), PRICE) == 0
    assert cost_micro(Usage(1000, 100), None) == 0


def test_cached_tokens_have_their_own_price_where_there_is_one() -> None:
    usage = Usage(prompt=1000, completion=0, cached=400)
    assert cost_micro(usage, PRICE) == 2500
    assert cost_micro(usage, Price(2_500_000, 0, cached=1_000_000)) == 1900
    # an upstream that reports more cached than there were does not make the rest negative
    assert cost_micro(Usage(10, 0, 50), Price(2_000_000, 0, cached=0)) == 0


def test_money_is_exact() -> None:
    assert parse_money("1.50", "--budget") == 1_500_000
    assert parse_money("0.000001", "--budget") == 1
    assert parse_money("0", "--budget") == 0
    for text in ("", "x", "-1", "0.0000001", "nan", "inf", "1e30"):
        with pytest.raises(UsageError, match="--budget"):
            parse_money(text, "--budget")


def test_usage_is_read_where_it_is_whole() -> None:
    reported = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": None}
    assert usage_from(reported) == Usage(7, 2)
    reported["prompt_tokens_details"] = {"cached_tokens": 5}  # type: ignore[assignment]
    assert usage_from(reported) == Usage(7, 2, 5)
    assert usage_from({"prompt_tokens": 4, "total_tokens": 4}) == Usage(4, 0)
    for nothing in (None, [], {}, {"prompt_tokens": "7"}, {"prompt_tokens": -1}):
        assert usage_from(nothing) is None


@given(st.text())
def test_the_reserve_covers_any_estimate(text: str) -> None:
    assert most_tokens(chat(text)).prompt >= prompt_estimate(chat(text))
    assert estimate_tokens(text) <= len(text.encode("utf-8", "replace"))


def test_the_reserve_follows_the_clients_own_limits() -> None:
    assert most_tokens(chat("x")).completion == ASSUMED_COMPLETION_TOKENS
    assert most_tokens(chat("x", max_tokens=10)).completion == 10
    assert most_tokens(chat("x", max_tokens=10, n=3)).completion == 30
    assert most_tokens(chat("x", max_tokens=50, max_completion_tokens=20)).completion == 20
    assert most_tokens(chat("x", max_tokens=-5)).completion == ASSUMED_COMPLETION_TOKENS
    assert most_tokens({"model": "m", "input": ["a", "b"]}).completion == 0


def test_everything_that_becomes_prompt_is_counted() -> None:
    parts = [
        {"type": "text", "text": "x" * 100},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}},
    ]
    most = most_tokens(chat(parts)).prompt
    assert 100 + ASSUMED_MEDIA_TOKENS <= most < 5000
    assert most_tokens(chat("x", tools=[{"name": "y" * 500}])).prompt > 500
    assert most_tokens({"model": "m", "input": [[1, 2, 3], [4]]}).prompt >= 4


@pytest.mark.parametrize("absurd", [{"max_tokens": 2**63 - 1}, {"max_tokens": 9, "n": 2**62}])
def test_an_absurd_limit_stays_within_the_books_integers(absurd: dict[str, Any]) -> None:
    reserve = cost_micro(most_tokens(chat("x", **absurd)), PRICE)
    assert 0 < reserve * 1_000_000 < 2**63
