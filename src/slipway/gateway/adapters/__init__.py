"""How each kind of channel is spoken to: one `Adapter` per kind, without state.

The relay's order for one request:

1. `ADAPTERS[kind]`; the client's endpoint must be in `adapter.capabilities`.
2. `request(target, endpoint, raw, body, key, options)` gives an `UpstreamRequest`: address,
   headers, body, and in `dropped` the client's fields that had no place there. `options` are the
   channel's own headers and API version. A `UsageError` is the client's or the channel's fault.
3. The upstream answers in one piece: `answer(endpoint, status, body)` gives the body in the
   client's protocol and its `Usage`, or None when the gateway has to count. With a status other
   than 200 the body is the error in the client's protocol.
4. It answers in a stream: `stream(endpoint, strip_usage=sent.strip_usage)` gives a `Translator`:
   `feed` each chunk and send on what it gives; `end()` when the upstream closed in order. If it
   did and neither `finished` nor `error` is set, the upstream broke off. `usage`, `text` and
   `generated()` can be read at any time, also when the client left.

A kind that speaks the client's protocol passes bytes on unchanged; only the model's name, and
the wish for a usage event, are written into the body.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from slipway.gateway.adapters.anthropic import AnthropicAdapter
from slipway.gateway.adapters.azure import AzureAdapter
from slipway.gateway.adapters.base import (
    NO_OPTIONS,
    Adapter,
    Answer,
    ChannelOptions,
    Endpoint,
    Face,
    Translator,
    UpstreamRequest,
    check_headers,
)
from slipway.gateway.adapters.gemini import GeminiAdapter
from slipway.gateway.adapters.openai import PASSED_ON, OpenAIAdapter, auth_headers, endpoint_url
from slipway.gateway.adapters.presets import PRESETS, Preset

AdapterKind = Literal["slipway", "ollama", "openai", "azure", "anthropic", "gemini"]

_PLAIN: frozenset[Face] = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings"})
ADAPTERS: Mapping[AdapterKind, Adapter] = {
    "slipway": OpenAIAdapter("slipway", _PLAIN | {"/v1/rerank"}, has_messages=True),
    "ollama": OpenAIAdapter("ollama", _PLAIN),
    "openai": OpenAIAdapter("openai", PASSED_ON),
    "azure": AzureAdapter("azure", _PLAIN | {"/v1/images/generations"}),
    "anthropic": AnthropicAdapter(),
    "gemini": GeminiAdapter(),
}

__all__ = [
    "ADAPTERS",
    "NO_OPTIONS",
    "PRESETS",
    "Adapter",
    "AdapterKind",
    "Answer",
    "ChannelOptions",
    "Endpoint",
    "Face",
    "OpenAIAdapter",
    "Preset",
    "Translator",
    "UpstreamRequest",
    "auth_headers",
    "check_headers",
    "endpoint_url",
]
