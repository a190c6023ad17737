"""HTTP with one registry: scheme, challenges, errors."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import httpx

from slipway.core.errors import (
    AuthError,
    InputError,
    NotFoundError,
    SlipwayError,
    UnreachableError,
    UsageError,
)
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.core.web import AGENT
from slipway.store.names import ModelName
from slipway.store.registry.credentials import VARIABLE, credentials_for
from slipway.store.registry.naming import registry_address, registry_name
from slipway.store.registry.rules import TransferRules

T = TypeVar("T")

_PAIR = re.compile(r'(\w+)="([^"]*)"')
_MOST_ANSWER_BYTES = 4 << 20


class Registry:
    """One model's place at its registry; use as a context manager. Threads may share it.

    Args:
        text: the name as the user wrote it; `http://` before it asks for plain HTTP.
        insecure: plain HTTP and certificates that nobody vouches for are accepted.

    Raises:
        UsageError: not a name, or plain HTTP without `insecure`.
    """

    def __init__(self, text: str, *, home: Home, insecure: bool, rules: TransferRules) -> None:
        text = registry_name(text)
        self.name = ModelName.parse(text)
        self._insecure = insecure
        scheme = "http" if text.strip().lower().startswith("http://") else "https"
        address = registry_address(scheme, self.name.host)
        self.base = f"{address}/v2/{self.name.namespace}/{self.name.model}/"
        self._credentials = credentials_for(urlsplit(address).netloc, home)
        self._authorization = self._credentials.bearer
        self._refuse_plain(urlsplit(address).scheme)
        self._client = httpx.Client(
            headers=AGENT,
            timeout=httpx.Timeout(rules.stall_s),
            verify=not insecure,
            follow_redirects=True,
            event_hooks={"request": [lambda request: self._refuse_plain(request.url.scheme)]},
        )

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *problem: Any) -> None:
        self._client.close()

    @contextmanager
    def open(self, method: str, path: str, **arguments: Any) -> Iterator[httpx.Response]:
        """A streamed answer; a challenge is answered once.

        Args:
            path: below the model's place, or a whole address that the registry named.

        Raises:
            SlipwayError: no answer, or one that is an error; see `check`.
        """
        url = urljoin(self.base, path)
        ours = _origin(url) == _origin(self.base)
        headers = arguments.pop("headers", {})
        try:
            for attempt in (1, 2):
                secret = (
                    {"Authorization": self._authorization} if ours and self._authorization else {}
                )
                with self._client.stream(
                    method, url, headers={**headers, **secret}, **arguments
                ) as answer:
                    if answer.status_code == 401 and ours and attempt == 1:
                        self._authorize(answer.headers.get("www-authenticate", ""))
                        continue
                    check(answer)
                    yield answer
                    return
        except httpx.HTTPError as error:
            raise unreachable(self.name.host, error) from error

    def call(self, method: str, path: str, **arguments: Any) -> tuple[httpx.Response, bytes]:
        """A short answer with its body."""
        with self.open(method, path, **arguments) as answer:
            body = b""
            for piece in answer.iter_raw():
                body += piece
                if len(body) > _MOST_ANSWER_BYTES:
                    raise InputError("registry.bad_answer", tr("the registry's answer is too long"))
            return answer, body

    def _refuse_plain(self, scheme: str) -> None:
        if scheme != "https" and not self._insecure:
            raise UsageError(
                "registry.insecure",
                tr("insecure protocol {scheme}", scheme=scheme),
                tr("repeat with `--insecure` if nobody else can reach that network"),
            )

    def _authorize(self, challenge: str) -> None:
        """Find the header that the challenge asks for.

        Raises:
            AuthError: nothing is known for this host, or its challenge leads to another one.
        """
        kind, _, rest = challenge.partition(" ")
        fields = dict(_PAIR.findall(rest))
        if kind.lower() == "basic" and self._credentials.basic:
            self._authorization = self._credentials.basic
        elif kind.lower() == "bearer" and fields.get("realm"):
            self._authorization = f"Bearer {self._token(fields)}"
        elif not self._authorization:
            raise _refused(self.name.host)

    def _token(self, fields: dict[str, str]) -> str:
        realm = fields["realm"]
        if _origin(realm) != _origin(self.base):
            raise AuthError(
                "registry.foreign_realm",
                tr(
                    "{host} sends us to {other} for a token, which is another host",
                    host=self.name.host,
                    other=urlsplit(realm).netloc,
                ),
            )
        query = {name: fields[name] for name in ("service", "scope") if fields.get(name)}
        headers = {"Authorization": self._credentials.basic} if self._credentials.basic else {}
        answer = self._client.get(realm, params=query, headers=headers)
        if answer.status_code in (401, 403):
            raise _refused(self.name.host)
        check(answer)
        try:
            value = answer.json()
            return str(value.get("token") or value["access_token"])
        except (ValueError, KeyError, AttributeError) as error:
            raise AuthError(
                "registry.no_token", tr("{host} gave no token", host=self.name.host)
            ) from error


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.netloc.lower()


def check(answer: httpx.Response) -> None:
    """Raise the error that an answer is.

    Raises:
        AuthError, NotFoundError: 401 and 403, 404.
        UnreachableError: 429 and 5xx, which may pass.
        InputError: any other one.
    """
    status = answer.status_code
    if status < 400:
        return
    host = answer.url.netloc.decode()
    if status in (401, 403):
        raise _refused(host)
    if status == 404:
        raise NotFoundError(
            "registry.not_found", tr("{host} has no {path}", host=host, path=answer.url.path)
        )
    if status == 429 or status >= 500:
        error = UnreachableError(
            "registry.busy", tr("{host} answers {status}", host=host, status=status)
        )
        error.retry_after_s = _seconds(answer.headers.get("retry-after", ""))  # type: ignore[attr-defined]
        raise error
    raise InputError("registry.refused", tr("{host} answers {status}", host=host, status=status))


def may_pass(error: SlipwayError) -> bool:
    """Whether a second attempt may succeed."""
    return isinstance(error, UnreachableError)


def again(rules: TransferRules, ask: Callable[[], T]) -> T:
    """Ask until it works, as often as the rules allow."""
    for attempt in range(1, rules.tries + 1):
        try:
            return ask()
        except SlipwayError as error:
            if not may_pass(error) or attempt == rules.tries:
                raise
            pause = rules.pause_s * 2 ** (attempt - 1)
            time.sleep(max(pause, getattr(error, "retry_after_s", 0.0)))
    raise AssertionError("the last attempt returns or raises")


def unreachable(host: str, error: Exception) -> UnreachableError:
    """The error for a connection that failed."""
    return UnreachableError(
        "registry.unreachable",
        tr("{host} cannot be reached: {reason}", host=host, reason=str(error) or repr(error)),
        tr("run the same command again: it goes on where it stopped"),
    )


def _refused(host: str) -> AuthError:
    return AuthError(
        "registry.unauthorized",
        tr("{host} does not let us in", host=host),
        tr("put its user and password, or its token, into {variable}", variable=VARIABLE),
    )


def _seconds(text: str) -> float:
    return min(float(text), 60.0) if text.isdigit() else 0.0
