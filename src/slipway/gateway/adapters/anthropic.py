"""Anthropic's service: its own protocol passes through, OpenAI's chat is translated both ways."""

from __future__ import annotations

import time
from typing import Any

import orjson

from slipway.gateway.adapters.anthropic_answer import (
    ChatFromMessages,
    MessagesReader,
    chat_answer,
    chat_error,
    usage_of,
)
from slipway.gateway.adapters.anthropic_request import messages_body
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
from slipway.gateway.adapters.openai import MESSAGES, asks_usage, endpoint_url
from slipway.gateway.routing import Target

# the version that all of the API's documents describe
API_VERSION = "2023-06-01"


class AnthropicAdapter:
    """Anthropic's `/v1/messages`."""

    @property
    def capabilities(self) -> frozenset[Face]:
        """The endpoints that a client can use through this kind."""
        return frozenset({MESSAGES, "/v1/chat/completions"})

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
        if endpoint not in self.capabilities:
            raise unable("anthropic", endpoint)
        dropped: list[str] = []
        strip_usage = False
        if endpoint == MESSAGES:
            same = body.get("model") == target.upstream_model
            sent = raw if same else orjson.dumps({**body, "model": target.upstream_model})
        else:
            translated, dropped = messages_body(body, target.upstream_model)
            sent = orjson.dumps(translated)
            strip_usage = bool(body.get("stream")) and not asks_usage(body)
        headers = {
            **own_headers(),
            "anthropic-version": options.api_version or API_VERSION,
            **({"x-api-key": key} if key else {}),
        }
        return UpstreamRequest(
            url=endpoint_url(target.channel.base_url, MESSAGES),
            headers=with_options(headers, options),
            body=sent,
            strip_usage=strip_usage,
            dropped=tuple(dropped),
        )

    def answer(self, endpoint: Face, status: int, body: bytes) -> Answer:
        """A whole answer, or an error's body, as the client's protocol has it."""
        try:
            value = mapping(orjson.loads(body))
        except orjson.JSONDecodeError:
            value = {}
        usage = usage_of(value.get("usage"))
        if endpoint == MESSAGES:
            return Answer(body, usage)
        if status != 200 or value.get("type") != "message":
            return Answer(orjson.dumps(chat_error(value)), None)
        return Answer(orjson.dumps(chat_answer(value, usage, int(time.time()))), usage)

    def stream(self, endpoint: Face, *, strip_usage: bool) -> Translator:
        """Watches or translates an answer that comes in pieces."""
        if endpoint == MESSAGES:
            return MessagesReader()
        return ChatFromMessages(strip_usage=strip_usage, created=int(time.time()))
