from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from slipway.cli.connect import base_url
from slipway.client import DaemonClient, Message
from slipway.core.errors import (
    AuthError,
    NotFoundError,
    ResourceError,
    SlipwayError,
    ToolError,
    UnreachableError,
    UsageError,
)
from slipway.core.process import free_port

Serve = Callable[..., str]
HELLO: list[Message] = [{"role": "user", "content": "hello"}]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server that answers everything with this status and body; its URL."""
    servers: list[ThreadingHTTPServer] = []

    def start(body: bytes, status: int = 200, **headers: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def lines(*values: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def piece(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}, "done": False}


def test_an_answer_with_its_timings(serve: Serve) -> None:
    end = {"done": True, "done_reason": "length", "total_duration": 2_000_000_000}
    counts = {"eval_count": 10, "eval_duration": 500_000_000, "prompt_eval_count": 3}
    with DaemonClient(serve(lines(piece("a"), piece("b"), {**end, **counts}))) as daemon:
        answer = daemon.chat("m", HELLO).read()
    assert (answer.text, answer.done_reason) == ("ab", "length")
    assert answer.timings is not None and answer.timings.total_s == 2
    assert answer.timings.completion_rate == 20 and answer.timings.prompt_rate is None


def test_an_answer_that_breaks_off_or_ends_with_an_error_is_no_answer(serve: Serve) -> None:
    for body, code in (
        (lines(piece("a")), "client.answer_cut"),
        (lines(piece("a")) + b"{not json\n", "client.answer_cut"),
        (lines(piece("a"), {"error": "boom", "code": "engine.lost", "hint": "h"}), "engine.lost"),
    ):
        with DaemonClient(serve(body)) as daemon, pytest.raises(ToolError) as caught:
            answer = daemon.chat("m", HELLO)
            answer.read()
        assert caught.value.code == code and answer.text == "a"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, UsageError),
        (401, AuthError),
        (404, NotFoundError),
        (422, UsageError),
        (500, ToolError),
        (503, UnreachableError),
        (507, ResourceError),
    ],
)
def test_the_servers_error_keeps_its_words(
    serve: Serve, status: int, kind: type[SlipwayError]
) -> None:
    body = lines({"error": "what is wrong", "code": "some.code", "hint": "do this"})
    with DaemonClient(serve(body, status)) as daemon:
        for ask in (lambda: daemon.chat("m", HELLO), lambda: daemon.show("m"), daemon.metrics):
            with pytest.raises(kind) as caught:
                ask()
            error = caught.value
            assert (error.code, error.message, error.hint) == (
                "some.code",
                "what is wrong",
                "do this",
            )


def test_a_full_queue_says_when_to_come_back(serve: Serve) -> None:
    url = serve(lines({"error": "server busy"}), 503, Retry_After="7")
    with DaemonClient(url) as daemon, pytest.raises(UnreachableError) as caught:
        daemon.chat("m", HELLO)
    assert "7 s" in str(caught.value.hint)


def test_a_server_of_another_kind_is_told(serve: Serve) -> None:
    with DaemonClient(serve(b"<html>")) as daemon:
        for ask in (daemon.models, daemon.version, lambda: list(daemon.create("m"))):
            with pytest.raises(ToolError, match="bad_answer"):
                ask()
    with (
        DaemonClient(serve(b"<html>", 502)) as daemon,
        pytest.raises(UnreachableError, match="502"),
    ):
        daemon.models()
    with DaemonClient(f"http://127.0.0.1:{free_port()}") as nobody:
        with pytest.raises(UnreachableError):
            nobody.models()
        with pytest.raises(UnreachableError):
            nobody.chat("m", HELLO)
    for bad in ("ftp://x", "127.0.0.1:1", "http://"):
        with pytest.raises(UsageError):
            DaemonClient(bad)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("box", "http://box:11434"),
        (":8080", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("https://models.example.org", "https://models.example.org:443"),
        ("http://models.example.org/", "http://models.example.org:80"),
        ("https://models.example.org/ollama/", "https://models.example.org:443/ollama"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("::1", "http://[::1]:11434"),
        (' "localhost:1" ', "http://localhost:1"),
    ],
)
def test_addresses_are_read_as_ollama_reads_them(given: str, url: str) -> None:
    assert base_url(given, "OLLAMA_HOST") == url


@pytest.mark.parametrize("wrong", ["box:port", "ftp://box", "box:99999", "http://box?x=1"])
def test_what_is_no_address_is_told_with_its_source(wrong: str) -> None:
    with pytest.raises(UsageError, match="OLLAMA_HOST"):
        base_url(wrong, "OLLAMA_HOST")
