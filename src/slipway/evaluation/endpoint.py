"""Asking a server with OpenAI's protocol: one request at a time or many, patient with busy ones."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from slipway.core.errors import (
    AuthError,
    NotFoundError,
    SlipwayError,
    ToolError,
    UnreachableError,
    UsageError,
)
from slipway.core.i18n import tr

if TYPE_CHECKING:
    import httpx

_T = TypeVar("_T")
_LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
_BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_LONGEST_PAUSE_S = 60.0
TRIES = 7
_STEP_S = 0.1


class RowRefusedError(ToolError):
    """The server refuses this one request (too long, filtered, ...); others may be fine."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the server: its text, why it ended, tokens if told, and the whole choice."""

    text: str
    finish: str
    prompt_tokens: int | None
    tokens: int | None
    choice: Mapping[str, Any]


class Endpoint:
    """A server's `/v1`, for any number of threads.

    Args:
        url: with or without `/v1`.
        key: sent as `Authorization: Bearer`, and never shown; empty for none.
        sleep: waits between tries.
    """

    def __init__(
        self,
        url: str,
        key: str = "",
        *,
        timeout_s: float = 600.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        import httpx

        self.url = url.rstrip("/").removesuffix("/v1")
        self._sleep, self._key = sleep, key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            # a proxy of the environment cannot reach this machine's own servers
            local = httpx.URL(self.url).host in _LOCAL_HOSTS
            self._http = httpx.Client(
                headers=headers,
                timeout=httpx.Timeout(timeout_s, connect=10.0),
                limits=httpx.Limits(max_connections=256),
                trust_env=not local,
            )
            usable = httpx.URL(self.url).scheme in ("http", "https") and httpx.URL(self.url).host
        except (httpx.InvalidURL, UnicodeEncodeError):
            usable = ""
        if not usable:
            raise UsageError(
                "eval.bad_url",
                tr("`{url}` or its key cannot be used", url=url),
                tr("write the address like `http://127.0.0.1:3000`"),
            )

    def chat(self, model: str, messages: Sequence[Mapping[str, Any]], **options: Any) -> Reply:
        """One answer, whole.

        Raises:
            RowRefusedError: the request itself is refused (400, 413, 422).
            AuthError, NotFoundError: the key or the model is refused.
            UnreachableError: no answer, or still too busy after several tries.
            ToolError: the answer is not in OpenAI's protocol.
        """
        body = {"model": model, "messages": list(messages), **options}
        return _reply(self.post("/v1/chat/completions", body), self.url)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON answer to a POST; see `chat` for the errors."""
        import httpx

        for attempt in range(1, TRIES + 1):
            try:
                response = self._http.post(self.url + path, json=body)
            except httpx.HTTPError as error:
                problem: SlipwayError = UnreachableError(
                    "eval.unreachable",
                    tr("{url} does not answer: {reason}", url=self.url, reason=_why(error)),
                )
                pause = None
            else:
                if response.status_code == 200:
                    return _json(response)
                problem = _problem(response, self.url, self._key)
                if response.status_code not in _BUSY:
                    raise problem
                pause = _retry_after(response)
            if attempt == TRIES:
                raise problem
            self._sleep(pause if pause is not None else _backoff(attempt))
        raise AssertionError("unreachable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()


def _backoff(attempt: int) -> float:
    """Seconds: 1, 2, 4, ... with a random part, so that many threads do not come back at once."""
    return min(_LONGEST_PAUSE_S, 2.0 ** (attempt - 1)) * random.uniform(0.75, 1.25)


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return min(_LONGEST_PAUSE_S, max(0.0, float(response.headers["retry-after"])))
    except (KeyError, ValueError):
        return None


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        value = response.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _foreign(str(response.url))
    return value


def _foreign(url: str) -> ToolError:
    return ToolError(
        "eval.bad_answer",
        tr("{url} did not answer in OpenAI's protocol", url=url),
        tr("check the address; the gateway's is `http://127.0.0.1:3000` by default"),
    )


def _reply(body: Mapping[str, Any], url: str) -> Reply:
    usage = body.get("usage") or {}
    try:
        choice = body["choices"][0]
        text = choice["message"].get("content") or ""
        calls = choice["message"].get("tool_calls") or []
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _foreign(url) from error
    lines = [text] if text else []
    lines += [_call_text(call) for call in calls]
    return Reply(
        "\n".join(lines),
        str(choice.get("finish_reason") or ""),
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        choice,
    )


def _call_text(call: Mapping[str, Any]) -> str:
    import json

    function = call.get("function") or {}
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except ValueError:
        arguments = function.get("arguments")
    return json.dumps(
        {"name": function.get("name"), "arguments": arguments}, ensure_ascii=False, sort_keys=True
    )


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__


def _problem(response: httpx.Response, url: str, key: str) -> SlipwayError:
    try:
        error = response.json()["error"]
        said = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        said = response.text[:300].strip()
    if key:  # some servers repeat it
        said = said.replace(key, "***")
    status = response.status_code
    message = tr("{url} answers {status}: {said}", url=url, status=status, said=said or "-")
    if status in (401, 403):
        return AuthError("eval.key_refused", message, tr("check the key in `--key-env`"))
    if status == 404:
        return NotFoundError(
            "eval.no_model", message, tr("see its models with `curl {url}/v1/models`", url=url)
        )
    if status in (400, 413, 422):
        return RowRefusedError("eval.row_refused", message)
    return UnreachableError("eval.busy", message, tr("run the command again; it goes on"))


def each(items: Sequence[_T], work: Callable[[_T], None], *, at_once: int) -> None:
    """Do `work` for every item in threads; the first error ends the rest and is raised.

    The threads are daemons and are waited for in short steps, so that Ctrl-C ends the program at
    once, whatever a server does.
    """
    waiting, errors = iter(items), list[BaseException]()
    lock, stopped = threading.Lock(), threading.Event()

    def run() -> None:
        while not stopped.is_set() and not errors:
            with lock:
                item = next(waiting, None)
            if item is None:
                return
            try:
                work(item)
            except BaseException as error:  # told to the caller below
                errors.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in items[: max(1, at_once)]]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(_STEP_S)
    finally:
        stopped.set()
    if errors:
        raise errors[0]
