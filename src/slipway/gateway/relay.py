"""The relay: an OpenAI request in, a channel's answer out, the books kept.

Plain ASGI, because this is the hot path. Order of events for one request: read the body, admit
it (keys and channels are in memory, the reserve is written), connect to a channel, pass the answer
on, close the books *before* the last bytes leave, so that whoever has an answer finds it in the
ledger.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import Any, get_args

import aiohttp
import orjson
from starlette.types import Receive, Scope, Send

from slipway.core.errors import SlipwayError
from slipway.gateway.adapters import Endpoint, Translator, UpstreamRequest
from slipway.gateway.admission import Admission
from slipway.gateway.books import Books
from slipway.gateway.config import GatewayConfig
from slipway.gateway.directory import Directory
from slipway.gateway.exchange import CLIENT_LEFT, Call, Exchange, ending
from slipway.gateway.feedback.capture import Captures, forbids
from slipway.gateway.filter import CODE
from slipway.gateway.limits import Gate
from slipway.gateway.metrics import Metrics
from slipway.gateway.pricing import Usage, prompt_estimate, usage_from
from slipway.gateway.problems import ApiError, bad_request, body_too_large
from slipway.gateway.screening import Screen
from slipway.gateway.sending import Sender, Way
from slipway.gateway.sse import EventTooLargeError, StreamReader, answer_estimate
from slipway.gateway.store import Store

log = logging.getLogger("slipway.gateway")
ENDPOINTS: dict[str, Endpoint] = {path: path for path in get_args(Endpoint)}
_BROKEN = (aiohttp.ClientError, TimeoutError, EventTooLargeError)
_CLIENT_ID = re.compile(rb"[\x21-\x7e]{1,128}")
# each waits for the database as long as its busy timeout
_BOOK_ATTEMPTS = 3


class ClientLeftError(Exception):
    """The client closed the connection before its request was read."""


class Relay:
    """Relays requests; one per event loop.

    Database work runs in threads of its own, so that a busy file never stops the streams of others.
    """

    def __init__(self, store: Store, config: GatewayConfig, metrics: Metrics) -> None:
        self.directory = Directory(store)
        self.captures = Captures(store)
        self._books = Books(store)
        self._config = config
        self._metrics = metrics
        gate = Gate(time.monotonic)
        self._admission = Admission(self.directory, self._books, gate, config.queue_timeout_s)
        self.sender = Sender(self.directory, config, metrics)
        self._screen = Screen(config.filters, metrics)
        self._closing: set[asyncio.Task[None]] = set()

    async def shut_down(self) -> None:
        """Wait until the books of ended requests are closed, then let go of everything."""
        while self._closing:
            await asyncio.wait(set(self._closing))
        await self.sender.close()
        await self._books.close()
        await self.captures.close()
        self.directory.shut_down()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a POST to one of `ENDPOINTS`; `scope["slipway.request_id"]` names the request."""
        request_id = scope["slipway.request_id"]
        started = time.perf_counter()
        headers = dict(scope["headers"])
        with self._metrics.inflight.track_inprogress():
            try:
                raw = await self._read_body(headers, receive)
                call = _parse(scope["path"], headers, raw, request_id, started)
            except ClientLeftError:
                return
            except ApiError as problem:
                await self._refuse(send, problem)
                return
            call.may_capture = not forbids(headers)
            call.address = scope["client"][0] if scope.get("client") else ""
            await self._until_client_leaves(call, receive, send)

    async def _refuse(self, send: Send, problem: ApiError) -> None:
        self._metrics.refused(problem.status, problem.code)
        await send_error(send, problem)

    async def _serve(self, call: Call, send: Send) -> None:
        try:
            self._screen.check(call)
            exchange = await self._admission.admit(call)
        except Exception as error:
            await self._refuse(send, _as_api_error(error, call.request_id))
            return
        await self.captures.watch(exchange, send, self._relay)

    async def _until_client_leaves(self, call: Call, receive: Receive, send: Send) -> None:
        """Answer, but stop waiting and generating when the client goes or the server stops."""
        work = asyncio.create_task(self._serve(call, send))
        left = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
        if not work.cancelled():
            work.result()

    async def _relay(self, exchange: Exchange, send: Send) -> None:
        headers_sent = False

        async def tracked(message: Any) -> None:
            nonlocal headers_sent
            headers_sent = True
            await send(message)

        try:
            await self._answer(exchange, tracked)
        except asyncio.CancelledError:
            if not exchange.closed:
                exchange.failed(CLIENT_LEFT, "client_disconnected")
            raise
        except Exception as error:
            problem = _as_api_error(error, exchange.call.request_id)
            exchange.failed(problem.status, problem.code)
            await self._close(exchange)
            if headers_sent:
                raise
            await send_error(send, problem)
        finally:
            await self._close(exchange)

    async def _answer(self, exchange: Exchange, send: Send) -> None:
        way = self.sender.way(exchange)
        try:
            upstream, answer = await way.connect()
            try:
                if answer.content_type == "text/event-stream":
                    await self._pass_stream(exchange, way, upstream, answer, send)
                else:
                    await self._pass_body(exchange, way, answer, send)
            except _BROKEN as error:
                log.warning("%s upstream broke off: %r", exchange.call.request_id, error)
                way.broke_off()
                raise _broke_off() from error
            finally:
                answer.close()
        finally:
            way.close()

    async def _pass_body(
        self, exchange: Exchange, way: Way, answer: aiohttp.ClientResponse, send: Send
    ) -> None:
        body = way.adapter.answer(exchange.call.endpoint, 200, await answer.read()).body
        way.first_byte()
        exchange.first_byte()
        exchange.usage = _usage_of_answer(body, exchange.call.body)
        if (refused := self._screen.whole(exchange.call.request_id, body)) is not None:
            body, exchange.error = refused, CODE
        await self._close(exchange)
        kind = answer.content_type or "application/json"
        await _send_start(send, 200, kind, headers=_limits_of(exchange))
        await send({"type": "http.response.body", "body": body})

    async def _pass_stream(
        self,
        exchange: Exchange,
        way: Way,
        upstream: UpstreamRequest,
        answer: aiohttp.ClientResponse,
        send: Send,
    ) -> None:
        screen = self._screen.stream()
        endpoint = exchange.call.endpoint
        reader = way.adapter.stream(endpoint, strip_usage=upstream.strip_usage)
        if screen is not None and isinstance(reader, StreamReader):
            reader.hold_whole_events()
        kind, limits = answer.headers["Content-Type"], _limits_of(exchange)
        await _send_start(send, 200, kind, streaming=True, headers=limits)
        try:
            async for chunk in answer.content.iter_any():
                way.first_byte()
                data = reader.feed(chunk) if screen is None else screen.feed(reader.feed(chunk))
                await self._forward(exchange, reader, data, send)
                if screen is not None and screen.blocked:
                    break
            tail = reader.end()
            blocked = screen is not None and screen.blocked
            if blocked:
                exchange.error = CODE
            elif not reader.finished and not reader.error:
                raise aiohttp.ClientPayloadError("the stream ended before the answer did")
            elif tail:
                await self._forward(exchange, reader, screen.feed(tail) if screen else tail, send)
        except _BROKEN as error:
            log.warning("%s upstream broke off: %r", exchange.call.request_id, error)
            way.broke_off()
            problem = _broke_off()
            exchange.failed(problem.status, problem.code)
            mark = b"\n\n" if reader.inside_event else b""
            await self._close_stream(exchange, reader)
            event = mark + b"data: " + problem.body() + b"\n\n"
            await send({"type": "http.response.body", "body": event, "more_body": True})
        finally:
            if screen is not None:
                self._screen.note(exchange.call.request_id, "answer", screen.verdict)
            exchange.usage = exchange.usage or _usage_of_stream(reader, exchange.call.body)
        await self._close_stream(exchange, reader)
        await send({"type": "http.response.body", "body": b""})

    async def _forward(
        self, exchange: Exchange, reader: Translator, data: bytes, send: Send
    ) -> None:
        if data:
            exchange.first_byte()
        if reader.error:
            exchange.failed(502, "upstream_error")
        if reader.done:
            await self._close_stream(exchange, reader)
        if data:
            await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _close_stream(self, exchange: Exchange, reader: Translator) -> None:
        exchange.usage = exchange.usage or _usage_of_stream(reader, exchange.call.body)
        await self._close(exchange)

    async def _close(self, exchange: Exchange) -> None:
        """Close the books once, even when the request is being cancelled."""
        if exchange.closed:
            return
        exchange.closed = True
        self._admission.leave(exchange)
        task = asyncio.create_task(self._write_books(exchange))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        await asyncio.shield(task)

    async def _write_books(self, exchange: Exchange) -> None:
        entry = ending(exchange)
        row = entry.row
        for attempt in range(1, _BOOK_ATTEMPTS + 1):
            try:
                written = await self._books.end(entry)
                break
            except SlipwayError:
                # when it never works the hold stays, until a gateway starts after this process
                log.exception("%s is not in the books (%d)", exchange.call.request_id, attempt)
        else:
            return
        if not written:
            return
        channel = exchange.channel.name if exchange.channel else ""
        self._metrics.finished(row, channel)
        log.info(
            "%s %s %s %s %d prompt=%d completion=%d cost_micro=%d %d ms%s",
            row.request_id,
            row.endpoint,
            row.model,
            channel or "-",
            row.status,
            row.usage.prompt,
            row.usage.completion,
            row.cost_micro,
            row.duration_ms,
            f" {row.error}" if row.error else "",
        )

    async def _read_body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        limit = self._config.max_body_bytes
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit:
            raise body_too_large(limit)
        parts: list[bytes] = []
        total = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            parts.append(message.get("body", b""))
            total += len(parts[-1])
            if total > limit:
                raise body_too_large(limit)
            if not message.get("more_body", False):
                return b"".join(parts)


