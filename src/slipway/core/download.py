"""Fetch files over HTTP: resumed where a killed download stopped, refused unless the digest fits.

Package files are found by PyPI's simple API (PEP 691 JSON, PEP 503 HTML where a mirror has no
JSON). The index is SLIPWAY_PYPI_INDEX, else PIP_INDEX_URL, else pypi.org.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import IO, Any

from slipway.core.errors import (
    AuthError,
    InputError,
    NotFoundError,
    ProofError,
    SlipwayError,
    UnreachableError,
    from_os_error,
)
from slipway.core.files import locked, sha256_file
from slipway.core.i18n import tr
from slipway.core.web import open_url

DEFAULT_INDEX = "https://pypi.org/simple/"
_CHUNK_BYTES = 1 << 18
_ATTEMPTS = 4
_JSON_TYPE = "application/vnd.pypi.simple.v1+json"

OnBytes = Callable[[int, int | None], None]
"""Progress: bytes here so far (resumed ones included), bytes in all or None if unknown."""
_Ask = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on a package index.

    Attributes:
        url: where it is.
        sha256: the digest the index states, 64 hex digits.
        size: bytes, where the index states it.
    """

    filename: str
    url: str
    sha256: str
    size: int | None = None


def pypi_index() -> str:
    """The package index in use, with a trailing slash."""
    for name in ("SLIPWAY_PYPI_INDEX", "PIP_INDEX_URL"):
        if value := os.environ.get(name, "").strip():
            return value.rstrip("/") + "/"
    return DEFAULT_INDEX


def pypi_file(project: str, filename: str, *, timeout_s: float = 15.0) -> RemoteFile:
    """Look up one file of a project on the package index.

    Args:
        project: normalised project name, such as "llama-cpp-python".
        filename: the exact file, such as "llama_cpp_python-0.3.36.tar.gz".

    Raises:
        UnreachableError: the index does not answer.
        NotFoundError: the index has no such project or file.
    """
    page_url = f"{pypi_index()}{project}/"
    headers = {"Accept": f"{_JSON_TYPE}, text/html;q=0.2"}
    try:
        with open_url(page_url, timeout_s=timeout_s, headers=headers) as answer:
            body, final_url = answer.read(), answer.url
            kind = answer.headers.get_content_type()
    except (OSError, http.client.HTTPException) as error:
        raise failed(page_url, error) from error
    found = (_from_json if kind.endswith("json") else _from_html)(body, final_url, filename)
    if found is None:
        raise NotFoundError(
            "download.no_such_file",
            tr("{index} has no file {file}", index=page_url, file=filename),
            tr(
                "choose another index with SLIPWAY_PYPI_INDEX, for example {url}", url=DEFAULT_INDEX
            ),
        )
    return found


def _from_json(body: bytes, base: str, filename: str) -> RemoteFile | None:
    try:
        files: list[dict[str, Any]] = json.loads(body)["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            "download.bad_index", tr("{url} is not a package index page", url=base)
        ) from error
    for file in files:
        digest = file.get("hashes", {}).get("sha256")
        if file.get("filename") == filename and digest:
            url = urllib.parse.urljoin(base, file["url"])
            return RemoteFile(filename, url, digest, file.get("size"))
    return None


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _from_html(body: bytes, base: str, filename: str) -> RemoteFile | None:
    page = _Links()
    page.feed(body.decode("utf-8", "replace"))
    for link in page.links:
        url, _, fragment = urllib.parse.urljoin(base, link).partition("#")
        name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
        if name == filename and fragment.startswith("sha256="):
            return RemoteFile(filename, url, fragment.removeprefix("sha256="))
    return None


