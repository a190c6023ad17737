"""HTTP requests that carry a secret, which no other host ever sees."""

from __future__ import annotations

import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from slipway import __version__

AGENT = {"User-Agent": f"slipway/{__version__}"}


def open_url(
    url: str,
    *,
    timeout_s: float,
    headers: Mapping[str, str] | None = None,
    secrets: Mapping[str, str] | None = None,
) -> Any:
    """A GET request's answer.

    Args:
        secrets: headers for the host of `url` alone: hubs send large files from another one, which
            must not get them (and refuses them).

    Raises:
        OSError, http.client.HTTPException: as `urllib.request.urlopen`.
    """
    request = urllib.request.Request(url, headers={**AGENT, **(headers or {})})
    for name, value in (secrets or {}).items():
        request.add_unredirected_header(name, value)
    return urllib.request.build_opener(_Redirects).open(request, timeout=timeout_s)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, *args: Any) -> urllib.request.Request | None:
        new = super().redirect_request(req, *args)
        if new is not None and _origin(new.full_url) == _origin(req.full_url):
            for name, value in req.unredirected_hdrs.items():
                if name != "Host":
                    new.add_unredirected_header(name, value)
        return new


def _origin(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc
