"""What the tests of all adapters share."""

from __future__ import annotations

import json
from typing import Any, cast

import httpx
import httpx2
from anthropic import Anthropic
from openai import OpenAI

from slipway.gateway.adapters import (
    ADAPTERS,
    NO_OPTIONS,
    ChannelOptions,
    Face,
    Translator,
    UpstreamRequest,
)
from slipway.gateway.adapters import AdapterKind as Kind
from slipway.gateway.pricing import Usage
from slipway.gateway.routing import Channel, Target


def target(base_url: str, model: str = "upstream-name") -> Target:
    # adapters look only at the address and the model's name
    channel = Channel(1, "there", "openai", base_url, "public", {"asked": model})
    return Target(channel, model)


def send(
    kind: Kind,
    endpoint: Face,
    body: dict[str, Any],
    *,
    url: str = "https://there.test",
    key: str | None = "upstream-key",
    options: ChannelOptions = NO_OPTIONS,
) -> tuple[UpstreamRequest, dict[str, Any]]:
    raw = json.dumps(body).encode()
    sent = ADAPTERS[kind].request(target(url), endpoint, raw, body, key, options)
    return sent, json.loads(sent.body)


def feed(translator: Translator, chunks: list[bytes]) -> bytes:
    return b"".join(translator.feed(chunk) for chunk in chunks) + translator.end()


def cut(whole: bytes, cuts: list[int]) -> list[bytes]:
    chunks, at = [], 0
    for size in cuts:
        chunks.append(whole[at : at + size])
        at += size
    return [*chunks, whole[at:]]


def sse(*events: dict[str, Any], named: bool = False) -> bytes:
    name = (lambda e: f"event: {e['type']}\n") if named else (lambda e: "")
    return "".join(
        f"{name(e)}data: {json.dumps(e, ensure_ascii=False)}\n\n" for e in events
    ).encode()


def data_of(stream: bytes) -> list[Any]:
    """The values of a stream's events; `[DONE]` as it is."""
    lines = [line[6:] for line in stream.decode().split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


class Between:
    """Sends a client's request to an upstream through an adapter and nothing else."""

    def __init__(self, kind: Kind, url: str, key: str | None = "upstream-key") -> None:
        self.kind, self.url, self.key = kind, url, key
        self.sent: UpstreamRequest | None = None
        self.usage: Usage | None = None

    def ask(self, endpoint: Face, raw: bytes) -> tuple[int, bytes, str]:
        adapter = ADAPTERS[self.kind]
        self.sent = adapter.request(target(self.url), endpoint, raw, json.loads(raw), self.key)
        answer = httpx.post(
            self.sent.url, content=self.sent.body, headers=dict(self.sent.headers), trust_env=False
        )
        kind = answer.headers["Content-Type"].partition(";")[0]
        if answer.status_code == 200 and kind == "text/event-stream":
            translator = adapter.stream(endpoint, strip_usage=self.sent.strip_usage)
            content = feed(translator, cut(answer.content, [7] * 50))
            assert translator.finished or translator.error
            self.usage = translator.usage
            return 200, content, kind
        whole = adapter.answer(endpoint, answer.status_code, answer.content)
        self.usage = whole.usage
        return answer.status_code, whole.body, kind

    def openai(self) -> OpenAI:
        between = self

        class Transport(httpx.BaseTransport):
            def handle_request(self, request: httpx.Request) -> httpx.Response:
                status, body, kind = between.ask(cast(Face, request.url.path), request.read())
                return httpx.Response(status, content=body, headers={"Content-Type": kind})

        http = httpx.Client(transport=Transport())
        return OpenAI(api_key="x", base_url="http://gw/v1", http_client=http, max_retries=0)

    def anthropic(self) -> Anthropic:
        between = self

        class Transport(httpx2.BaseTransport):
            def handle_request(self, request: httpx2.Request) -> httpx2.Response:
                status, body, kind = between.ask(cast(Face, request.url.path), request.read())
                return httpx2.Response(status, content=body, headers={"Content-Type": kind})

        http = httpx2.Client(transport=Transport())
        return Anthropic(api_key="x", base_url="http://gw", http_client=http, max_retries=0)
