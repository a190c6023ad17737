"""OpenAI's client at channels of other protocols, through the gateway, with the books."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from tests.gateway.gateway_for_tests import PRICE, Gateway

from slipway.core.errors import UsageError
from slipway.gateway import ChannelSpec, add_channel, check_books, list_requests
from slipway.gateway.routing import ChannelKind
from slipway.testing.fake_gemini import FakeGemini
from slipway.testing.fake_messages import FakeMessages


@pytest.fixture(params=["anthropic", "gemini"])
def client(request: pytest.FixtureRequest, gateway: Gateway) -> Iterator[openai.OpenAI]:
    kind: ChannelKind = request.param
    server = FakeMessages() if kind == "anthropic" else FakeGemini()
    with server as upstream:
        spec = ChannelSpec(
            "foreign",
            kind,
            upstream.url,
            models=("far",),
            api_key="upstream-key",
            price=PRICE,
            allow_private=True,
        )
        add_channel(gateway.store, spec)
        with openai.OpenAI(
            base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0
        ) as made:
            yield made
    assert check_books(gateway.store) == []


def test_answers_whole_and_streamed_are_translated_and_paid(
    client: openai.OpenAI, gateway: Gateway
) -> None:
    ask = [{"role": "user", "content": "hello there"}]
    whole = client.chat.completions.create(model="far", messages=ask)  # type: ignore[call-overload]
    assert "hello there" in whole.choices[0].message.content
    assert whole.usage.prompt_tokens > 0
    chunks = list(
        client.chat.completions.create(model="far", messages=ask, stream=True)  # type: ignore[call-overload]
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    rows = list_requests(gateway.store)
    assert [row["error"] for row in rows] == [None, None]
    assert rows[0]["prompt_tokens"] == rows[1]["prompt_tokens"] == whole.usage.prompt_tokens
    assert rows[0]["cost_micro"] == rows[1]["cost_micro"] > 0
    assert not rows[0]["estimated"]


def test_an_endpoint_that_the_kind_lacks_is_refused_and_free(
    client: openai.OpenAI, gateway: Gateway
) -> None:
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="far", prompt="x")
    (row,) = list_requests(gateway.store)
    assert (row["status"], row["cost_micro"]) == (400, 0)


def test_such_channels_name_their_models(gateway: Gateway) -> None:
    with pytest.raises(UsageError, match="not asked"):
        add_channel(gateway.store, ChannelSpec("x", "gemini", "https://example.com", price=PRICE))
