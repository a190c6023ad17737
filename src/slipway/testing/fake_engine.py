"""FakeEngine: a small program that speaks llama-server's protocol and has no model.

    python -m slipway.testing.fake_engine --tokens-per-second 200 --load-delay 0.5 -m x --port 9000

It takes llama-server's flags (the ones that matter: -c, -np, --embedding), loads for as long as it
is told, and answers at the speed it is told. A token is a word. It answers "echo: <last message>",
and the last message may be a command: `/count N` answers N words, `/dump` answers the request as
JSON, `/call TEXT` answers the text, `/tool NAME JSON` calls a tool, `/think` thinks before it
answers, `/die` kills the process after two words. With log-probabilities every word has -0.5.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

DIMENSIONS = 8
_GENERATING = ("/v1/chat/completions", "/completion", "/infill")
_STATUS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    501: "Not Implemented",
}


class Words:
    """A vocabulary that grows: each new word is a token."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def tokens(self, text: str) -> list[int]:
        """Ids of the words of a text."""
        return [self._ids.setdefault(word, len(self._ids) + 1) for word in text.split()]

    def text(self, tokens: list[int]) -> str:
        """The words of ids."""
        known = {number: word for word, number in self._ids.items()}
        return " ".join(known.get(token, "?") for token in tokens)


class FakeEngine:
    """The state of one fake worker."""

    def __init__(self, flags: argparse.Namespace) -> None:
        self.flags = flags
        self.ready_at = time.monotonic() + flags.load_delay
        self.context = flags.c // flags.np
        self.slots = asyncio.Semaphore(flags.np)
        self.active = 0
        self.held = 0  # tokens of the last prompt
        self.key = os.environ.get("LLAMA_API_KEY", "")
        self.words = Words()

    async def serve(self) -> None:
        """Listen until the process ends."""
        if self.flags.fail_load:
            await asyncio.sleep(self.flags.load_delay)
            sys.exit("fake: failed to load the model")
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.flags.port)
        async with server:
            await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().split("\r\n")
                method, path, _ = first.split(" ")
                pairs = (line.partition(":") for line in lines if line)
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await self._request(writer, method, path, headers, json.loads(body or b"{}"))
        writer.close()

    async def _request(
        self,
        writer: asyncio.StreamWriter,
        method: str,
        path: str,
        headers: dict[str, str],
        body: dict[str, Any],
    ) -> None:
        if time.monotonic() < self.ready_at:
            _send(writer, 503, _problem(503, "Loading model", "unavailable_error"))
        elif path == "/health":
            _send(writer, 200, {"status": "ok"})
        elif self.key and headers.get("authorization") != f"Bearer {self.key}":
            _send(writer, 401, _problem(401, "Invalid API Key", "authentication_error"))
        elif path == "/slots":
            _send(writer, 200, [self._slot(number) for number in range(self.flags.np)])
        elif path == "/tokenize":
            _send(writer, 200, {"tokens": self.words.tokens(body["content"])})
        elif path == "/detokenize":
            _send(writer, 200, {"content": self.words.text(body["tokens"])})
        elif path == "/apply-template":
            _send(writer, 200, {"prompt": "\n".join(_contents(body))})
        elif path == "/infill" and not self.flags.fim:
            _send(writer, 501, _problem(501, "Infill is not supported", "not_supported_error"))
        elif path == "/v1/embeddings" and self.flags.embedding:
            self._embeddings(writer, body)
        elif path == "/v1/rerank" and self.flags.pooling == "rank":
            _send(writer, 200, _ranked(body))
        elif path in _GENERATING and not self.flags.embedding:
            await self._generation(writer, body, chat=path == "/v1/chat/completions")
        else:
            _send(writer, 404, _problem(404, "File Not Found", "not_found_error"))
        await writer.drain()

    def _slot(self, number: int) -> dict[str, Any]:
        held = self.held if number == 0 else 0
        return {"is_processing": number < self.active, "n_prompt_tokens": held}

    def _embeddings(self, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
        inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
        counts = [len(text if isinstance(text, list) else text.split()) for text in inputs]
        if max(counts) > self.context:
            _send(writer, 400, self._overflow(max(counts)))
            return
        data = [{"index": i, "embedding": _vector(str(text))} for i, text in enumerate(inputs)]
        _send(writer, 200, {"data": data, "usage": {"prompt_tokens": sum(counts)}})

    async def _generation(
        self, writer: asyncio.StreamWriter, body: dict[str, Any], *, chat: bool
    ) -> None:
        texts = _contents(body) if chat else [self._raw(body)]
        prompt_tokens = sum(len(text.split()) for text in texts)
        if prompt_tokens >= self.context:
            _send(writer, 400, self._overflow(prompt_tokens))
            return
        self.held = prompt_tokens
        words = _answer(texts[-1], body)
        limit = body.get("n_predict", -1)
        limit = self.context - prompt_tokens if limit < 0 else limit
        async with self.slots:
            self.active += 1
            try:
                _open_stream(writer)
                count = 0
                if texts[-1] == "/think":
                    _event(writer, _thought("let me "))
                    _event(writer, _thought("see"))
                called = chat and texts[-1].startswith("/tool ")
                if called:
                    for chunk in _tool_pieces(texts[-1]):
                        _event(writer, chunk)
                    words = []
                async for word in self._paced(words[:limit]):
                    count += 1
                    piece = word if count == 1 else f" {word}"
                    _event(writer, _chat_piece(piece, body) if chat else _raw_piece(piece, body))
                    await writer.drain()
                    if texts[-1] == "/die" and count == 2:
                        os.kill(os.getpid(), signal.SIGKILL)
                reason = "length" if len(words) > limit else "stop"
                reason = "tool_calls" if called else reason
                for last in _ending(chat, reason, prompt_tokens, count):
                    _event(writer, last)
                _chunk(writer, b"data: [DONE]\n\n")
                _chunk(writer, b"")
            finally:
                self.active -= 1

    def _raw(self, body: dict[str, Any]) -> str:
        if "input_suffix" in body:
            return f"{body['input_prefix']} ... {body['input_suffix']}"
        prompt = body["prompt"]
        return self.words.text(prompt) if isinstance(prompt, list) else str(prompt)

    async def _paced(self, words: list[str]) -> AsyncIterator[str]:
        for word in words:
            await asyncio.sleep(1 / self.flags.tokens_per_second)
            yield word

    def _overflow(self, tokens: int) -> dict[str, Any]:
        problem = _problem(400, "request exceeds the context", "exceed_context_size_error")
        problem["error"] |= {"n_prompt_tokens": tokens, "n_ctx": self.context}
        return problem


def _answer(last: str, body: dict[str, Any]) -> list[str]:
    if last.startswith("/count "):
        return [f"w{i}" for i in range(int(last.split()[1]))]
    if last.startswith("/call "):
        return last.removeprefix("/call ").split(" ")
    if last == "/dump":
        return json.dumps(body).split(" ")
    if last == "/die":
        return ["I", "am", "dying"]
    return ["echo:", *last.split()]


def _contents(body: dict[str, Any]) -> list[str]:
    return [str(message.get("content") or "") for message in body["messages"]]


def _vector(text: str) -> list[float]:
    values = [byte - 127.5 for byte in hashlib.sha256(text.encode()).digest()[:DIMENSIONS]]
    length = math.sqrt(sum(v * v for v in values))
    return [v / length for v in values]


def _ranked(body: dict[str, Any]) -> dict[str, Any]:
    """A document's score is the number of words that it shares with the query."""
    query = set(body["query"].split())
    texts = [text.split() for text in body["documents"]]
    rows = [{"index": i, "relevance_score": len(query & set(t))} for i, t in enumerate(texts)]
    tokens = sum(len(query) + len(text) for text in texts)
    return {"results": rows, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _chat_piece(text: str, body: dict[str, Any]) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "finish_reason": None, "delta": {"content": text}}
    if body.get("logprobs"):
        choice["logprobs"] = {"content": [_logprob(text)]}
    return {"choices": [choice]}


def _raw_piece(text: str, body: dict[str, Any]) -> dict[str, Any]:
    probabilities = {"completion_probabilities": [_logprob(text)]} if body.get("n_probs") else {}
    return {"content": text, **probabilities}


def _logprob(text: str) -> dict[str, Any]:
    other = {"token": "?", "logprob": -1.5, "bytes": [63]}
    best = {"token": text, "logprob": -0.5, "bytes": list(text.encode())}
    return {**best, "top_logprobs": [best, other]}


def _tool_pieces(command: str) -> list[dict[str, Any]]:
    """A call in three pieces, as llama-server streams it: name, half of the arguments, the rest."""
    _, name, arguments = command.split(" ", 2)
    half = len(arguments) // 2
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}
    rest = [{"function": {"arguments": part}} for part in (arguments[:half], arguments[half:])]
    pieces: list[dict[str, Any]] = [call, *rest]
    deltas = [{"tool_calls": [{"index": 0, **piece}]} for piece in pieces]
    return [{"choices": [{"index": 0, "finish_reason": None, "delta": d}]} for d in deltas]


