"""ModelScope and Hugging Face by their plain HTTP APIs: what files a model has, and where.

Hugging Face: `GET /api/models/{id}` gives the commit, `GET /api/models/{id}/tree/{commit}` the
files (LFS files with SHA-256, others with the SHA-1 of the git blob), and
`GET /{id}/resolve/{commit}/{path}` a file. https://huggingface.co/docs/hub/api
ModelScope: `GET /api/v1/models/{id}/repo/files?Revision=master&Recursive=true` gives the files
with SHA-256, `GET /api/v1/models/{id}/repo?Revision=master&FilePath={path}` a file.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from slipway import __version__
from slipway.core.errors import (
    AuthError,
    InputError,
    NotFoundError,
    SlipwayError,
    UnreachableError,
)
from slipway.core.i18n import tr

Hub = Literal["ms", "hf"]
HUB_NAMES: dict[Hub, str] = {"ms": "ModelScope", "hf": "Hugging Face"}
_ENDPOINT_VARIABLES: dict[Hub, tuple[str, ...]] = {
    "ms": ("SLIPWAY_MS_ENDPOINT",),
    "hf": ("SLIPWAY_HF_ENDPOINT", "HF_ENDPOINT"),
}
_ENDPOINTS: dict[Hub, str] = {"ms": "https://www.modelscope.cn", "hf": "https://huggingface.co"}
_MAX_PAGES = 50
_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file on a hub; one of the digests is set, or neither where the hub states none.

    Attributes:
        git_sha1: SHA-1 of the git blob, as Hugging Face states it for small files.
    """

    path: str
    size: int
    url: str
    sha256: str = ""
    git_sha1: str = ""


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model on a hub at one revision."""

    hub: Hub
    id: str
    revision: str
    url: str
    files: tuple[HubFile, ...]


def endpoint(hub: Hub) -> str:
    """The hub's address without a trailing slash; mirrors are set by SLIPWAY_HF_ENDPOINT
    (or HF_ENDPOINT) and SLIPWAY_MS_ENDPOINT.
    """
    for name in _ENDPOINT_VARIABLES[hub]:
        if value := os.environ.get(name, "").strip():
            return value.rstrip("/")
    return _ENDPOINTS[hub]


def read_model(hub: Hub, model_id: str, *, timeout_s: float = 15.0) -> HubModel:
    """The files of a model.

    Raises:
        UnreachableError: the hub does not answer, or not as a hub does.
        NotFoundError: it has no such model.
        AuthError: the model is gated or private.
    """
    read = _read_hf if hub == "hf" else _read_ms
    try:
        return read(model_id, timeout_s)
    except (KeyError, TypeError, ValueError) as error:
        raise UnreachableError(
            "pull.strange_answer",
            tr(
                "{hub} at {url} did not answer as a hub does", hub=HUB_NAMES[hub], url=endpoint(hub)
            ),
            tr("check the mirror in SLIPWAY_HF_ENDPOINT or SLIPWAY_MS_ENDPOINT"),
        ) from error


def _read_hf(model_id: str, timeout_s: float) -> HubModel:
    root = endpoint("hf")
    info, _ = fetch_json(f"{root}/api/models/{_quote(model_id)}", "hf", model_id, timeout_s)
    revision = str(info["sha"])
    files = []
    for entry in _hf_tree(root, model_id, revision, timeout_s):
        if entry["type"] != "file":
            continue
        path, lfs = safe_path(entry["path"]), entry.get("lfs") or {}
        files.append(
            HubFile(
                path=path,
                size=int(lfs.get("size", entry["size"])),
                url=f"{root}/{_quote(model_id)}/resolve/{revision}/{_quote(path)}",
                sha256=str(lfs.get("oid", "")),
                git_sha1="" if lfs else str(entry.get("oid", "")),
            )
        )
    return HubModel("hf", model_id, revision, f"{root}/{model_id}", tuple(files))


def _hf_tree(root: str, model_id: str, revision: str, timeout_s: float) -> Iterator[dict[str, Any]]:
    url = f"{root}/api/models/{_quote(model_id)}/tree/{revision}?recursive=true"
    for _ in range(_MAX_PAGES):
        entries, link = fetch_json(url, "hf", model_id, timeout_s)
        yield from entries
        following = [part for part in link.split(",") if 'rel="next"' in part]
        if not following:
            return
        url = urllib.parse.urljoin(url, following[0].split(";")[0].strip(" <>"))


def _read_ms(model_id: str, timeout_s: float) -> HubModel:
    root = endpoint("ms")
    api = f"{root}/api/v1/models/{_quote(model_id)}/repo"
    answer, _ = fetch_json(f"{api}/files?Revision=master&Recursive=true", "ms", model_id, timeout_s)
    files = []
    for entry in answer["Data"]["Files"]:
        if entry.get("Type") == "tree":
            continue
        path = safe_path(entry["Path"])
        query = urllib.parse.urlencode({"Revision": "master", "FilePath": path})
        url = f"{api}?{query}"
        files.append(HubFile(path, int(entry["Size"]), url, sha256=str(entry.get("Sha256") or "")))
    return HubModel("ms", model_id, "master", f"{root}/models/{model_id}", tuple(files))


def safe_path(path: str) -> str:
    """A relative path that stays inside the model folder.

    Raises:
        InputError: the hub names a file outside of it.
    """
    parts = path.split("/")
    if path.startswith("/") or "\\" in path or any(part in ("", ".", "..") for part in parts):
        raise InputError("pull.bad_path", tr("the hub names a file `{path}`", path=path))
    return path


def fetch_json(url: str, hub: Hub, model_id: str, timeout_s: float) -> tuple[Any, str]:
    """A JSON answer and its Link header."""
    request = urllib.request.Request(url, headers=AGENT)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return json.loads(answer.read()), answer.headers.get("Link", "")
    except urllib.error.HTTPError as error:
        raise _refused(error, hub, model_id) from error
    except (OSError, http.client.HTTPException) as error:
        raise _silent(url, error) from error


def fetch_bytes(url: str, *, limit: int, timeout_s: float = 20.0) -> bytes:
    """A small file in one request, tried again when the connection breaks.

    Raises:
        UnreachableError: the server does not answer, breaks off each time, or sends more than
            `limit` bytes.
    """
    problem: Exception | None = None
    for attempt in range(_ATTEMPTS):
        time.sleep(0.2 * attempt)
        request = urllib.request.Request(url, headers=AGENT)
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                data: bytes = answer.read(limit + 1)
            if len(data) <= limit:
                return data
            problem = ValueError(f"more than {limit} bytes")
        except (OSError, http.client.HTTPException) as error:
            problem = error
    assert problem is not None
    raise _silent(url, problem) from problem


def _silent(url: str, error: Exception) -> UnreachableError:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return UnreachableError(
        "pull.unreachable",
        tr("no answer from {url}: {reason}", url=url, reason=str(reason) or type(error).__name__),
        tr(
            "check the network, set a mirror (SLIPWAY_HF_ENDPOINT, SLIPWAY_MS_ENDPOINT), "
            "or use `slipway pull starter`"
        ),
    )


def _refused(error: urllib.error.HTTPError, hub: Hub, model_id: str) -> SlipwayError:
    name = HUB_NAMES[hub]
    if error.code in (401, 403):
        # Hugging Face answers 401 for a model that does not exist, too
        return AuthError(
            "pull.gated",
            tr(
                "{hub} does not hand out {model}: it is gated, private, or unknown",
                hub=name,
                model=model_id,
            ),
            tr("check the name, or fetch it with a browser and run `slipway pull FOLDER`"),
        )
    if error.code == 404:
        return NotFoundError(
            "pull.no_such_model",
            tr("{hub} has no model {model}", hub=name, model=model_id),
            tr("check organisation and name on the hub's page"),
        )
    return UnreachableError(
        "pull.hub_error",
        tr("{hub} answered {status} for {model}", hub=name, status=error.code, model=model_id),
        tr("try again later, or use `slipway pull starter`"),
    )


def _quote(path: str) -> str:
    return urllib.parse.quote(path, safe="/")


AGENT = {"User-Agent": f"slipway/{__version__}"}
