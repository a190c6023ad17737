"""Which registry a name means: hubs have short forms."""

from __future__ import annotations

import re

_HUBS = {"hf": "hf.co", "ms": "modelscope.cn"}
_SHORT = re.compile(r"(hf|ms)://(?=[^/]+/[^/]+$)")


def registry_name(text: str) -> str:
    """The name with `hf://user/repo:quant` and `ms://user/repo:quant` written out.

    Both hubs speak the registry protocol for repositories with GGUF files; the tag is the quant.
    """
    text = text.strip()
    short = _SHORT.match(text)
    return f"{_HUBS[short[1]]}/{text[short.end() :]}" if short else text
