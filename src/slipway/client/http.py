"""Chat, models and embeddings over OpenAI's protocol, with errors for the reader."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired, Self, TypedDict

from slipway import __version__
from slipway.client.failures import Explained
from slipway.core.errors import (
    AuthError,
    NotFoundError,
    SlipwayError,
    ToolError,
    UnreachableError,
    UsageError,
)
from slipway.core.i18n import tr

if TYPE_CHECKING:
    import httpx

_CONNECT_TIMEOUT_S = 5.0
_LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


class Message(TypedDict):
    """One turn of a conversation; `role` is system, user or assistant.

    `images` are pictures in base64, for the daemon's own protocol only.
    """

    role: str
    content: str
    images: NotRequired[list[str]]


@dataclass(frozen=True, slots=True)
class ChatUsage:
    """Tokens of an answer, as the server reports them."""

    prompt_tokens: int
    completion_tokens: int


class RateLimitedError(UnreachableError):
    """The server takes no more requests for now.

    Attributes:
        retry_after_s: what it says to wait; None when it does not.
    """

    http_status = 429

    def __init__(self, message: str, retry_after_s: int | None) -> None:
        self.retry_after_s = retry_after_s
        wait = retry_after_s if retry_after_s is not None else 60
        super().__init__(
            "client.rate_limited", message, tr("try again in {seconds} s", seconds=wait)
        )


class GatewayClient:
    """Talks to a gateway, to the daemon, or to any server with OpenAI's protocol.

    Args:
        base_url: with or without `/v1`.
        key: sent as `Authorization: Bearer`; empty for servers that need none.
        timeout_s: longest silence of the server, loading a model included.
    """

    def __init__(self, base_url: str, key: str = "", *, timeout_s: float = 600.0) -> None:
        import httpx

        self.url = base_url.rstrip("/").removesuffix("/v1")
        headers = {"User-Agent": f"slipway/{__version__}"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        try:
            # a proxy of the environment cannot reach this machine's own servers
            local = httpx.URL(self.url).host in _LOCAL_HOSTS
            self._http = httpx.Client(
                base_url=f"{self.url}/v1/",
                headers=headers,
                timeout=httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S),
                trust_env=not local,
            )
            usable = self._http.base_url.scheme in ("http", "https") and self._http.base_url.host
        except (httpx.InvalidURL, UnicodeEncodeError):
            usable = ""
        if not usable:
            raise UsageError(
                "client.bad_url",
                tr("`{url}` or its key cannot be used", url=base_url),
                tr("write the address like `http://127.0.0.1:3000`"),
            )

    def models(self) -> list[str]:
        """The names of the models that the key may use, sorted.

        Raises:
            SlipwayError: see `chat`.
        """
        rows = self._call("GET", "models").get("data") or []
        return sorted(str(row["id"]) for row in rows)

    def chat(self, model: str, messages: Sequence[Message], **options: Any) -> ChatStream:
        """Ask for an answer, as a stream; the request is sent at once.

        Args:
            options: further fields of the request, such as `temperature` or `max_tokens`.

        Raises:
            UnreachableError: the server cannot be reached or is too busy (`RateLimitedError`).
            AuthError: 401 or 403: wrong key, model not allowed, budget spent.
            NotFoundError: no such model.
            UsageError: the request is refused as malformed.
            ToolError: the server or the model's engine failed.
        """
        body = {
            "model": model,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            **options,
        }
        request = self._http.build_request("POST", "chat/completions", json=body)
        started = time.perf_counter()
        with self._explained():
            response = self._http.send(request, stream=True)
            if response.status_code != 200:
                response.read()
        if response.status_code != 200:
            raise error_from_response(response)
        return ChatStream(response, started)

    def embeddings(self, model: str, texts: Sequence[str]) -> list[list[float]]:
        """One vector for each text, in their order.

        Raises:
            SlipwayError: see `chat`.
        """
        data = self._call("POST", "embeddings", json={"model": model, "input": list(texts)})["data"]
        return [row["embedding"] for row in sorted(data, key=lambda row: row["index"])]

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        with self._explained():
            response = self._http.request(method, path, **options)
        if response.status_code != 200:
            raise error_from_response(response)
        try:
            value = response.json()
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ToolError(
                "client.bad_answer",
                tr("{url} did not answer in OpenAI's protocol", url=str(response.url)),
                tr("check the address; the gateway's is `http://127.0.0.1:3000` by default"),
            )
        return value

    def _explained(self) -> Explained:
        return _explained(self.url)


class ChatStream:
    """The pieces of an answer as they come.

    Iterate for the text; the attributes are complete after that. Closing early stops the model.

    Attributes:
        text: what has come so far.
        usage: tokens, once the server has said.
        finish_reason: `stop`, `length`, ...
        request_id: the server's name for the request.
        first_s: seconds until the first piece; None before it.
        total_s: seconds until now, or until the end.
    """

    def __init__(self, response: httpx.Response, started: float) -> None:
        self._response = response
        self._started = started
        self._ended: float | None = None
        self.text = ""
        self.usage: ChatUsage | None = None
        self.finish_reason: str | None = None
        self.request_id = response.headers.get("x-request-id", "")
        self.first_s: float | None = None

    @property
    def total_s(self) -> float:
        """Seconds since the request was sent, until now or the end."""
        return (self._ended or time.perf_counter()) - self._started

    @property
    def tokens_per_s(self) -> float | None:
        """Generated tokens per second after the first; None when it cannot be known."""
        if self.usage is None or self.first_s is None or self.usage.completion_tokens < 2:
            return None
        span = self.total_s - self.first_s
        return (self.usage.completion_tokens - 1) / span if span > 0 else None

    def __iter__(self) -> Iterator[str]:
        done = False
        try:
            with _explained(str(self._response.url)):
                for line in self._response.iter_lines():
                    if not line.startswith("data:"):
                        continue
                    data = line[5:].strip()
                    if data == "[DONE]":
                        done = True
                        break
                    if piece := self._take(data):
                        if self.first_s is None:
                            self.first_s = time.perf_counter() - self._started
                        self.text += piece
                        yield piece
        finally:
            self.close()
        if not done and self.finish_reason is None:
            raise _cut(self.request_id)

    def close(self) -> None:
        """Stop the answer, if it still goes on."""
        self._ended = self._ended or time.perf_counter()
        self._response.close()

    def _take(self, data: str) -> str:
        try:
            event = json.loads(data)
        except ValueError as error:
            raise _cut(self.request_id) from error
        if not isinstance(event, dict):
            raise _cut(self.request_id)
        if "error" in event:
            message = _message_of(event)
            raise ToolError("client.answer_failed", message or str(_cut(self.request_id).message))
        usage = event.get("usage")
        if usage:
            self.usage = ChatUsage(usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))
        text = ""
        for choice in event.get("choices") or []:
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            text += (choice.get("delta") or {}).get("content") or ""
        return text


def _explained(url: str) -> Explained:
    return Explained(url, tr("start it with `slipway gateway serve`, or name another with `--url`"))


def error_from_response(response: httpx.Response) -> SlipwayError:
    """The error for an answer that is not 200; its message is the server's."""
    status = response.status_code
    try:
        value = response.json()
    except ValueError:
        value = {}
    message = _message_of(value) or f"HTTP {status} from {response.url}"
    if status == 429:
        wait = response.headers.get("retry-after", "")
        return RateLimitedError(message, int(wait) if wait.isdigit() else None)
    if status in (401, 403):
        return AuthError(
            "client.refused",
            message,
            tr("make a key with `slipway gateway token add NAME --user USER`"),
        )
    if status == 404:
        return NotFoundError("client.not_found", message, tr("see what there is with `/model`"))
    if status in (502, 503, 504):
        return UnreachableError(
            "client.upstream_failed", message, tr("see whether the daemon runs: `slipway status`")
        )
    if status < 500:
        return UsageError("client.bad_request", message)
    return ToolError("client.server_failed", message)


def _message_of(value: object) -> str:
    error = value.get("error") if isinstance(value, Mapping) else None
    if isinstance(error, Mapping):
        error = error.get("message")
    return error if isinstance(error, str) else ""


def _cut(request_id: str) -> ToolError:
    return ToolError(
        "client.answer_cut",
        tr("the answer broke off (request {id})", id=request_id or "?"),
        tr("send the message again"),
    )
