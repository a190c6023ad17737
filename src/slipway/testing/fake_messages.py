"""A server that speaks Anthropic's `/v1/messages` and refuses what the real one refuses."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

_USAGE = {
    "input_tokens": 12,
    "cache_read_input_tokens": 100,
    "cache_creation_input_tokens": 8,
    "output_tokens": 7,
}


class FakeMessages:
    """Repeats the last text, after a thought; with tools it calls the first one instead.

        with FakeMessages() as upstream:
            ...  # upstream.url, upstream.seen: the bodies as they came

    Attributes:
        api_key: what `x-api-key` must be.
    """

    def __init__(self, api_key: str = "upstream-key") -> None:
        self.api_key = api_key
        self.seen: list[dict[str, Any]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                status, kind, answer = fake._answer(self.path, dict(self.headers.items()), raw)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, path: str, headers: dict[str, str], raw: bytes) -> tuple[int, str, bytes]:
        named = {name.lower(): value for name, value in headers.items()}
        body = json.loads(raw)
        self.seen.append(body)
        if named.get("x-api-key") != self.api_key:
            return _refusal(401, "authentication_error", "invalid x-api-key")
        if problem := _problem(path, named, body):
            return _refusal(400, "invalid_request_error", problem)
        blocks = _content(body)
        message = {
            "id": "msg_01",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": blocks,
            "stop_reason": "tool_use" if body.get("tools") else "end_turn",
            "stop_sequence": None,
            "usage": _USAGE,
        }
        if not body.get("stream"):
            return 200, "application/json", json.dumps(message).encode()
        events = "".join(
            f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in _events(message)
        )
        return 200, "text/event-stream", events.encode()


def _problem(path: str, headers: dict[str, str], body: dict[str, Any]) -> str | None:
    if path.partition("?")[0] != "/v1/messages":
        return "no such path"
    if "anthropic-version" not in headers:
        return "anthropic-version: header is required"
    if not isinstance(body.get("max_tokens"), int):
        return "max_tokens: Field required"
    known = {"user", "assistant"}
    if not body["messages"] or any(m["role"] not in known for m in body["messages"]):
        return "messages: bad role"
    for message in body["messages"]:
        for block in message["content"] if isinstance(message["content"], list) else []:
            if block["type"] == "text" and not block["text"]:
                return "messages: text content blocks must be non-empty"
    return None


def _content(body: dict[str, Any]) -> list[dict[str, Any]]:
    thought = {"type": "thinking", "thinking": "Let me see.", "signature": "sig"}
    if body.get("tools"):
        call = {"type": "tool_use", "id": "toolu_01", "name": body["tools"][0]["name"]}
        return [thought, {**call, "input": {"city": "北京"}}]
    content = body["messages"][-1]["content"]
    texts = [content] if isinstance(content, str) else [b.get("text", "") for b in content]
    return [thought, {"type": "text", "text": "".join(texts)}]


def _events(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    begun = {**message, "content": [], "stop_reason": None}
    yield {"type": "message_start", "message": {**begun, "usage": {**_USAGE, "output_tokens": 1}}}
    yield {"type": "ping"}
    for index, block in enumerate(message["content"]):
        kind = block["type"]
        empty = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}}
        start = {**block, **empty.get(kind, {"input": {}})}
        yield {"type": "content_block_start", "index": index, "content_block": start}
        for delta in _deltas(block):
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ending = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": ending, "usage": {"output_tokens": 7}}
    yield {"type": "message_stop"}


def _deltas(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if block["type"] == "tool_use":
        text = json.dumps(block["input"])
        yield {"type": "input_json_delta", "partial_json": text[:5]}
        yield {"type": "input_json_delta", "partial_json": text[5:]}
    elif block["type"] == "thinking":
        yield {"type": "thinking_delta", "thinking": block["thinking"]}
        yield {"type": "signature_delta", "signature": block["signature"]}
    else:
        for letter in block["text"]:
            yield {"type": "text_delta", "text": letter}


def _refusal(status: int, kind: str, message: str) -> tuple[int, str, bytes]:
    body = {"type": "error", "error": {"type": kind, "message": message}}
    return status, "application/json", json.dumps(body).encode()
