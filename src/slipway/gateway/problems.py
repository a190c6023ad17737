"""What a caller of the API is told when a request is refused or fails: OpenAI's error object.

The messages are part of the protocol and so English. Statuses: 400 bad request, 401 no valid key,
403 the key may not do this (model, user, money), 404 no such model or path, 405, 413 body too
large, 429 too many requests, 502 the upstream failed, 503 the gateway's database is busy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson


class ApiError(Exception):
    """A request that ends with an error answer.

    Args:
        code: stable identifier in `error.code`.
        type: OpenAI's coarse class; by default derived from the status.
        param: the request field that is wrong, if one is.
        headers: extra answer headers, such as Retry-After.
    """

    def __init__(
        self,
        status: int,
        code: str | None,
        message: str,
        *,
        type: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.type = type or _type_of(status)
        self.param = param
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """The error as the JSON that goes over the wire."""
        return orjson.dumps(self.as_json())

    def as_json(self) -> dict[str, Any]:
        """`{"error": {message, type, param, code}}`."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


def _type_of(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 403:
        return "permission_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def invalid_key(reason: str) -> ApiError:
    """401: the key is missing, unknown, expired or revoked."""
    return ApiError(
        401, "invalid_api_key", reason, headers={"WWW-Authenticate": 'Bearer realm="slipway"'}
    )


def model_not_found(model: str) -> ApiError:
    """404: no enabled channel has the model."""
    return ApiError(
        404,
        "model_not_found",
        f"The model `{model}` does not exist; GET /v1/models lists those that do.",
        param="model",
    )


def model_not_allowed(model: str) -> ApiError:
    """403: the key is limited to other models."""
    return ApiError(
        403, "model_not_allowed", f"This key may not use the model `{model}`.", param="model"
    )


def insufficient_quota(needed_micro: int, left_micro: int) -> ApiError:
    """403: the key's budget does not cover what the request may cost at most."""
    return ApiError(
        403,
        "insufficient_quota",
        f"This key's budget is too small: the request may cost up to {needed_micro / 1e6:.6f}, "
        f"{max(0, left_micro) / 1e6:.6f} is left. A smaller max_tokens lowers what is reserved.",
        type="insufficient_quota",
    )


def budget_spent(scope: str, period: str, needed_micro: int, left_micro: int) -> ApiError:
    """403: a budget of a day, a month or in all does not cover what the request may cost."""
    whose = {"token": "key", "user": "user", "group": "group", "model": "model"}[scope]
    return ApiError(
        403,
        "insufficient_quota",
        f"The budget of this {whose} for {period} is too small: the request may cost up to "
        f"{needed_micro / 1e6:.6f}, {max(0, left_micro) / 1e6:.6f} is left.",
        type="insufficient_quota",
    )


def network_refused() -> ApiError:
    """403: the key may not be used from the caller's address."""
    return ApiError(403, "network_not_allowed", "This key may not be used from this address.")


def admins_only() -> ApiError:
    """403: the key's user is no administrator."""
    return ApiError(403, "admins_only", "Only an administrator's key may ask this.")


def bad_request(message: str, param: str | None = None, code: str = "invalid_request") -> ApiError:
    """400: the body cannot be used."""
    return ApiError(400, code, message, param=param)


def body_too_large(limit_bytes: int) -> ApiError:
    """413: the body exceeds the limit; the connection is closed, the rest is not read."""
    return ApiError(
        413,
        "request_too_large",
        f"The request body is larger than {limit_bytes} bytes.",
        headers={"Connection": "close"},
    )


def no_channel(model: str, come_back_s: float | None, *, limited: bool) -> ApiError:
    """503: every channel of the model is out of order at the moment; none was asked.

    Args:
        limited: they are not broken, they were asked too much: 429.
    """
    seconds = max(1, math.ceil(come_back_s)) if come_back_s is not None else 5
    return ApiError(
        429 if limited else 503,
        "no_channel",
        f"No channel for the model `{model}` can be used now. Try again in {seconds} s.",
        headers={"Retry-After": str(seconds)},
    )


def upstream_unreachable(channels: int) -> ApiError:
    """502: no channel of the model could be connected to."""
    tried = "its channel" if channels == 1 else f"any of its {channels} channels"
    return ApiError(
        502, "upstream_unreachable", f"The model's server did not answer ({tried} was tried)."
    )
