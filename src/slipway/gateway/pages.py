"""The chat page at `/`: files of this package, served as they are."""

from __future__ import annotations

import hashlib
import mimetypes
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FOLDER = Path(__file__).with_name("page")
_FILES = ("chat.css", "chat.js", "api.js", "strings.js", "icon.svg")
# nothing from elsewhere, nothing inline, nobody may frame the page
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
        "object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def page_routes() -> list[Route]:
    """The page and its files."""
    return [
        Route("/", _index),
        *(Route(f"/page/{name}", _file, name=name) for name in _FILES),
    ]


def preferred_language(accept: str) -> str:
    """`zh` or `en`, as an Accept-Language header ranks them; `en` when it names neither."""
    ranked: list[tuple[float, int, str]] = []
    for position, part in enumerate(accept.split(",")):
        tag, _, options = part.strip().lower().partition(";")
        quality = options.strip().removeprefix("q=")
        try:
            weight = float(quality) if quality else 1.0
        except ValueError:
            continue
        language = tag.split("-")[0]
        if language in ("zh", "en") and weight > 0:
            ranked.append((-weight, position, language))
    return min(ranked)[2] if ranked else "en"


async def _index(request: Request) -> Response:
    language = preferred_language(request.headers.get("accept-language", ""))
    html = _read("index.html").replace(b'<html lang="en">', f'<html lang="{language}">'.encode())
    return Response(html, media_type="text/html", headers={**_HEADERS, "Vary": "Accept-Language"})


async def _file(request: Request) -> Response:
    name = request.scope["route"].name
    content = _read(name)
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {**_HEADERS, "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0]
    return Response(content, media_type=kind, headers=headers)


@cache
def _read(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()