def _thought(text: str) -> dict[str, Any]:
    delta = {"reasoning_content": text}
    return {"choices": [{"index": 0, "finish_reason": None, "delta": delta}]}


def _ending(chat: bool, reason: str, prompt: int, completion: int) -> list[dict[str, Any]]:
    timings = {"cache_n": 0, "prompt_ms": float(prompt), "predicted_ms": float(completion)}
    if not chat:
        stop = {"stop": True, "stop_type": "limit" if reason == "length" else "eos", "content": ""}
        counts = {"tokens_evaluated": prompt, "tokens_predicted": completion}
        return [{**stop, **counts, "timings": timings}]
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return [
        {"choices": [{"index": 0, "finish_reason": reason, "delta": {}}]},
        {"choices": [], "usage": usage, "timings": timings},
    ]


def _problem(status: int, message: str, kind: str) -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "type": kind}}


def _send(writer: asyncio.StreamWriter, status: int, value: Any) -> None:
    body = json.dumps(value).encode()
    reason = _STATUS.get(status, "Service Unavailable")
    writer.write(
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


def _open_stream(writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )


def _event(writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
    _chunk(writer, b"data: " + json.dumps(value).encode() + b"\n\n")


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the flags; llama-server's others are passed over."""
    parser = argparse.ArgumentParser(prog="fake-engine", allow_abbrev=False)
    parser.add_argument("--tokens-per-second", type=float, default=500.0)
    parser.add_argument("--load-delay", type=float, default=0.0)
    parser.add_argument("--fail-load", action="store_true")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("-c", type=int, default=4096)
    parser.add_argument("-np", type=int, default=1)
    parser.add_argument("--embedding", action="store_true")
    parser.add_argument("--pooling", default="")
    parser.add_argument("--fim", action="store_true")
    return parser.parse_known_args(arguments)[0]


async def _main(arguments: list[str]) -> None:
    await FakeEngine(parse(arguments)).serve()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_main(sys.argv[1:]))
