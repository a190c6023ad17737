"""`POST /v1/feedback`: what the user of a request thinks of its answer."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import orjson
from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert
from starlette.requests import ClientDisconnect, Request

from slipway.gateway.accounts import authenticate
from slipway.gateway.clock import now_ms, to_rfc3339
from slipway.gateway.problems import ApiError, bad_request, body_too_large
from slipway.gateway.store import Store
from slipway.gateway.tables import captures, feedback, requests, users

MAX_BODY = 256 * 1024
_LENGTHS = {"label": 64, "comment": 8_000, "correction": 100_000}
_FIELDS = ("request_id", "score", *_LENGTHS)


@dataclass(frozen=True, slots=True)
class Feedback:
    """One user's word on one answer.

    Attributes:
        score: -1 (bad) to 1 (good), or any other scale that the operator agreed with users.
        label: a word of the operator's, such as `wrong_tool`.
        correction: what the answer should have been.
    """

    request_id: str
    score: float | None = None
    label: str | None = None
    comment: str | None = None
    correction: str | None = None


async def read_feedback(request: Request) -> Feedback:
    """The body of a request.

    Raises:
        ApiError: 400 naming the field that is wrong, 413 for a body that is too large.
    """
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                raise body_too_large(MAX_BODY)
    except ClientDisconnect as error:
        raise bad_request("The body is not whole.") from error
    return parse_feedback(bytes(body))


def parse_feedback(raw: bytes) -> Feedback:
    """Read JSON; see `read_feedback` for what is raised."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"The body is not JSON: {error}.", code="invalid_json") from error
    if not isinstance(value, dict):
        raise bad_request("The body must be a JSON object.", code="invalid_json")
    for name in value:
        if name not in _FIELDS:
            known = ", ".join(_FIELDS)
            raise bad_request(f"There is no field `{name}`; fields: {known}.", param=name)
    request_id = value.get("request_id")
    if not isinstance(request_id, str) or not request_id:
        raise bad_request("`request_id` is missing or no string.", param="request_id")
    texts = {name: _text(value, name, most) for name, most in _LENGTHS.items()}
    given = Feedback(request_id, _score(value.get("score")), **texts)
    if all(value is None for name, value in asdict(given).items() if name != "request_id"):
        raise bad_request("Give at least one of score, label, comment, correction.")
    return given


def _score(value: Any) -> float | None:
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or abs(value) > 1_000:
        raise bad_request("`score` must be a number from -1000 to 1000.", param="score")
    return float(value)


def _text(value: dict[str, Any], name: str, most: int) -> str | None:
    text = value.get(name)
    if text is None:
        return None
    if not isinstance(text, str) or not text.strip():
        raise bad_request(f"`{name}` must be a text that is not empty.", param=name)
    if len(text) > most:
        raise bad_request(f"`{name}` is longer than {most} characters.", param=name)
    return text


def save_feedback(store: Store, key: str | None, given: Feedback) -> dict[str, Any]:
    """Write feedback in place of earlier feedback of the same user on the same request.

    Raises:
        ApiError: 401 for a wrong key; 404 when the user made no such request, whether or not
            somebody else did.
    """
    from slipway.gateway.filter import mask_personal

    at = now_ms()
    values: dict[str, Any] = asdict(given)
    for name in _LENGTHS:
        if values[name] is not None:
            values[name] = mask_personal(values[name])
    with store.read() as db:
        user = authenticate(db, key, at).user_id
        own = select(requests.c.request_id).where(
            requests.c.request_id == given.request_id, requests.c.user_id == user
        )
        if db.execute(own).first() is None:
            raise ApiError(
                404,
                "request_not_found",
                "You made no request with this id; it is in the header `x-request-id`.",
                param="request_id",
            )
    values |= {"user_id": user, "created_at": at}
    changed = {name: item for name, item in values.items() if name not in ("request_id", "user_id")}
    write = insert(feedback).values(values)
    with store.write(catalogue=False) as db:
        db.execute(write.on_conflict_do_update(["request_id", "user_id"], set_=changed))
    return {"object": "feedback", **asdict(given), "created_at": at // 1000}


def list_feedback(store: Store, limit: int = 50) -> list[dict[str, Any]]:
    """The newest feedback first; `captured` says whether prompt and answer are kept."""
    names = ("request_id", "score", "label", "comment", "correction", "created_at")
    columns: list[Any] = [
        *(feedback.c[name] for name in names),
        users.c.name.label("user"),
        requests.c.model,
        captures.c.request_id.is_not(None).label("captured"),
    ]
    query = (
        select(*columns)
        .join(users, feedback.c.user_id == users.c.id)
        .outerjoin(requests, feedback.c.request_id == requests.c.request_id)
        .outerjoin(captures, feedback.c.request_id == captures.c.request_id)
        .order_by(feedback.c.created_at.desc(), feedback.c.request_id)
        .limit(limit)
    )
    with store.read() as db:
        rows = [dict(row._mapping) for row in db.execute(query)]
    for row in rows:
        row["created_at"] = to_rfc3339(row["created_at"])
    return rows
