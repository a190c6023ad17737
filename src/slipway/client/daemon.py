"""A typed client of the daemon's own API, which is Ollama's.

with DaemonClient("http://127.0.0.1:11434") as daemon:
    for piece in daemon.chat("kefu", [{"role": "user", "content": "hello"}]):
        print(piece.text, end="")
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from slipway import __version__
from slipway.client.answer import Answer
from slipway.client.failures import Explained, error_of_answer, error_of_line
from slipway.client.http import Message
from slipway.client.light_httpx import prepare_httpx
from slipway.core.errors import ToolError, UsageError
from slipway.core.i18n import current_language, tr

DEFAULT_URL = "http://127.0.0.1:11434"
_CONNECT_TIMEOUT_S = 5.0
_PROBE_TIMEOUT_S = 10.0
_LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


class DaemonClient:
    """Talks to the model daemon, or to any server with Ollama's protocol.

    Every method raises what stands in the answer: NotFoundError for an unknown model, UsageError
    for a refused request, UnreachableError when nobody answers or the queue is full, ResourceError
    when a model does not fit, ToolError when the engine failed.

    Args:
        url: `http://host:port`.
        timeout_s: longest silence of the server, queueing and loading included.
    """

    def __init__(self, url: str = DEFAULT_URL, *, timeout_s: float = 1200.0) -> None:
        prepare_httpx()
        import httpx

        self.url = url.rstrip("/")
        try:
            address = httpx.URL(self.url)
            usable = address.scheme in ("http", "https") and bool(address.host)
        except httpx.InvalidURL:
            usable = False
        if not usable:
            raise UsageError(
                "client.bad_url",
                tr("`{url}` is no address of a daemon", url=url),
                tr("write the address like `http://127.0.0.1:11434`"),
            )
        self.is_local = address.host in _LOCAL_HOSTS
        self._http = httpx.Client(
            base_url=self.url,
            headers={
                "User-Agent": f"slipway/{__version__}",
                "Accept-Language": current_language(),
                **_key(),
            },
            timeout=httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S),
            # a proxy of the environment cannot reach this machine's own servers
            trust_env=not self.is_local,
            verify=address.scheme == "https",  # else certificates are read for nothing
        )

    def version(self) -> str:
        """The server's version; asked for to see whether it is there, so it may not take long."""
        answer = self._json("GET", "/api/version", timeout_s=_PROBE_TIMEOUT_S)
        return str(answer.get("version", ""))

    def models(self) -> list[dict[str, Any]]:
        """The stored models, as /api/tags tells them, newest first."""
        return list(self._json("GET", "/api/tags").get("models") or [])

    def loaded(self) -> list[dict[str, Any]]:
        """The models in memory, as /api/ps tells them."""
        return list(self._json("GET", "/api/ps").get("models") or [])

    def queue(self) -> list[dict[str, Any]]:
        """What each model serves and who waits for it (/api/queue)."""
        return list(self._json("GET", "/api/queue").get("models") or [])

    def metrics(self) -> str:
        """The server's metrics in Prometheus's text format."""
        with Explained(self.url):
            response = self._http.get("/metrics")
        if response.status_code != 200:
            raise error_of_answer(response)
        return response.text

    def show(self, model: str, *, verbose: bool = False) -> dict[str, Any]:
        """Everything about a stored model, as /api/show tells it."""
        return self._json("POST", "/api/show", {"model": model, "verbose": verbose})

    def load(
        self, model: str, *, keep_alive: str | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        """Load a model that generates, and ask it nothing."""
        body = _without_none(model=model, keep_alive=keep_alive, options=options, stream=False)
        self._json("POST", "/api/generate", body)

    def unload(self, model: str) -> None:
        """Free the memory of a model; one that is answering goes when it is done."""
        self._json("POST", "/api/generate", {"model": model, "keep_alive": 0, "stream": False})

    def chat(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        options: Mapping[str, Any] | None = None,
        format: str | Mapping[str, Any] | None = None,
        think: bool | str | None = None,
        keep_alive: str | None = None,
        truncate: bool = False,
    ) -> Answer:
        """Ask for an answer, as a stream; the request is sent at once.

        Args:
            options: parameters such as `temperature` or `num_ctx`.
            format: `json`, or the JSON schema that the answer must match.
            think: whether, or how hard, the model thinks first; None leaves it to the model.
            keep_alive: how long the model stays loaded afterwards (`5m`, `-1`).
            truncate: leave out the oldest turns when they do not fit; the answer tells how many.
        """
        body = _without_none(
            model=model,
            messages=list(messages),
            options=dict(options) if options else None,
            format=format,
            think=think,
            keep_alive=keep_alive,
            truncate=truncate,
            stream=True,
        )
        started = time.perf_counter()
        request = self._http.build_request("POST", "/api/chat", json=body)
        with Explained(self.url):
            response = self._http.send(request, stream=True)
            if response.status_code != 200:
                response.read()
        if response.status_code != 200:
            raise error_of_answer(response)
        return Answer(response, self.url, started)

    def embed(
        self,
        model: str,
        texts: Sequence[str],
        *,
        truncate: bool = False,
        keep_alive: str | None = None,
    ) -> list[list[float]]:
        """One vector of unit length for each text, in their order."""
        body = _without_none(
            model=model, input=list(texts), truncate=truncate, keep_alive=keep_alive
        )
        return list(self._json("POST", "/api/embed", body)["embeddings"])

    def copy(self, source: str, destination: str) -> None:
        """Give a stored model a second name."""
        self._json("POST", "/api/copy", {"source": source, "destination": destination})

    def create(self, model: str, **fields: Any) -> Iterator[str]:
        """Create a model from another (`from`, `system`, `parameters`, `messages`).

        Yields:
            what the server is doing.
        """
        request = self._http.build_request("POST", "/api/create", json={"model": model, **fields})
        with Explained(self.url):
            response = self._http.send(request, stream=True)
            if response.status_code != 200:
                response.read()
                raise error_of_answer(response)
            try:
                for text in response.iter_lines():
                    line = self._object(text)
                    if "error" in line:
                        raise error_of_line(line)
                    yield str(line.get("status", ""))
            finally:
                response.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _json(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        extra: dict[str, Any] = {} if timeout_s is None else {"timeout": timeout_s}
        with Explained(self.url):
            response = self._http.request(method, path, json=body, **extra)
        if response.status_code != 200:
            raise error_of_answer(response)
        return self._object(response.content) if response.content else {}

    def _object(self, text: str | bytes) -> dict[str, Any]:
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ToolError(
                "client.bad_answer",
                tr("{url} did not answer in Ollama's protocol", url=self.url),
                tr("check the address; the daemon's is `http://127.0.0.1:11434` by default"),
            )
        return value


def _without_none(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _key() -> dict[str, str]:
    """The header that carries the daemon's key, when there is one."""
    key = os.environ.get("SLIPWAY_SERVE_KEY", "")
    return {"Authorization": f"Bearer {key}"} if key else {}
