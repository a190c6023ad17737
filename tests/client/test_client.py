from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from slipway.client import GatewayClient, Message, Profile, load_profile, save_profile
from slipway.client.http import ChatUsage, RateLimitedError
from slipway.core.errors import (
    AuthError,
    InputError,
    NotFoundError,
    SlipwayError,
    ToolError,
    UnreachableError,
    UsageError,
)
from slipway.core.paths import Home
from slipway.core.process import free_port
from slipway.testing.fake_upstream import FakeAnswer, FakeUpstream

SAID: list[Message] = [{"role": "user", "content": "one two three"}]


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream(models=["tiny", "big"]) as server:
        yield server


@pytest.fixture
def client(upstream: FakeUpstream) -> Iterator[GatewayClient]:
    with GatewayClient(upstream.url + "/v1/", "sk-x") as made:
        yield made


def test_models_and_embeddings(client: GatewayClient) -> None:
    assert client.models() == ["big", "tiny"]
    assert client.embeddings("tiny", ["abc", "d"]) == [[3.0, 1.0], [1.0, 1.0]]


def test_chat_streams_pieces_then_usage(client: GatewayClient, upstream: FakeUpstream) -> None:
    upstream.script(FakeAnswer(piece_delay_s=0.02))
    stream = client.chat("tiny", SAID, temperature=0.1)
    assert list(stream) == ["one", " two", " three"]
    assert stream.text == "one two three"
    assert stream.usage == ChatUsage(3, 3)
    assert stream.finish_reason == "stop"
    assert stream.first_s is not None and 0 < stream.first_s < stream.total_s
    assert stream.tokens_per_s is not None and stream.tokens_per_s < 120
    assert upstream.seen[-1].body["temperature"] == 0.1


def test_closing_stops_the_server(client: GatewayClient, upstream: FakeUpstream) -> None:
    import time

    upstream.script(FakeAnswer(pieces=("x",) * 500, piece_delay_s=0.01))
    stream = client.chat("tiny", SAID)
    for _ in stream:
        break
    stream.close()
    deadline = time.monotonic() + 5
    while not upstream.seen[-1].left:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("status", "kind", "exit_code"),
    [
        (400, UsageError, 2),
        (401, AuthError, 4),
        (403, AuthError, 4),
        (404, NotFoundError, 5),
        (429, RateLimitedError, 3),
        (500, ToolError, 1),
        (502, UnreachableError, 3),
        (503, UnreachableError, 3),
    ],
)
def test_statuses_become_errors_with_the_servers_words(
    client: GatewayClient,
    upstream: FakeUpstream,
    status: int,
    kind: type[SlipwayError],
    exit_code: int,
) -> None:
    body = json.dumps({"error": {"message": "the server's words"}}).encode()
    upstream.script(FakeAnswer(status=status, body=body, headers={"Retry-After": "9"}))
    with pytest.raises(kind) as caught:
        client.chat("tiny", SAID)
    assert caught.value.message_en == "the server's words"
    assert caught.value.exit_code == exit_code
    if isinstance(caught.value, RateLimitedError):
        assert caught.value.retry_after_s == 9 and "9 s" in caught.value.hint_en


def test_nobody_at_the_address() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with GatewayClient(url) as client, pytest.raises(UnreachableError, match=url):
        client.models()


def test_addresses_and_keys_that_cannot_be_sent() -> None:
    for url, key in (("nonsense", ""), ("ftp://x", ""), ("http://", ""), ("http://x", "密钥")):
        with pytest.raises(UsageError, match="bad_url"):
            GatewayClient(url, key)


def test_other_servers_are_noticed(client: GatewayClient, upstream: FakeUpstream) -> None:
    upstream.script(FakeAnswer(body=b"<html>", content_type="text/html"))
    with pytest.raises(ToolError, match="bad_answer"):
        client.embeddings("tiny", ["x"])


def test_a_stream_that_breaks_off_is_an_error(
    client: GatewayClient, upstream: FakeUpstream
) -> None:
    ended = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
    failed = b'data: {"error": {"message": "out of memory"}}\n\n'
    upstream.script(
        FakeAnswer(pieces=("a", "b"), cut_after=1),
        FakeAnswer(body=ended, content_type="text/event-stream"),
        FakeAnswer(body=ended + failed, content_type="text/event-stream"),
    )
    for code in ("connection_lost", "answer_cut", "out of memory"):
        stream = client.chat("tiny", SAID)
        with pytest.raises(ToolError, match=code):
            list(stream)
        assert stream.text == "a"


def test_the_profile_is_the_owners_alone_and_comes_back(home: Home) -> None:
    assert load_profile(home) == Profile()
    path = save_profile(home, "http://127.0.0.1:3000", "sk-secret", "kefu")
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_profile(home) == Profile("http://127.0.0.1:3000", "sk-secret", "kefu")
    assert "sk-secret" not in repr(load_profile(home))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"url": 5}'])
def test_a_broken_profile_is_named(home: Home, text: str) -> None:
    path = save_profile(home, "a", "b", "c")
    path.write_text(text)
    with pytest.raises(InputError, match=r"client\.json"):
        load_profile(home)
