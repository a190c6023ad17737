"""A fake registry: a local server of manifests and blobs, as Ollama's and Docker's clients use it.

It can have the faults that real ones have: answers that break off, wrong bytes, 429, 500, slow
lines, no ranges, challenges for a token or a password.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

_PATH = re.compile(r"/v2/([^/]+)/([^/]+)/(manifests|blobs)/(.+)")
_PIECE = 1 << 14


def digest_of(data: bytes) -> str:
    """ "sha256:" and hex."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class FakeRegistry:
    """What the server has and does.

    Attributes:
        manifests: "namespace/model:tag" -> bytes.
        blobs: digest -> content.
        auth: the challenge that a request must answer.
        user, password: for "basic", and at the token's place for "bearer".
        token: what "bearer" requests must carry.
        realm: where the challenge sends for a token; empty is this server.
        faults: statuses that the next requests are answered with.
        cut_after: bytes after which answers with content break off, as long as `cuts` is not 0.
        cuts: how many answers still break off.
        storage: another server, "host:port", to which requests for blobs are redirected.
        gets_only: HEAD of a blob is refused, as storages with signed addresses do.
        spoiled: digests whose first byte arrives wrong.
        ranges: whether Range is understood.
        bytes_per_s: speed of one answer; 0 is as fast as it goes.
        docker_location: uploads name their place in Docker-Upload-Location.
        asked: (method, path, Range header) of every request.
        authorizations: every Authorization header that arrived.
        sent: bytes of blobs that were sent.
    """

    manifests: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    auth: Literal["", "basic", "bearer"] = ""
    user: str = "user"
    password: str = "pass-word"
    token: str = "tok-en"
    realm: str = ""
    faults: list[int] = field(default_factory=list)
    cut_after: int = 0
    cuts: int = 0
    storage: str = ""
    gets_only: bool = False
    spoiled: set[str] = field(default_factory=set)
    ranges: bool = True
    bytes_per_s: int = 0
    docker_location: bool = False
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    sent: int = 0
    uploads: dict[str, bytes] = field(default_factory=dict)
    host: str = ""

    def add(self, name: str, layers: dict[str, bytes], config: bytes = b"{}") -> bytes:
        """Put a model there: media type -> content; returns its manifest."""
        entries = []
        kinds = [("application/vnd.docker.container.image.v1+json", config), *layers.items()]
        for kind, data in kinds:
            self.blobs[digest_of(data)] = data
            entries.append({"mediaType": kind, "digest": digest_of(data), "size": len(data)})
        value = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": entries[0],
            "layers": entries[1:],
        }
        self.manifests[name] = json.dumps(value).encode()
        return self.manifests[name]


@contextmanager
def fake_registry() -> Iterator[FakeRegistry]:
    """The registry, served on a loopback port until the block ends."""
    registry = FakeRegistry()

    class Handler(_Handler):
        pass

    Handler.registry = registry
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    registry.host = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    registry: FakeRegistry
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: tests read `asked`."""

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PATCH = do_PUT = do_GET

    def _serve(self) -> None:
        registry = self.registry
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path, _, query = self.path.partition("?")
        registry.asked.append((self.command, path, self.headers.get("range", "")))
        if header := self.headers.get("authorization"):
            registry.authorizations.append(header)
        if path == "/token":
            self._give_token()
            return
        if not self._let_in():
            return
        if registry.faults:
            self._answer(registry.faults.pop(0), b"{}", {"Retry-After": "0"})
            return
        found = _PATH.fullmatch(path)
        if not found:
            self._answer(404)
            return
        namespace, model, kind, rest = found.groups()
        if kind == "manifests":
            self._manifest(f"{namespace}/{model}:{rest}", body)
        elif rest.startswith("uploads/"):
            self._upload(rest.removeprefix("uploads/"), dict(urllib.parse.parse_qsl(query)), body)
        else:
            self._blob(rest)

    def _let_in(self) -> bool:
        registry, header = self.registry, self.headers.get("authorization", "")
        basic = _basic(registry)
        wanted = {"": header, "basic": basic, "bearer": f"Bearer {registry.token}"}[registry.auth]
        if header == wanted:
            return True
        realm = registry.realm or f"http://{registry.host}/token"
        challenge = (
            'Basic realm="registry"'
            if registry.auth == "basic"
            else f'Bearer realm="{realm}",service="registry",scope="repository:x:pull"'
        )
        self._answer(401, b"{}", {"WWW-Authenticate": challenge})
        return False

    def _give_token(self) -> None:
        header = self.headers.get("authorization", "")
        if self.registry.user and header != _basic(self.registry):
            self._answer(401)
            return
        self._answer(200, json.dumps({"token": self.registry.token}).encode())

    def _manifest(self, name: str, body: bytes) -> None:
        if self.command == "PUT":
            raw = json.loads(body)
            known = all(e["digest"] in self.registry.blobs for e in (raw["config"], *raw["layers"]))
            if known:
                self.registry.manifests[name] = body
            self._answer(201 if known else 400)
        elif name in self.registry.manifests:
            self._answer(200, self.registry.manifests[name])
        else:
            self._answer(404)

    def _blob(self, digest: str) -> None:
        registry = self.registry
        data = registry.blobs.get(digest)
        if data is None:
            self._answer(404)
            return
        if registry.storage:
            place = f"http://{registry.storage}{self.path}"
            self._answer(307, b"", {"Location": place})
            return
        if self.command == "HEAD":
            self._answer(403 if registry.gets_only else 200, data)
            return
        if digest in registry.spoiled:
            data = bytes([data[0] ^ 1]) + data[1:]
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        if asked and registry.ranges:
            first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
            headers = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
            self._content(206, data[first : last + 1], headers)
        else:
            self._content(200, data, {})

    def _content(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        registry = self.registry
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        stop = len(data)
        if registry.cuts and registry.cut_after < len(data):
            registry.cuts -= 1
            stop = registry.cut_after
        try:
            for at in range(0, stop, _PIECE):
                piece = data[at : min(at + _PIECE, stop)]
                self.wfile.write(piece)
                registry.sent += len(piece)
                if registry.bytes_per_s:
                    time.sleep(len(piece) / registry.bytes_per_s)
        except OSError:
            stop = 0  # the client has gone
        if stop < len(data):
            self.close_connection = True

    def _upload(self, key: str, query: dict[str, str], body: bytes) -> None:
        registry = self.registry
        if self.command == "POST":
            if query.get("mount") in registry.blobs:
                self._answer(201)
                return
            key = str(len(registry.uploads) + 1)
            registry.uploads[key] = b""
        elif key not in registry.uploads:
            self._answer(404)
            return
        else:
            registry.uploads[key] += body
        if self.command == "PUT":
            data = registry.uploads.pop(key)
            right = digest_of(data) == query.get("digest")
            if right:
                registry.blobs[digest_of(data)] = data
            self._answer(201 if right else 400)
            return
        place = self.path.partition("?")[0].rpartition("uploads/")[0] + f"uploads/{key}?state=1"
        name = "Docker-Upload-Location" if registry.docker_location else "Location"
        self._answer(202, b"", {name: place})

    def _answer(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _basic(registry: FakeRegistry) -> str:
    return "Basic " + base64.b64encode(f"{registry.user}:{registry.password}".encode()).decode()