def download(
    url: str,
    dest: Path,
    *,
    sha256: str | None,
    size: int | None = None,
    on_progress: OnBytes | None = None,
    timeout_s: float = 20.0,
    secrets: Mapping[str, str] | None = None,
) -> Path:
    """Fetch `url` to `dest`, which appears only when its SHA-256 is right.

    Bytes gather in `<dest>.part`; a killed or broken download goes on from there. Two processes
    may ask for the same file: the second waits and finds it done.

    Args:
        sha256: the digest the file must have, 64 hex digits; None where nobody states one: then
            the size must be right, and a broken download begins anew.
        size: bytes expected, when known.
        timeout_s: longest silence of the server, seconds.
        secrets: headers for the server of `url` and no other; see `open_url`.

    Raises:
        UnreachableError: the server did not answer, or broke off several times in a row.
        NotFoundError: the server has no such file.
        AuthError: the server does not hand it out.
        ProofError: what arrived has another digest; nothing is kept.
        ResourceError: the disk is full.
    """
    part = dest.with_name(dest.name + ".part")
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        with locked(part):
            if dest.is_file() and _is_right(dest, sha256, size):
                return dest
            if sha256 is None:
                part.unlink(missing_ok=True)
            _fill(
                part,
                url,
                size,
                on_progress,
                partial(open_url, timeout_s=timeout_s, secrets=secrets),
            )
            if not _is_right(part, sha256, size):
                found = sha256_file(part)[:16] if sha256 else str(part.stat().st_size)
                part.unlink()
                raise _other_content(url, found, sha256, size)
            part.replace(dest)
    except OSError as error:
        raise from_os_error(error, dest) from error
    return dest


def _is_right(file: Path, sha256: str | None, size: int | None) -> bool:
    if sha256 is not None:
        return sha256_file(file) == sha256
    return size is None or file.stat().st_size == size


def _other_content(url: str, found: str, sha256: str | None, size: int | None) -> ProofError:
    hint = tr("run the command again; if it repeats, choose another mirror")
    if sha256 is None:
        message = tr(
            "{url} arrived with {found} bytes, not {wanted}", url=url, found=found, wanted=size
        )
        return ProofError("download.wrong_size", message, hint)
    return ProofError(
        "download.wrong_digest",
        tr(
            "{url} arrived with SHA-256 {found}, but {wanted} was expected",
            url=url,
            found=found,
            wanted=sha256[:16],
        ),
        hint,
    )


def _fill(part: Path, url: str, size: int | None, on_progress: OnBytes | None, ask: _Ask) -> None:
    """Bring `part` to its full length, going on after breaks as long as bytes keep coming."""
    failures = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        if size is not None and before >= size:
            return
        try:
            if _fetch_rest(part, url, before, on_progress, ask):
                return
            error: Exception = http.client.IncompleteRead(b"")
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as problem:
            error = problem
        except ConnectionError as problem:
            error = problem
        grown = part.is_file() and part.stat().st_size > before
        failures = 0 if grown else failures + 1
        client_fault = isinstance(error, urllib.error.HTTPError) and error.code < 500
        if client_fault or failures >= _ATTEMPTS:
            raise failed(url, error) from error
        time.sleep(0.2 * 2**failures)


def _fetch_rest(part: Path, url: str, offset: int, on_progress: OnBytes | None, ask: _Ask) -> bool:
    """One request for the bytes from `offset` on; whether the file is complete after it."""
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    try:
        answer = ask(url, headers=headers)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and offset:  # we hold all of it, or another file: the digest decides
            return True
        raise
    with answer:
        resumed = getattr(answer, "status", None) == 206
        done = offset if resumed else 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else None
        with part.open("ab" if resumed else "wb") as file:
            done = _copy(answer, file, done, total, on_progress)
    return total is None or done >= total


def _copy(
    source: IO[bytes], target: IO[bytes], done: int, total: int | None, on_progress: OnBytes | None
) -> int:
    while chunk := source.read(_CHUNK_BYTES):
        target.write(chunk)
        done += len(chunk)
        if on_progress:
            on_progress(done, total)
    return done


def failed(url: str, error: Exception) -> SlipwayError:
    """The error for a download that a server refused or broke off."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
    if isinstance(error, urllib.error.HTTPError) and error.code in (404, 410):
        return NotFoundError("download.not_found", tr("{url} does not exist", url=url))
    if isinstance(error, urllib.error.HTTPError) and error.code in (401, 403):
        return AuthError(
            "download.refused",
            tr("{url} is not handed out to everybody ({status})", url=url, status=error.code),
            tr("set HF_TOKEN or MODELSCOPE_API_TOKEN to a token of yours that may read it"),
        )
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return UnreachableError(
        "download.unreachable",
        tr("cannot fetch {url}: {reason}", url=url, reason=str(reason) or type(error).__name__),
        tr("check the network or the proxy (HTTPS_PROXY), or set a mirror, then run it again"),
    )
