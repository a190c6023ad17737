"""Google's Gemini: OpenAI's chat and embeddings are translated both ways."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import orjson

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
from slipway.gateway.adapters.gemini_answer import (
    ChatFromGemini,
    chat_answer,
    chat_error,
    embeddings_answer,
    usage_of,
)
from slipway.gateway.adapters.gemini_request import embed_body, generate_body
from slipway.gateway.adapters.openai import asks_usage
from slipway.gateway.routing import Target

API_VERSION = "v1beta"
_EMBEDDINGS: Face = "/v1/embeddings"


class GeminiAdapter:
    """Gemini's `generateContent`, `streamGenerateContent` and `batchEmbedContents`."""

    @property
    def capabilities(self) -> frozenset[Face]:
        """The endpoints that a client can use through this kind."""
        return frozenset({"/v1/chat/completions", _EMBEDDINGS})

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
            raise unable("gemini", endpoint)
        streams = endpoint != _EMBEDDINGS and bool(body.get("stream"))
        if endpoint == _EMBEDDINGS:
            translated, dropped = embed_body(body, target.upstream_model)
            method = "batchEmbedContents"
        else:
            translated, dropped = generate_body(body)
            method = "streamGenerateContent?alt=sse" if streams else "generateContent"
        version = quote(options.api_version or API_VERSION, safe="")
        base = target.channel.base_url.removesuffix(f"/{version}")
        model = quote(target.upstream_model, safe="")
        headers = {**own_headers(), **({"x-goog-api-key": key} if key else {})}
        return UpstreamRequest(
            url=f"{base}/{version}/models/{model}:{method}",
            headers=with_options(headers, options),
            body=orjson.dumps(translated),
            strip_usage=streams and not asks_usage(body),
            dropped=tuple(dropped),
        )

    def answer(self, endpoint: Face, status: int, body: bytes) -> Answer:
        """A whole answer, or an error's body, as the client's protocol has it."""
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            value = None
        said = mapping(value)
        if status != 200 or "error" in said or not said:
            return Answer(orjson.dumps(chat_error(value)), None)
        if endpoint == _EMBEDDINGS:
            return Answer(orjson.dumps(embeddings_answer(said)), None)
        usage = usage_of(said.get("usageMetadata"))
        return Answer(orjson.dumps(chat_answer(said, usage, int(time.time()))), usage)

    def stream(self, endpoint: Face, *, strip_usage: bool) -> Translator:
        """Translates an answer that comes in pieces."""
        return ChatFromGemini(strip_usage=strip_usage, created=int(time.time()))
