"""How each kind of channel is spoken to.

All kinds of today speak OpenAI's protocol below `/v1`, so there is one adapter; a kind that
speaks another one gets its own `Adapter` here and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import orjson

from slipway import __version__
from slipway.gateway.routing import ChannelKind, Target

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """What is sent to a channel.

    Attributes:
        strip_usage: the usage event was asked for by the gateway, not by the client.
    """

    url: str
    headers: Mapping[str, str]
    body: bytes
    strip_usage: bool


class Adapter(Protocol):
    """Turns a client's request into a channel's."""

    def request(
        self, target: Target, endpoint: Endpoint, raw: bytes, body: dict[str, Any], key: str | None
    ) -> UpstreamRequest:
        """The request to send.

        Args:
            raw: the client's body as it came, used where nothing needs changing.
            body: the same, parsed; not to be changed.
            key: the channel's own key.
        """
        ...


class OpenAIAdapter:
    """OpenAI's protocol: the body goes through with only the model's name mapped."""

    def request(
        self, target: Target, endpoint: Endpoint, raw: bytes, body: dict[str, Any], key: str | None
    ) -> UpstreamRequest:
        changes: dict[str, Any] = {}
        if body.get("model") != target.upstream_model:
            changes["model"] = target.upstream_model
        streams = endpoint != "/v1/embeddings" and bool(body.get("stream"))
        strip_usage = streams and not _asks_usage(body)
        if strip_usage:
            options = body.get("stream_options")
            changes["stream_options"] = {
                **(options if isinstance(options, dict) else {}),
                "include_usage": True,
            }
        return UpstreamRequest(
            url=endpoint_url(target.channel.base_url, endpoint),
            headers={
                "Content-Type": "application/json",
                # the answer is passed on byte by byte, so it must come unpacked
                "Accept-Encoding": "identity",
                "User-Agent": f"slipway/{__version__}",
                **auth_headers(key),
            },
            body=orjson.dumps({**body, **changes}) if changes else raw,
            strip_usage=strip_usage,
        )


_OPENAI = OpenAIAdapter()
ADAPTERS: Mapping[ChannelKind, Adapter] = {
    "slipway": _OPENAI,
    "ollama": _OPENAI,
    "openai": _OPENAI,
}


def endpoint_url(base_url: str, endpoint: str) -> str:
    """The address of an endpoint at an upstream."""
    return base_url + endpoint


def auth_headers(key: str | None) -> dict[str, str]:
    """The header that carries an upstream's key, if it has one."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def _asks_usage(body: Mapping[str, Any]) -> bool:
    options = body.get("stream_options")
    return isinstance(options, Mapping) and bool(options.get("include_usage"))
