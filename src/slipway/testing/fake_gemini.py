"""A server that speaks Gemini's API and refuses what the real one refuses."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

_USAGE = {
    "promptTokenCount": 20,
    "cachedContentTokenCount": 5,
    "candidatesTokenCount": 6,
    "thoughtsTokenCount": 4,
    "totalTokenCount": 30,
}


class FakeGemini:
    """Repeats the last text, after a thought; with tools it calls the first one instead.

        with FakeGemini() as upstream:
            ...  # upstream.url, upstream.seen: the bodies as they came

    Attributes:
        api_key: what `x-goog-api-key` must be.
    """

    def __init__(self, api_key: str = "upstream-key") -> None:
        self.api_key = api_key
        self.seen: list[dict[str, Any]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                key = self.headers.get("x-goog-api-key")
                status, kind, answer = fake._answer(self.path, key, json.loads(raw))
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

    def _answer(self, path: str, key: str | None, body: dict[str, Any]) -> tuple[int, str, bytes]:
        self.seen.append(body)
        if key != self.api_key:
            return _refusal(400, "INVALID_ARGUMENT", "API key not valid.")
        place, _, method = path.partition(":")
        if not place.startswith("/v1beta/models/"):
            return _refusal(404, "NOT_FOUND", "no such path")
        if method == "batchEmbedContents":
            texts = [r["content"]["parts"][0]["text"] for r in body["requests"]]
            found = [{"values": [float(len(text)), 1.0]} for text in texts]
            return 200, "application/json", json.dumps({"embeddings": found}).encode()
        if any(turn["role"] not in ("user", "model") for turn in body["contents"]):
            return _refusal(400, "INVALID_ARGUMENT", "Please use a valid role: user, model.")
        answers = _answers(body)
        if method == "generateContent":
            parts = [
                p for a in answers for p in a["candidates"][0].get("content", {}).get("parts", [])
            ]
            candidate = {**answers[-1]["candidates"][0], "content": {"parts": parts}}
            whole = {**answers[-1], "candidates": [candidate]}
            return 200, "application/json; charset=UTF-8", json.dumps(whole).encode()
        events = "".join(f"data: {json.dumps(answer)}\r\n\r\n" for answer in answers)
        return 200, "text/event-stream", events.encode()


def _answers(body: dict[str, Any]) -> list[dict[str, Any]]:
    if body.get("tools"):
        name = body["tools"][0]["functionDeclarations"][0]["name"]
        call = {"functionCall": {"name": name, "args": {"city": "北京"}}}
        said: list[dict[str, Any]] = [{**call, "thoughtSignature": "c2ln"}]
    else:
        text = body["contents"][-1]["parts"][-1]["text"]
        said = [{"text": letter} for letter in text]
    found: list[dict[str, Any]] = []
    for part in [{"text": "Let me see.", "thought": True}, *said]:
        candidate: dict[str, Any] = {"index": 0, "content": {"role": "model", "parts": [part]}}
        found.append({"candidates": [candidate], "modelVersion": "gemini", "responseId": "r1"})
    found[-1]["candidates"][0]["finishReason"] = "STOP"
    return [{**each, "usageMetadata": _USAGE} for each in found]


def _refusal(status: int, kind: str, message: str) -> tuple[int, str, bytes]:
    body = {"error": {"code": status, "message": message, "status": kind}}
    return status, "application/json", json.dumps(body).encode()
