"""Captures in the database: masked before they are written, removed when their time is over."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy import delete, select

from slipway.gateway.clock import now_ms
from slipway.gateway.feedback.answer import read_answer
from slipway.gateway.store import Store
from slipway.gateway.tables import captures, feedback

DAY_MS = 86_400_000
_CHUNK = 500


def save_capture(
    store: Store,
    *,
    request_id: str,
    user_id: int,
    model: str,
    asked: dict[str, Any],
    answer: bytes,
    created_at: int,
    days: int,
) -> bool:
    """Mask prompt and answer and write them; False when the answer holds none.

    Args:
        asked: the request's body.
        answer: the answer's bytes, whole or streamed.
        days: after which it is removed.
    """
    from slipway.gateway.filter import mask_body

    said = read_answer(answer)
    if said is None:
        return False
    row = {
        "request_id": request_id,
        "user_id": user_id,
        "model": model,
        "prompt": orjson.dumps(mask_body(_prompt_of(asked))),
        "answer": orjson.dumps(mask_body(said.turn())),
        "finish": said.finish,
        "created_at": created_at,
        "expires_at": created_at + days * DAY_MS,
    }
    with store.write(catalogue=False) as db:
        db.execute(captures.insert(), row)
    return True


def _prompt_of(asked: dict[str, Any]) -> dict[str, Any]:
    if "messages" not in asked:
        return {"messages": [{"role": "user", "content": asked.get("prompt")}]}
    return {key: asked[key] for key in ("messages", "tools") if asked.get(key)}


def purge_expired(store: Store, at_ms: int | None = None) -> int:
    """Remove captures whose time is over, in chunks that keep nobody waiting; gives their number.

    Args:
        at_ms: UTC milliseconds; None for now.
    """
    return _purge(store, captures, captures.c.expires_at <= (now_ms() if at_ms is None else at_ms))


def forget_user(store: Store, user_id: int) -> dict[str, int]:
    """Remove all captures and feedback of a user."""
    return {
        "captures": _purge(store, captures, captures.c.user_id == user_id),
        "feedback": _purge(store, feedback, feedback.c.user_id == user_id),
    }


def _purge(store: Store, table: Any, condition: Any) -> int:
    chosen = select(table.c.request_id).where(condition).limit(_CHUNK).scalar_subquery()
    total = 0
    while True:
        with store.write(catalogue=False) as db:
            # else the texts stay in the file's free pages
            db.exec_driver_sql("PRAGMA secure_delete = ON")
            gone = db.execute(
                delete(table).where(condition, table.c.request_id.in_(chosen))
            ).rowcount
        total += gone
        if gone < _CHUNK:
            return total
