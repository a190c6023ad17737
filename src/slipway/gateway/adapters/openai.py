"""OpenAI's protocol, which most servers and services speak: bodies and streams go through."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson

from slipway.gateway.adapters.anthropic_answer import MessagesReader, usage_of
from slipway.gateway.adapters.base import (
    NO_OPTIONS,
    Answer,
    ChannelOptions,
    Face,
    Translator,
    UpstreamRequest,
    own_headers,
    unable,
    with_options,
)
from slipway.gateway.adapters.events import mapping
from slipway.gateway.adapters.messages_answer import MessagesFromChat, message_answer, message_error
from slipway.gateway.adapters.messages_request import chat_body
from slipway.gateway.pricing import usage_from
from slipway.gateway.routing import Target
from slipway.gateway.sse import StreamReader

MESSAGES: Face = "/v1/messages"
STREAMING: frozenset[Face] = frozenset({"/v1/chat/completions", "/v1/completions"})
PASSED_ON: frozenset[Face] = STREAMING | {
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/moderations",
    "/v1/images/generations",
}
# services that number their API otherwise keep the number in the channel's address
_OTHER_VERSION = re.compile(r"/v(?!1$)\d+(?:beta)?$")


class OpenAIAdapter:
    """OpenAI's protocol: the body goes through with only the model's name mapped.

    A client that speaks Anthropic's is translated.

    Args:
        has_messages: the server has `/v1/messages` too, so that passes through as well.
    """

    def __init__(
        self, kind: str, capabilities: frozenset[Face], *, has_messages: bool = False
    ) -> None:
        self._kind = kind
        self._capabilities = capabilities | {MESSAGES}
        self._has_messages = has_messages

    @property
    def capabilities(self) -> frozenset[Face]:
        """The endpoints that a client can use through this kind."""
        return self._capabilities

    def request(
        self,
        target: Target,
        endpoint: Face,
        raw: bytes,
        body: dict[str, Any],
        key: str | None,
        options: ChannelOptions = NO_OPTIONS,
    ) -> UpstreamRequest:
        """The request to send; see `Adapter.request`."""
        if endpoint not in self._capabilities:
            raise unable(self._kind, endpoint)
        dropped: list[str] = []
        if endpoint == MESSAGES and not self._has_messages:
            endpoint, strip_usage = "/v1/chat/completions", False
            limit_name = self.limit_name(target)
            translated, dropped = chat_body(body, target.upstream_model, limit_name)
            sent = orjson.dumps(translated)
        else:
            sent, strip_usage = passed_on(target, endpoint, raw, body)
        headers = {**own_headers(), **self.auth(key)}
        return UpstreamRequest(
            url=self.url(target, endpoint, options),
            headers=with_options(headers, options),
            body=sent,
            strip_usage=strip_usage,
            dropped=tuple(dropped),
        )

    def limit_name(self, target: Target) -> str:
        """What the limit of an answer's tokens is called: OpenAI's own service renamed it."""
        own = urlsplit(target.channel.base_url).hostname == "api.openai.com"
        return "max_completion_tokens" if own else "max_tokens"

    def url(self, target: Target, endpoint: Face, options: ChannelOptions) -> str:
        """Where the channel answers an endpoint."""
        return endpoint_url(target.channel.base_url, endpoint)

    def auth(self, key: str | None) -> dict[str, str]:
        """The header with the channel's key."""
        return auth_headers(key)

    def answer(self, endpoint: Face, status: int, body: bytes) -> Answer:
        """A whole answer, or an error's body, as the client's protocol has it."""
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            value = None
        said = mapping(value)
        if endpoint != MESSAGES:
            return Answer(body, usage_from(said.get("usage")))
        if self._has_messages:
            return Answer(body, usage_of(said.get("usage")))
        if status != 200 or "choices" not in said:
            return Answer(orjson.dumps(message_error(said, status)), None)
        return Answer(orjson.dumps(message_answer(said)), usage_from(said.get("usage")))

    def stream(self, endpoint: Face, *, strip_usage: bool) -> Translator:
        """Watches or translates an answer that comes in pieces."""
        if endpoint == MESSAGES:
            return MessagesReader() if self._has_messages else MessagesFromChat()
        return StreamReader(strip_usage=strip_usage)


def passed_on(
    target: Target, endpoint: Face, raw: bytes, body: Mapping[str, Any]
) -> tuple[bytes, bool]:
    """An OpenAI body for an OpenAI channel, and whether the usage event is only for us.

    The very bytes of the client where the model keeps its name and the usage is asked for.
    """
    changes: dict[str, Any] = {}
    if body.get("model") != target.upstream_model:
        changes["model"] = target.upstream_model
    strip_usage = endpoint in STREAMING and bool(body.get("stream")) and not asks_usage(body)
    if strip_usage:
        options = body.get("stream_options")
        changes["stream_options"] = {
            **(options if isinstance(options, dict) else {}),
            "include_usage": True,
        }
    return (orjson.dumps({**body, **changes}) if changes else raw), strip_usage


def endpoint_url(base_url: str, endpoint: str) -> str:
    """The address of an endpoint at an upstream.

    A base address that ends in a version of its own (`.../api/paas/v4`) takes the place of `/v1`.
    """
    if _OTHER_VERSION.search(base_url):
        return base_url + endpoint.removeprefix("/v1")
    return base_url + endpoint


def auth_headers(key: str | None) -> dict[str, str]:
    """The header that carries an upstream's key, if it has one."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def asks_usage(body: Mapping[str, Any]) -> bool:
    """Whether the client itself wants the usage event of a stream."""
    options = body.get("stream_options")
    return isinstance(options, Mapping) and bool(options.get("include_usage"))