def bearer_key(headers: dict[bytes, bytes]) -> str | None:
    """The key in `Authorization: Bearer ...`; None when there is none."""
    scheme, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


async def send_error(send: Send, problem: ApiError) -> None:
    """Answer with an error object."""
    await _send_start(send, problem.status, "application/json", headers=problem.headers)
    await send({"type": "http.response.body", "body": problem.body()})


async def _send_start(
    send: Send,
    status: int,
    content_type: str,
    *,
    streaming: bool = False,
    headers: dict[str, str] | None = None,
) -> None:
    lines = {"Content-Type": content_type, **(headers or {})}
    if streaming:
        # proxies must neither store nor collect the stream
        lines |= {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in lines.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


def _limits_of(exchange: Exchange) -> dict[str, str]:
    return exchange.ticket.headers if exchange.ticket else {}


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _parse(
    path: str, headers: dict[bytes, bytes], raw: bytes, request_id: str, started: float
) -> Call:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"The body is not JSON: {error}.", code="invalid_json") from error
    if not isinstance(body, dict):
        raise bad_request("The body must be a JSON object.", code="invalid_json")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise bad_request("`model` is missing or no string.", param="model")
    given = headers.get(b"x-client-request-id") or headers.get(b"x-request-id") or b""
    return Call(
        request_id=request_id,
        client_request_id=given.decode() if _CLIENT_ID.fullmatch(given) else None,
        endpoint=ENDPOINTS[path],
        key=bearer_key(headers),
        raw=raw,
        body=body,
        model=model,
        started=started,
    )


def _as_api_error(error: Exception, request_id: str) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, SlipwayError) and error.code == "gateway.database_busy":
        log.error("%s %s", request_id, error)
        return ApiError(503, "busy", "The gateway is busy.", headers={"Retry-After": "1"})
    log.error("%s failed", request_id, exc_info=error)
    return ApiError(500, "internal_error", f"The gateway failed (request id: {request_id}).")


def _broke_off() -> ApiError:
    return ApiError(
        502, "upstream_disconnected", "The model's server broke off before the answer's end."
    )


def _usage_of_answer(body: bytes, asked: dict[str, Any]) -> Usage | None:
    """What a whole answer used; None when it is an error that came with status 200."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = None
    if isinstance(value, dict):
        if "error" in value and "choices" not in value and "data" not in value:
            return None
        if usage := usage_from(value.get("usage")):
            return usage
    return Usage(prompt_estimate(asked), answer_estimate(value), estimated=True)


def _usage_of_stream(reader: Translator, asked: dict[str, Any]) -> Usage | None:
    """What a stream used; None when it ended before anything was generated."""
    if reader.usage is not None:
        return reader.usage
    generated = reader.generated()
    if not generated and not reader.finished:
        return None
    return Usage(prompt_estimate(asked), generated, estimated=True)
