"""What every kind of channel must be able to do; see the package's docstring for the order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol

from slipway import __version__
from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.gateway.pricing import Usage
from slipway.gateway.routing import Target

# what the relay serves today: its routes are made from this
Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
# what adapters can serve; a kind says in `capabilities` which of them it does
Face = Literal[
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/responses",
    "/v1/rerank",
    "/v1/moderations",
    "/v1/images/generations",
]

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e\t]*")
# what the gateway or the connection itself says: who asks, how the body is framed and packed
_OWN_HEADERS = frozenset(
    {
        "accept-encoding",
        "api-key",
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-api-key",
        "x-goog-api-key",
        "x-request-id",
    }
)


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """What a channel adds to how it is spoken to.

    Attributes:
        headers: sent along, over the adapter's own harmless ones; see `check_headers`.
        api_version: of Azure (`api-version`) and Anthropic (`anthropic-version`); empty: ours.
    """

    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    api_version: str = ""


NO_OPTIONS = ChannelOptions()


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """What is sent to a channel.

    Attributes:
        strip_usage: the usage event was asked for by the gateway, not by the client.
        dropped: fields of the client's body that the channel's protocol has no place for, by
            their path (`logit_bias`, `messages.2.content.0`); what was sent does without them, or
            with the nearest value that the protocol allows (`temperature` above 1).
    """

    url: str
    headers: Mapping[str, str]
    body: bytes
    strip_usage: bool
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer in the client's protocol; `usage` None when the upstream did not say."""

    body: bytes
    usage: Usage | None


class Translator(Protocol):
    """A stream on its way to the client. The bytes do not depend on how the chunks were cut."""

    @property
    def usage(self) -> Usage | None:
        """What the upstream reported, as soon as it did."""
        ...

    @property
    def finished(self) -> bool:
        """The upstream said that the answer is complete."""
        ...

    @property
    def done(self) -> bool:
        """Nothing but the connection's end follows, so the books can be closed."""
        ...

    @property
    def error(self) -> bool:
        """The upstream sent an error event."""
        ...

    @property
    def text(self) -> str:
        """All that was generated so far: answer, reasoning, arguments of tool calls."""
        ...

    @property
    def inside_event(self) -> bool:
        """Whether the client has the beginning of an event and not its end."""
        ...

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes from the upstream; give the bytes for the client."""
        ...

    def end(self) -> bytes:
        """The upstream closed in order; give the last bytes."""
        ...

    def generated(self) -> int:
        """About how many tokens were generated so far."""
        ...


class Adapter(Protocol):
    """One kind of channel. Holds no state, so one object serves all channels of the kind."""

    @property
    def capabilities(self) -> frozenset[Face]:
        """The endpoints that a client can use through this kind."""
        ...

    def request(
        self,
        target: Target,
        endpoint: Face,
        raw: bytes,
        body: dict[str, Any],
        key: str | None,
        options: ChannelOptions = NO_OPTIONS,
    ) -> UpstreamRequest:
        """The request to send.

        Args:
            raw: the client's body as it came, used where nothing needs changing.
            body: the same, parsed; not to be changed.
            key: the channel's own key.

        Raises:
            UsageError: an endpoint that the kind cannot serve, a body that cannot be translated,
                or a header that a channel may not set.
        """
        ...

    def answer(self, endpoint: Face, status: int, body: bytes) -> Answer:
        """A whole answer, or an error's body, as the client's protocol has it."""
        ...

    def stream(self, endpoint: Face, *, strip_usage: bool) -> Translator:
        """Takes an answer that comes in pieces; one for each answer."""
        ...


def own_headers() -> dict[str, str]:
    """The headers of every request."""
    return {
        "Content-Type": "application/json",
        # the answer is passed on byte by byte, so it must come unpacked
        "Accept-Encoding": "identity",
        "User-Agent": f"slipway/{__version__}",
    }


def with_options(headers: Mapping[str, str], options: ChannelOptions) -> dict[str, str]:
    """Headers with a channel's own over them, whatever the case of their names."""
    if not options.headers:
        return dict(headers)
    check_headers(options.headers)
    replaced = {name.lower() for name in options.headers}
    kept = {name: value for name, value in headers.items() if name.lower() not in replaced}
    return {**kept, **options.headers}


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse headers that would speak for the gateway or break out of their line.

    Raises:
        UsageError: names the header.
    """
    for name, value in headers.items():
        own = name.lower() in _OWN_HEADERS or name.lower().startswith("proxy-")
        if own or not _HEADER_NAME.fullmatch(name):
            raise UsageError(
                "gateway.bad_header",
                tr("a channel may not set the header `{name}`", name=name[:80]),
                tr("leave it out; keys are given as the channel's key"),
            )
        if not _HEADER_VALUE.fullmatch(value):
            raise UsageError(
                "gateway.bad_header",
                tr("the value of the header `{name}` is not plain ASCII on one line", name=name),
                tr("write it without line breaks and other control characters"),
            )


def unable(kind: str, endpoint: str) -> UsageError:
    """The refusal of an endpoint that a kind of channel cannot serve."""
    return UsageError(
        "gateway.no_such_face",
        tr("channels of kind {kind} cannot serve {endpoint}", kind=kind, endpoint=endpoint),
        tr("ask for a model that another kind of channel offers"),
    )
