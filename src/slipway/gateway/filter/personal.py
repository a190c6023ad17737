"""Personal data and secrets masked in what goes to logs and captures.

Personal data is found by `slipway.datasets.personal` (numbers prove themselves by check digits);
here full-width digits are read too, and keys of services are added.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from slipway.datasets.personal import PLACEHOLDERS, USUAL, PersonalKind, find_personal

MAX_DEPTH = 64
"""Levels of a body that are looked at; what lies deeper is replaced as a whole."""

# full-width forms U+FF01 to U+FF5E stand in the order of ASCII
_NARROW = {0xFF01 + n: 0x21 + n for n in range(0x5E)}
_NAMES = frozenset({"role", "type", "model", "object", "finish_reason", "stop_reason"})
"""Fields whose texts are words of the protocol."""

_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?:(?!-----)[\s\S]){0,20000}"
    r"(?:-----END [A-Z ]{0,30}PRIVATE KEY-----)?"
    r"|(?<![A-Za-z0-9])(?:"
    r"sk-[A-Za-z0-9_\-]{16,}"  # OpenAI, Anthropic, DeepSeek, One-API and ours
    r"|(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,128}"  # Stripe
    r"|gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{40,255}"
    r"|glpat-[A-Za-z0-9_\-]{20,64}"
    r"|hf_[A-Za-z0-9]{30,64}"
    r"|AIza[A-Za-z0-9_\-]{35}"  # Google
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}"  # Amazon
    r"|LTAI[A-Za-z0-9]{12,24}|AKID[A-Za-z0-9]{32}"  # Alibaba Cloud, Tencent Cloud
    r"|xox[abeoprs]-[A-Za-z0-9\-]{10,250}"  # Slack
    r"|eyJ[A-Za-z0-9_\-]{8,4096}\.eyJ[A-Za-z0-9_\-]{4,8192}\.[A-Za-z0-9_\-]{16,2048}"  # JWT
    r")(?![A-Za-z0-9])"
    r"|(?i:(?<![a-z])bearer +)(?P<bearer>[A-Za-z0-9._~+/\-]{16,4096}=*)",
    re.ASCII,
)
_ASK_KEY = re.compile(
    r"sk-|[srp]k_|gh[pousr]_|github_pat_|glpat-|hf_|AIza|AKIA|ASIA|LTAI|AKID|xox|eyJ|PRIVATE KEY"
    r"|(?i:bearer)"
)


def mask_personal(text: str, kinds: Collection[PersonalKind] = USUAL) -> str:
    """A text with `[EMAIL]`, `[MOBILE]`, `[ID_CARD]`, `[BANK_CARD]`, `[KEY]` … for what it held.

    Args:
        kinds: of personal data; keys are always masked.
    """
    if _ASK_KEY.search(text):
        text = _KEY.sub(_without_key, text)
    found = find_personal(text if text.isascii() else text.translate(_NARROW), kinds)
    if not found:
        return text
    parts: list[str] = []
    at = 0
    for one in found:
        parts += [text[at : one.start], f"[{PLACEHOLDERS[one.kind]}]"]
        at = one.end
    return "".join([*parts, text[at:]])


def _without_key(match: re.Match[str]) -> str:
    bearer = match.group("bearer")
    return match.group().replace(bearer, "[KEY]") if bearer else "[KEY]"


def mask_body(value: Any, kinds: Collection[PersonalKind] = USUAL) -> Any:
    """A JSON value with every text masked; names of fields stay unless they are personal data.

    A number that is personal data becomes its placeholder. The value itself is not changed.
    """
    return _masked(value, kinds, 0)


def _masked(value: Any, kinds: Collection[PersonalKind], depth: int) -> Any:
    if isinstance(value, str):
        return mask_personal(value, kinds)
    if depth >= MAX_DEPTH and isinstance(value, dict | list):
        return "[DEEP]"
    if isinstance(value, dict):
        return {
            mask_personal(key, kinds): item
            if key in _NAMES and isinstance(item, str)
            else _masked(item, kinds, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_masked(item, kinds, depth + 1) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**9:
        masked = mask_personal(str(value), kinds)
        return value if masked == str(value) else masked
    return value
