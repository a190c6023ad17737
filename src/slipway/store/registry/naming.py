"""Which registry a name means: hubs have short forms."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from slipway.core.hubs import Hub, endpoint

_HUBS = {"hf": "hf.co", "ms": "modelscope.cn"}
_HOSTS: dict[str, Hub] = {
    "hf.co": "hf",
    "huggingface.co": "hf",
    "modelscope.cn": "ms",
    "www.modelscope.cn": "ms",
}
_SHORT = re.compile(r"(hf|ms)://(?=[^/]+/[^/]+$)")


def registry_name(text: str) -> str:
    """The name with `hf://user/repo:quant` and `ms://user/repo:quant` written out.

    Both hubs speak the registry protocol for repositories with GGUF files; the tag is the quant.
    """
    text = text.strip()
    short = _SHORT.match(text)
    return f"{_HUBS[short[1]]}/{text[short.end() :]}" if short else text


def registry_address(scheme: str, host: str) -> str:
    """Where a host is asked: itself, or the mirror that is set for a hub."""
    hub = _HOSTS.get(host.lower())
    if hub and urlsplit(endpoint(hub)).netloc not in _HOSTS:
        return endpoint(hub)
    return f"{scheme}://{host}"
