"""The official `openai` client, unmodified, against the gateway."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from slipway.gateway import (
    ChannelSpec,
    GatewayConfig,
    Price,
    Store,
    add_channel,
    add_token,
    add_user,
    build_app,
    list_requests,
    open_store,
)
from slipway.testing.asgi_server import AsgiServer
from slipway.testing.fake_upstream import FakeAnswer, FakeUpstream


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream(models=["tiny", "other"]) as server:
        yield server


@pytest.fixture
def store() -> Iterator[Store]:
    opened = open_store()
    yield opened
    opened.close()


@pytest.fixture
def url(store: Store, upstream: FakeUpstream) -> Iterator[str]:
    add_user(store, "ada")
    add_channel(store, ChannelSpec("c", "slipway", upstream.url, price=Price(1_000_000, 1_000_000)))
    with AsgiServer(build_app(store, GatewayConfig(max_body_bytes=100_000))) as server:
        yield f"{server.url}/v1"


@pytest.fixture
def client(url: str, store: Store) -> Iterator[openai.OpenAI]:
    _, key = add_token(store, "laptop", user="ada")
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as made:
        yield made


def booked(store: Store) -> tuple[int, int]:
    row = list_requests(store, 1)[0]
    return row["prompt_tokens"], row["completion_tokens"]


def test_list_and_retrieve(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["other", "tiny"]
    assert client.models.retrieve("tiny").owned_by == "slipway"


def test_chat(client: openai.OpenAI, store: Store) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "say it twice"}], temperature=0.5
    )
    assert answer.choices[0].message.content == "say it twice"
    assert answer.usage is not None
    assert booked(store) == (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 3)
    assert answer._request_id == list_requests(store, 1)[0]["request_id"]


def test_stream_with_and_without_usage(client: openai.OpenAI, store: Store) -> None:
    said = [{"role": "user", "content": "one two three four"}]
    plain = client.chat.completions.create(model="tiny", messages=said, stream=True)  # type: ignore[call-overload]
    chunks = list(plain)
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "one two three four"
    assert booked(store) == (4, 4)
    asked = client.chat.completions.create(  # type: ignore[call-overload]
        model="tiny", messages=said, stream=True, stream_options={"include_usage": True}
    )
    usage = list(asked)[-1].usage
    assert booked(store) == (usage.prompt_tokens, usage.completion_tokens) == (4, 4)


def test_embed(client: openai.OpenAI, store: Store) -> None:
    answer = client.embeddings.create(model="tiny", input=["a b c", "d"], encoding_format="float")
    assert [row.embedding for row in answer.data] == [[5.0, 1.0], [1.0, 1.0]]
    assert booked(store) == (answer.usage.prompt_tokens, 0) == (4, 0)


def test_legacy_completions(client: openai.OpenAI) -> None:
    assert client.completions.create(model="tiny", prompt="a b").choices[0].text == "a b"


def test_errors_become_the_clients_own(
    client: openai.OpenAI, url: str, store: Store, upstream: FakeUpstream
) -> None:
    def ask(with_client: openai.OpenAI = client, model: str = "tiny", text: str = "x") -> None:
        with_client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": text}]
        )

    def other(key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=url, api_key=key, max_retries=0)

    with pytest.raises(openai.NotFoundError) as missing:
        ask(model="nothing")
    assert missing.value.code == "model_not_found" and missing.value.param == "model"
    assert (missing.value.request_id or "").startswith("req_")
    with other("sk-wrong") as wrong, pytest.raises(openai.AuthenticationError) as refused:
        ask(wrong)
    assert refused.value.code == "invalid_api_key"
    _, poor_key = add_token(store, "poor", user="ada", budget_micro=1, models=["tiny"])
    with other(poor_key) as poor:
        with pytest.raises(openai.PermissionDeniedError) as broke:
            ask(poor)
        assert broke.value.code == "insufficient_quota"
        with pytest.raises(openai.PermissionDeniedError) as barred:
            ask(poor, model="other")
        assert barred.value.code == "model_not_allowed"
    with pytest.raises(openai.APIStatusError) as large:
        ask(text="x" * 100_001)
    assert large.value.status_code == 413
    limited = FakeAnswer(status=429, body=b"{}", headers={"Retry-After": "30"})
    upstream.script(FakeAnswer(status=500, body=b"{}"), limited)
    with pytest.raises(openai.InternalServerError):
        ask()
    with pytest.raises(openai.RateLimitError):
        ask()


def test_a_cut_stream_raises(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    upstream.script(FakeAnswer(pieces=("a", "b", "c"), cut_after=2))
    stream = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "x"}], stream=True
    )
    got = []
    with pytest.raises(openai.APIError, match="broke off"):
        got.extend(chunk.choices[0].delta.content for chunk in stream)
    assert got == ["a", "b"]
