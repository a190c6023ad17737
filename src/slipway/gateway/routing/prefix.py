"""The hash of a prompt's beginning, by which a conversation finds back to its KV cache.

It covers what stays the same from one turn of a conversation to the next and comes first in the
prompt: the tools, the system messages that open it, and the first message after them; of all that
no more than a bound. So two turns have one hash, and two conversations under one system prompt
have two, unless the system prompt alone fills the bound. It is cheap, because it cuts before it
encodes. It is kept in memory only: who has the hash of a short prompt can guess the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

PREFIX_BYTES = 8192
# a plain prompt has no turns to cut at, and grows at its end
_PLAIN_CHARS = 1024
_OPENING_ROLES = ("system", "developer")
# an image's address is often the image itself
_PART_CHARS = 512
_MAX_PARTS = 64


def prefix_hash(
    body: Mapping[str, Any], limit: int = PREFIX_BYTES, salt: bytes = b""
) -> int | None:
    """A 64-bit hash of the beginning of a request's prompt; None where it has none.

    Reads the bodies of `/v1/chat/completions`, `/v1/completions`, `/v1/responses` and
    `/v1/messages`, and takes anything odd in them as it comes: a bad body is the upstream's to
    refuse.

    Args:
        limit: characters to look at, roughly.
        salt: what must keep apart otherwise equal prompts, such as the model.
    """
    digest = blake2b(digest_size=8, key=salt[:64])
    left, some = limit, False
    for text in _pieces(body):
        some = some or bool(text)
        digest.update(text[:left].encode("utf-8", "surrogatepass"))
        digest.update(b"\x00")
        left -= len(text)
        if left <= 0:
            break
    return int.from_bytes(digest.digest(), "big") if some else None


def _pieces(body: Mapping[str, Any]) -> Iterator[str]:
    tools = body.get("tools")
    if isinstance(tools, list):
        for tool in tools[:_MAX_PARTS]:
            yield _tool_name(tool)
    for name in ("system", "instructions"):
        if body.get(name):
            yield from _texts(body[name])
    messages = body.get("messages", body.get("input"))
    if isinstance(messages, list):
        yield from _opening(messages)
    else:
        plain = messages if isinstance(messages, str) else body.get("prompt")
        if isinstance(plain, str):
            yield plain[:_PLAIN_CHARS]


def _opening(messages: list[Any]) -> Iterator[str]:
    """The system messages at the start and the first message after them."""
    for message in messages[:_MAX_PARTS]:
        if not isinstance(message, dict):
            return
        role = message.get("role")
        yield str(role)
        yield from _texts(message.get("content"))
        if role not in _OPENING_ROLES:
            return


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content[:_MAX_PARTS]:
            yield from _part(part)


def _part(part: Any) -> Iterator[str]:
    if not isinstance(part, dict):
        return
    text = part.get("text")
    if isinstance(text, str):
        yield text
        return
    # a picture or sound: by its kind, its length and its beginning
    yield str(part.get("type"))
    for name in ("image_url", "source", "input_audio"):
        inner = part.get(name)
        values = inner.values() if isinstance(inner, dict) else (inner,)
        for value in values:
            if isinstance(value, str):
                yield f"{len(value)} {value[:_PART_CHARS]}"


def _tool_name(tool: Any) -> str:
    """A tool by its name and description: two sets of tools that agree in these are rare."""
    if not isinstance(tool, dict):
        return ""
    inner = tool.get("function", tool)
    if not isinstance(inner, dict):
        return ""
    return f"{inner.get('name')} {str(inner.get('description'))[:_PART_CHARS]}"
