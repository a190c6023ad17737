from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from slipway.core.download import download, pypi_file
from slipway.core.errors import InputError, NotFoundError, ProofError, UnreachableError

DATA = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(DATA).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves DATA with ranges, two index forms, and connections that break off."""

    ranges: list[str | None]
    breaks: int

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Web)
        if self.path == "/simple/json-project/":
            self.page("application/vnd.pypi.simple.v1+json", server.index_json())
        elif self.path == "/simple/html-project/":
            self.page("text/html", server.index_html())
        elif self.path == "/simple/odd/":
            self.page("application/json", b"[]")
        elif self.path.startswith("/files/"):
            self.data(server)
        else:
            self.send_error(404)

    def page(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def data(self, server: Web) -> None:
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        body = DATA[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.breaks:
            server.breaks -= 1
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.connection.close()
            return
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Web(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.breaks = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass

    def index_json(self) -> bytes:
        file = {"filename": "a-1.tar.gz", "url": "../../files/a", "hashes": {"sha256": DIGEST}}
        return json.dumps({"files": [{**file, "size": len(DATA)}]}).encode()

    def index_html(self) -> bytes:
        return f'<a href="/files/a-1.tar.gz#sha256={DIGEST}">a-1.tar.gz</a>'.encode()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    server = Web()
    monkeypatch.setenv("SLIPWAY_PYPI_INDEX", f"{server.url}/simple")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_file_arrives_whole_with_progress(web: Web, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "deep" / "file"
    url = f"{web.url}/files/a"
    download(url, target, sha256=DIGEST, on_progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))


def test_killed_download_goes_on_where_it_stopped(web: Web, tmp_path: Path) -> None:
    target = tmp_path / "file"
    (tmp_path / "file.part").write_bytes(DATA[:1000])
    download(f"{web.url}/files/a", target, sha256=DIGEST)
    assert web.ranges == ["bytes=1000-"]
    assert target.read_bytes() == DATA and not (tmp_path / "file.part").exists()


def test_broken_connection_is_taken_up_again(web: Web, tmp_path: Path) -> None:
    web.breaks = 2
    download(f"{web.url}/files/a", tmp_path / "file", sha256=DIGEST)
    assert len(web.ranges) == 3 and web.ranges[1] is not None
    assert (tmp_path / "file").read_bytes() == DATA


def test_finished_file_is_not_fetched_again(web: Web, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    download(f"{web.url}/files/a", tmp_path / "file", sha256=DIGEST)
    assert web.ranges == []


def test_wrong_digest_leaves_nothing(web: Web, tmp_path: Path) -> None:
    with pytest.raises(ProofError) as caught:
        download(f"{web.url}/files/a", tmp_path / "file", sha256="0" * 64)
    assert caught.value.code == "download.wrong_digest"
    assert not (tmp_path / "file").exists() and not (tmp_path / "file.part").exists()


def test_missing_file_is_named(web: Web, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="/nothing"):
        download(f"{web.url}/nothing", tmp_path / "file", sha256=DIGEST)


def test_dead_server_is_unreachable(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slipway.core.download.time.sleep", lambda seconds: None)
    with pytest.raises(UnreachableError):
        download("http://127.0.0.1:9/file", tmp_path / "file", sha256=DIGEST, timeout_s=1)


@pytest.mark.parametrize("project", ["json-project", "html-project"])
def test_index_names_the_file(web: Web, project: str) -> None:
    found = pypi_file(project, "a-1.tar.gz")
    assert found.sha256 == DIGEST and found.url.startswith(f"{web.url}/files/a")


def test_index_without_the_file_project_or_form(web: Web) -> None:
    with pytest.raises(NotFoundError, match=r"b-1\.tar\.gz"):
        pypi_file("json-project", "b-1.tar.gz")
    with pytest.raises(NotFoundError):
        pypi_file("no-such-project", "b-1.tar.gz")
    with pytest.raises(InputError):
        pypi_file("odd", "a-1.tar.gz")
