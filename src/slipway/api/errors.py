"""Errors over HTTP: one table for status and type, one shape for each face."""

from __future__ import annotations

from typing import Any

from slipway.api.context import current
from slipway.core.errors import SlipwayError
from slipway.core.i18n import Text

CLIENT_CLOSED = 499

_OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def status_of(error: SlipwayError) -> int:
    """The HTTP status of an error."""
    return error.http_status


def ollama_error(error: SlipwayError) -> dict[str, Any]:
    """`{"error": message}` as Ollama's clients read it, with code and hint beside it.

    A reader whose `Accept-Language` begins with `zh` has both in Chinese, too, under `local`.
    """
    body: dict[str, Any] = {"error": error.message_en, "code": error.code}
    if error.hint_en:
        body["hint"] = error.hint_en
    if current().chinese:
        body["local"] = {"error": _chinese(error.message), "hint": _chinese(error.hint)}
    return body


def _chinese(sentence: Text | str) -> str:
    return sentence.in_language("zh") if isinstance(sentence, Text) else sentence


def openai_error(error: SlipwayError, *, param: str | None = None) -> dict[str, Any]:
    """`{"error": {message, type, param, code}}` as OpenAI's clients read it."""
    kind = _OPENAI_TYPES.get(error.http_status, "api_error")
    body: dict[str, Any] = {
        "message": error.message_en,
        "type": kind,
        "param": param,
        "code": error.code,
    }
    if error.hint_en:
        body["hint"] = error.hint_en
    return {"error": body}


def anthropic_error(error: SlipwayError, request_id: str = "") -> dict[str, Any]:
    """`{"type": "error", "error": {type, message}}` as Anthropic's clients read it."""
    status = error.http_status
    kind = "overloaded_error" if status == 503 else _OPENAI_TYPES.get(status, "api_error")
    inner: dict[str, Any] = {"type": kind, "message": error.message_en, "code": error.code}
    if error.hint_en:
        inner["hint"] = error.hint_en
    return {"type": "error", "error": inner, "request_id": request_id}


def body_for(path: str, error: SlipwayError) -> dict[str, Any]:
    """The body in the shape of the face that `path` belongs to."""
    if path.startswith("/v1/messages"):
        return anthropic_error(error, current().id)
    return openai_error(error) if path.startswith("/v1") else ollama_error(error)
