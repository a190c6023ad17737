"""A fake hub: a local server with the APIs of Hugging Face, ModelScope and a package index.

It can have the faults that real ones have: broken connections, wrong bytes, no digests, a login
page, repositories that want a token, files that lie on another host.
"""

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
_LFS = (".safetensors", ".onnx", ".bin", ".parquet", ".jsonl")


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    """The name git gives to a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass
class FakeHub:
    """What the server has and does; models and datasets are served by both hubs.

    Attributes:
        model: path -> content of the model `id`.
        datasets: id of a dataset -> path -> content.
        token: what a request must prove to know; empty: anybody is served.
        elsewhere: files of Hugging Face are redirected to another host name.
        secrets: (host and path, headers Authorization and Cookie) of every request that had one.
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
    datasets: dict[str, dict[str, bytes]] = field(default_factory=dict)
    token: str = ""
    elsewhere: bool = False
    secrets: list[tuple[str, str]] = field(default_factory=list)

    def repo(self, path: str) -> tuple[dict[str, bytes], str] | None:
        """The files of the repository that a path begins with, and the rest of the path."""
        known = {f"models/{self.id}": self.model}
        known |= {f"datasets/{name}": files for name, files in self.datasets.items()}
        for name, files in known.items():
            if path == name or path.startswith(f"{name}/"):
                return files, path.removeprefix(name)
        return None

    def hf_tree(self, files: dict[str, bytes]) -> list[dict[str, Any]]:
        """Entries as Hugging Face lists them; the large ones with a SHA-256."""
        tree: list[dict[str, Any]] = [{"type": "directory", "path": "onnx", "size": 0, "oid": "0"}]
        for path, data in files.items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
            if path in self.undigested:
                pass
            elif path.endswith(_LFS):
                entry |= {"oid": "f" * 40, "lfs": {"oid": sha256(data), "size": len(data)}}
            else:
                entry["oid"] = git_sha1(data)
            tree.append(entry)
        return tree

    def ms_files(self, files: dict[str, bytes]) -> list[dict[str, Any]]:
        """Entries as ModelScope lists them."""
        entries: list[dict[str, Any]] = [{"Type": "tree", "Path": "onnx", "Size": 0}]
        for path, data in files.items():
            digest = "" if path in self.undigested else sha256(data)
            entries.append({"Type": "blob", "Path": path, "Size": len(data), "Sha256": digest})
        return entries


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
        path = urllib.parse.unquote(url.path).lstrip("/")
        if secret := self.headers.get("Authorization") or self.headers.get("Cookie"):
            self.hub.secrets.append((f"{self.headers['Host']}/{path}", secret))
        if path.startswith("simple/"):
            self.give_index()
        elif path.startswith("files/"):
            self.give_file(path.removeprefix("files/"), self.hub.wheels)
        elif path.startswith("elsewhere/"):
            self.give_elsewhere(path.removeprefix("elsewhere/"))
        elif self.hub.token and self.hub.token not in (secret or ""):
            self.send_error(401)
        elif path.startswith("api/v1/"):
            self.give_ms(path.removeprefix("api/v1/"), query)
        else:
            self.give_hf(path, query)

    def give_hf(self, path: str, query: dict[str, str]) -> None:
        api = path.startswith("api/")
        name = path.removeprefix("api/")
        name = name if name.startswith("datasets/") or api else f"models/{name}"
        found = self.hub.repo(name)
        if found is None:
            self.send_error(404)
            return
        files, rest = found
        if api and rest in ("", "/revision/main", "/revision/v1"):
            self.give_json({"sha": COMMIT})
        elif api and rest == f"/tree/{COMMIT}":
            self.give_tree(files, query)
        elif not api and rest.startswith(f"/resolve/{COMMIT}/"):
            inner = rest.removeprefix(f"/resolve/{COMMIT}/")
            if self.hub.elsewhere:
                port = self.hub.url.rpartition(":")[2]
                self.send_response(302)
                self.send_header("Location", f"http://localhost:{port}/elsewhere/{name}")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self.give_file(inner, files)
        else:
            self.send_error(404)

    def give_elsewhere(self, name: str) -> None:
        if self.headers.get("Authorization"):
            self.send_error(400)  # as the real hosts of large files do
            return
        found = self.hub.repo(name)
        assert found is not None
        self.give_file(found[1].removeprefix(f"/resolve/{COMMIT}/"), found[0])

    def give_ms(self, path: str, query: dict[str, str]) -> None:
        found = self.hub.repo(path)
        if found is None:
            self.send_error(404)
            return
        files, rest = found
        entries = self.hub.ms_files(files)
        if rest == "/repo/files" and path.startswith("models/"):
            self.give_json({"Code": 200, "Data": {"Files": entries}})
        elif rest == "/repo/tree" and path.startswith("datasets/"):
            size, page = int(query["PageSize"]), int(query["PageNumber"])
            shown = entries[(page - 1) * size : page * size]
            self.give_json({"Code": 200, "Data": {"Files": shown}})
        elif rest == "/repo":
            self.give_file(query["FilePath"], files)
        else:
            self.send_error(404)

    def give_tree(self, files: dict[str, bytes], query: dict[str, str]) -> None:
        tree = self.hub.hf_tree(files)
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
