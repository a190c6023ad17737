"""A local server with the APIs of Hugging Face, ModelScope and a package index, and its faults."""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c0ffee" * 6 + "abcd"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass
class FakeHub:
    """What the server has and does; `model` files are served by both hubs.

    Attributes:
        cut_once: path -> bytes after which the first answer breaks off.
        spoiled: paths whose first byte arrives wrong.
        undigested: paths for which no digest is stated.
        asked: path -> the Range headers of the requests for it.
    """

    id: str = "org/model"
    model: dict[str, bytes] = field(default_factory=dict)
    wheels: dict[str, bytes] = field(default_factory=dict)
    cut_once: dict[str, int] = field(default_factory=dict)
    spoiled: set[str] = field(default_factory=set)
    undigested: set[str] = field(default_factory=set)
    asked: dict[str, list[str]] = field(default_factory=dict)
    status: int = 200
    page_of_login: bool = False
    url: str = ""

    def hf_tree(self) -> list[dict[str, Any]]:
        tree: list[dict[str, Any]] = [{"type": "directory", "path": "onnx", "size": 0, "oid": "0"}]
        for path, data in self.model.items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
            if path in self.undigested:
                pass
            elif path.endswith((".safetensors", ".onnx", ".bin")):
                entry |= {"oid": "f" * 40, "lfs": {"oid": sha256(data), "size": len(data)}}
            else:
                entry["oid"] = git_sha1(data)
            tree.append(entry)
        return tree

    def ms_files(self) -> dict[str, Any]:
        files: list[dict[str, Any]] = [{"Type": "tree", "Path": "onnx", "Size": 0}]
        for path, data in self.model.items():
            digest = "" if path in self.undigested else sha256(data)
            files.append({"Type": "blob", "Path": path, "Size": len(data), "Sha256": digest})
        return {"Code": 200, "Data": {"Files": files}}


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.hub.page_of_login:
            self.give(b"<html>please log in</html>", "text/html")
            return
        if self.hub.status != 200:
            self.send_error(self.hub.status)
            return
        url = urllib.parse.urlsplit(self.path)
        query = {k: v[0] for k, v in urllib.parse.parse_qs(url.query).items()}
        hub = self.hub
        ms = f"/api/v1/models/{hub.id}/repo"
        resolve = f"/{hub.id}/resolve/{COMMIT}/"
        if url.path == f"/api/models/{hub.id}":
            self.give_json({"id": self.hub.id, "sha": COMMIT})
        elif url.path == f"/api/models/{hub.id}/tree/{COMMIT}":
            self.give_tree(query)
        elif url.path == f"{ms}/files":
            self.give_json(self.hub.ms_files())
        elif url.path == ms:
            self.give_file(query["FilePath"], self.hub.model)
        elif url.path.startswith(resolve):
            self.give_file(urllib.parse.unquote(url.path.removeprefix(resolve)), self.hub.model)
        elif url.path.startswith("/simple/"):
            self.give_index()
        elif url.path.startswith("/files/"):
            self.give_file(url.path.removeprefix("/files/"), self.hub.wheels)
        else:
            self.send_error(404)

    def give_tree(self, query: dict[str, str]) -> None:
        tree = self.hub.hf_tree()
        half = len(tree) // 2  # two pages, as a large model has
        if "cursor" in query:
            self.give_json(tree[half:])
        else:
            following = f'<{self.hub.url}{self.path}&cursor=x>; rel="next"'
            self.give_json(tree[:half], {"Link": following})

    def give_index(self) -> None:
        files = [
            {
                "filename": name,
                "url": f"{self.hub.url}/files/{name}",
                "hashes": {"sha256": sha256(data)},
                "size": len(data),
            }
            for name, data in self.hub.wheels.items()
        ]
        self.give(json.dumps({"files": files}).encode(), "application/vnd.pypi.simple.v1+json")

    def give_file(self, path: str, store: dict[str, bytes]) -> None:
        if path not in store:
            self.send_error(404)
            return
        data = store[path]
        if path in self.hub.spoiled:
            data = bytes([data[0] ^ 1]) + data[1:]
        wanted = self.headers.get("Range", "")
        self.hub.asked.setdefault(path, []).append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        part = data[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if path in self.hub.cut_once:
            self.wfile.write(part[: self.hub.cut_once.pop(path)])
            self.close_connection = True
        else:
            self.wfile.write(part)

    def give_json(self, value: object, headers: dict[str, str] | None = None) -> None:
        self.give(json.dumps(value).encode(), "application/json", headers)

    def give(self, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        for name, text in {"Content-Type": kind, **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve `hub` on a free loopback port; `hub.url` is set."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
