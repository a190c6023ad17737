"""What the tests of all adapters share."""

from __future__ import annotations

import json
from typing import Any

from slipway.gateway.adapters import (
    ADAPTERS,
    NO_OPTIONS,
    ChannelOptions,
    Face,
    Translator,
    UpstreamRequest,
)
from slipway.gateway.adapters import AdapterKind as Kind
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
