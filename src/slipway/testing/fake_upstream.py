"""An OpenAI-compatible server with scripted answers, for tests and benchmarks of the gateway."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

_START_TIMEOUT_S = 10


@dataclass(frozen=True)
class FakeAnswer:
    """How to answer one request.

    Attributes:
        pieces: the text, one stream event each; None to repeat the last message word by word.
        status: other than 200, `body` is the answer.
        body: bytes sent as they are instead of anything else.
        content_type: of `body`.
        headers: extra answer headers.
        delay_s: silence before the headers.
        piece_delay_s: silence before each piece.
        cut_after: abort the connection after so many pieces, or before the body when not streaming.
        usage: (prompt, completion) tokens to report; None for the real counts.
        report_usage: whether to report usage at all.
        heed_include_usage: send the usage event only when it is asked for.
    """

    pieces: tuple[str, ...] | None = None
    status: int = 200
    body: bytes | None = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    piece_delay_s: float = 0.0
    cut_after: int | None = None
    usage: tuple[int, int] | None = None
    report_usage: bool = True
    heed_include_usage: bool = True


@dataclass
class SeenRequest:
    """A request as the server got it, header names in lower case.

    `left` is set when the client went before the end.
    """

    path: str
    headers: Mapping[str, str]
    raw: bytes
    body: dict[str, Any]
    left: bool = False


class FakeUpstream:
    """Serves `/v1/{models,chat/completions,completions,embeddings}` from a thread of its own.

        with FakeUpstream(models=["tiny"]) as upstream:
            upstream.script(FakeAnswer(status=500, body=b"boom"))
            ...  # upstream.url, upstream.seen

    Answers are taken from the script in order, then from `respond` (given the request's body)
    when it is set, then from `default`.
    """

    def __init__(self, models: list[str] | None = None, default: FakeAnswer | None = None) -> None:
        self.models = models or ["tiny"]
        self.default = default or FakeAnswer()
        self.seen: list[SeenRequest] = []
        self.respond: Callable[[dict[str, Any]], FakeAnswer] | None = None
        self.api_key: str | None = None  # when set, other keys get 401
        self.url = ""
        self._script: deque[FakeAnswer] = deque()
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def script(self, *answers: FakeAnswer) -> None:
        """Answer the next requests so."""
        self._script.extend(answers)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(_START_TIMEOUT_S):
            raise TimeoutError("the fake upstream did not start")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None and self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _run(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/v1/models", self._list_models)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/embeddings", self._embed)
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _list_models(self, request: web.Request) -> web.Response:
        if self._refuses(request):
            return _error(401, "Incorrect API key provided", "invalid_api_key")
        rows = [{"id": name, "object": "model", "created": 0} for name in self.models]
        return web.json_response({"object": "list", "data": rows})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        seen, answer = await self._next(request)
        try:
            return await self._answer(request, seen, answer)
        except (asyncio.CancelledError, ConnectionError):
            seen.left = answer.cut_after is None
            raise

    async def _answer(
        self, request: web.Request, seen: SeenRequest, answer: FakeAnswer
    ) -> web.StreamResponse:
        if self._refuses(request):
            return _error(401, "Incorrect API key provided", "invalid_api_key")
        await asyncio.sleep(answer.delay_s)
        if answer.body is not None:
            return web.Response(
                body=answer.body,
                status=answer.status,
                headers={**answer.headers, "Content-Type": answer.content_type},
            )
        if seen.body.get("model") not in self.models:
            return _error(404, f"model {seen.body.get('model')!r} not found", "model_not_found")
        chat = seen.path.endswith("/chat/completions")
        pieces = answer.pieces if answer.pieces is not None else _echo(seen.body)
        usage = _usage(seen.body, pieces, answer)
        if seen.body.get("stream"):
            return await self._stream(request, seen, answer, pieces, usage)
        for _ in pieces:
            await asyncio.sleep(answer.piece_delay_s)
        if answer.cut_after is not None:
            await _abort(request)
        text = "".join(pieces)
        what: dict[str, Any] = (
            {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        )
        choice = {"index": 0, **what, "finish_reason": "stop"}
        body = _envelope(seen.body, "chat.completion" if chat else "text_completion", [choice])
        if answer.report_usage:
            body["usage"] = usage
        return web.json_response(body, headers=answer.headers)

    async def _stream(
        self,
        request: web.Request,
        seen: SeenRequest,
        answer: FakeAnswer,
        pieces: tuple[str, ...],
        usage: dict[str, Any],
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        chat = seen.path.endswith("/chat/completions")
        kind = "chat.completion.chunk" if chat else "text_completion"

        async def event(choices: list[dict[str, Any]], **more: Any) -> None:
            value = json.dumps({**_envelope(seen.body, kind, choices), **more}, ensure_ascii=False)
            await response.write(f"data: {value}\n\n".encode())

        for number, piece in enumerate(pieces):
            if number == answer.cut_after:
                await response.write(b'data: {"id": "cut in the mid')
                await asyncio.sleep(0.02)
                await _abort(request)
            await asyncio.sleep(answer.piece_delay_s)
            what: dict[str, Any] = {"delta": {"content": piece}} if chat else {"text": piece}
            await event([{"index": 0, **what, "finish_reason": None}])
        last: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        await event([{"index": 0, **last, "finish_reason": "stop"}])
        options = seen.body.get("stream_options") or {}
        asked = bool(options.get("include_usage")) or not answer.heed_include_usage
        if answer.report_usage and asked:
            await event([], usage=usage)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _embed(self, request: web.Request) -> web.StreamResponse:
        seen, answer = await self._next(request)
        if self._refuses(request):
            return _error(401, "Incorrect API key provided", "invalid_api_key")
        if answer.body is not None:
            return web.Response(body=answer.body, status=answer.status)
        texts = seen.body["input"]
        texts = [texts] if isinstance(texts, str) else texts
        data = [
            {"object": "embedding", "index": number, "embedding": [float(len(text)), 1.0]}
            for number, text in enumerate(texts)
        ]
        count = sum(len(str(text).split()) for text in texts)
        usage = {"prompt_tokens": count, "total_tokens": count}
        body = {"object": "list", "model": seen.body["model"], "data": data, "usage": usage}
        return web.json_response(body)

    async def _next(self, request: web.Request) -> tuple[SeenRequest, FakeAnswer]:
        raw = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen = SeenRequest(request.path, headers, raw, json.loads(raw))
        self.seen.append(seen)
        if self._script:
            return seen, self._script.popleft()
        return seen, self.respond(seen.body) if self.respond else self.default

    def _refuses(self, request: web.Request) -> bool:
        sent = request.headers.get("Authorization")
        return self.api_key is not None and sent != f"Bearer {self.api_key}"


def _echo(body: Mapping[str, Any]) -> tuple[str, ...]:
    words = _prompt(body).split()
    return tuple(word if not place else f" {word}" for place, word in enumerate(words))


def _prompt(body: Mapping[str, Any]) -> str:
    if "messages" in body:
        return str(body["messages"][-1].get("content", ""))
    return str(body.get("prompt", ""))


def _usage(body: Mapping[str, Any], pieces: tuple[str, ...], answer: FakeAnswer) -> dict[str, Any]:
    prompt, completion = answer.usage or (len(_prompt(body).split()), len(pieces))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _envelope(body: Mapping[str, Any], kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": "chatcmpl-fake",
        "object": kind,
        "created": 0,
        "model": body["model"],
        "choices": choices,
    }


def _error(status: int, message: str, code: str) -> web.Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return web.json_response({"error": error}, status=status)


async def _abort(request: web.Request) -> None:
    """Break the connection as a killed server would; the handler is cancelled by that."""
    assert request.transport is not None
    request.transport.abort()
    await asyncio.Event().wait()
