"""Feedback as rows of a dataset, checked; what is not taken is counted and named with its reason.

Rows go through the checks of `slipway.datasets`, so that what is written can be trained on.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import and_, select

from slipway.core.errors import InputError, UsageError
from slipway.core.i18n import tr
from slipway.gateway.clock import now_ms
from slipway.gateway.feedback.examples import Given, Reason, example_of
from slipway.gateway.feedback.share import most_per_user, over_share
from slipway.gateway.store import Store
from slipway.gateway.tables import captures, feedback, users


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to export.

    Attributes:
        preferences: pairs of answers instead of conversations.
        since_ms: feedback given since then, UTC milliseconds.
        min_score: from which an answer is learned as it is.
        min_quality: score of `slipway data check` below which a row is set aside.
        user_share: of the rows that one user may have at most; 1 for no limit.
        force: overwrite files that are there.
    """

    preferences: bool = False
    since_ms: int | None = None
    min_score: float = 1.0
    min_quality: int = 50
    user_share: float = 0.5
    force: bool = False


@dataclass(slots=True)
class Exported:
    """What came of it.

    Attributes:
        feedback: pieces looked at: `rows` and `left_out` together.
        quarantine: the file that names those left out; None when there are none.
        share_held: whether there were users enough for the share of one user to hold.
    """

    path: Path
    feedback: int = 0
    rows: int = 0
    left_out: Counter[Reason] = field(default_factory=Counter)
    quarantine: Path | None = None
    share_held: bool = True

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "file": str(self.path),
            "feedback": self.feedback,
            "rows": self.rows,
            "left_out": dict(self.left_out),
            "quarantine": str(self.quarantine) if self.quarantine else None,
            "share_held": self.share_held,
        }


@dataclass(slots=True)
class _Row:
    given: Given
    row: dict[str, Any] | None
    reason: Reason | None
    detail: str | None = None

    def leave(self, reason: Reason, detail: str | None = None) -> None:
        self.reason, self.detail = reason, detail


def export_feedback(store: Store, out: Path, options: ExportOptions | None = None) -> Exported:
    """Write feedback as a dataset, and beside it `NAME.quarantine.jsonl` with what was left out.

    Raises:
        UsageError: a share or a file's name that cannot be.
        InputError: no row is left; the quarantine file is written all the same.
        ConflictError: a file is there, and `force` is not set.
    """
    from slipway.datasets.row_files import check_writable

    options = options or ExportOptions()
    if not 0 < options.user_share <= 1:
        raise UsageError("gateway.bad_share", tr("a share is above 0 and at most 1"))
    if out.suffix != ".jsonl":
        raise UsageError("gateway.bad_export", tr("{path} must end with .jsonl", path=str(out)))
    beside = out.with_suffix(".quarantine.jsonl")
    for path in (out, beside):
        check_writable(path, force=options.force)
    done = Exported(out)
    rows = [_made(given, options) for given in _given(store, options.since_ms)]
    with tempfile.TemporaryDirectory(prefix="slipway-feedback-") as folder:
        _check(rows, Path(folder), options.min_quality)
        _without_copies(rows, Path(folder))
    done.share_held = _cap(rows, options.user_share)
    _write(rows, done, beside, force=options.force)
    return done


def _given(store: Store, since_ms: int | None) -> Iterator[Given]:
    """The newest first: of rows that are alike or too many, it stays."""
    kept = and_(captures.c.request_id == feedback.c.request_id, captures.c.expires_at > now_ms())
    query = (
        select(
            feedback.c.request_id,
            users.c.name,
            users.c.enabled,
            feedback.c.score,
            feedback.c.correction,
            captures.c.prompt,
            captures.c.answer,
            captures.c.finish,
        )
        .join(users, feedback.c.user_id == users.c.id)
        .outerjoin(captures, kept)
        .order_by(feedback.c.created_at.desc(), feedback.c.request_id)
    )
    if since_ms is not None:
        query = query.where(feedback.c.created_at >= since_ms)
    with store.read() as db:
        for row in db.execute(query):
            yield Given(*row)


def _made(given: Given, options: ExportOptions) -> _Row:
    row, reason = example_of(given, preferences=options.preferences, min_score=options.min_score)
    return _Row(given, row, reason)


def _kept(rows: list[_Row]) -> list[_Row]:
    return [row for row in rows if row.reason is None]


def _spool(rows: list[_Row], path: Path) -> None:
    path.write_bytes(b"".join(orjson.dumps(one.row) + b"\n" for one in rows))


def _check(rows: list[_Row], folder: Path, min_quality: int) -> None:
    """Set aside what `slipway data check` cannot read, or scores low."""
    from slipway.datasets import CheckOptions, check_dataset

    waiting = _kept(rows)
    if not waiting:
        return
    path = folder / "rows.jsonl"
    _spool(waiting, path)
    by_id = {one.given.request_id: one for one in waiting}

    def told(line: bytes) -> None:
        value = orjson.loads(line)
        if bad := value.get("skipped"):
            detail = f"`{bad['field']}` {bad['reason']}"
            waiting[bad["line"] - 1].leave("unreadable", detail)
        elif value["score"] < min_quality:
            why = ", ".join(value["reasons"])
            by_id[value["id"]].leave("low_quality", f"{value['score']}: {why}")

    check_dataset(path, CheckOptions(write=told))


def _without_copies(rows: list[_Row], folder: Path) -> None:
    """Set aside rows that are the same as a better one, or nearly."""
    from slipway.datasets import DataSource
    from slipway.datasets.derive import DedupeOptions, Out, dedupe_dataset

    waiting = _kept(rows)
    if not waiting:
        return
    path, removed = folder / "checked.jsonl", folder / "removed.jsonl"
    _spool(waiting, path)
    source, out = DataSource(path=str(path)), Out(folder / "unlike.jsonl")
    dedupe_dataset(source, out, DedupeOptions(removed=removed))
    by_id = {one.given.request_id: one for one in waiting}
    for line in removed.read_bytes().splitlines():
        gone = orjson.loads(line)
        kept = waiting[int(gone["kept"].rpartition(":")[2]) - 1].given.request_id
        why: Reason = "same" if gone["why"] == "same" else "near"
        by_id[gone["id"]].leave(why, f"{kept} ({gone['similarity']})")


def _cap(rows: list[_Row], share: float) -> bool:
    """Set aside what a user has too many of; False when there are too few users for that."""
    kept = _kept(rows)
    names = [one.given.user for one in kept]
    most = most_per_user(Counter(names), share)
    if most is None:
        return not kept
    for position in over_share(names, most):
        kept[position].leave("user_share", f"{most}")
    return True


def _write(rows: list[_Row], done: Exported, beside: Path, *, force: bool) -> None:
    from slipway.datasets.row_files import row_file

    kept = _kept(rows)
    done.feedback, done.rows = len(rows), len(kept)
    if len(kept) < len(rows):
        done.quarantine = beside
        with row_file(beside, force=force) as writer:
            for one in rows:
                if one.reason is not None:
                    done.left_out[one.reason] += 1
                    writer.write(_named(one))
    if not kept:
        why = ", ".join(f"{reason} {count}" for reason, count in done.left_out.most_common())
        raise InputError(
            "gateway.nothing_to_export",
            tr("no feedback gives a row ({why})", why=why or tr("there is none")),
            tr("see docs/feedback.md for what each reason means"),
        )
    with row_file(done.path, force=force) as writer:
        for one in kept:
            assert one.row is not None
            writer.write(one.row)


def _named(one: _Row) -> dict[str, Any]:
    return {
        "id": one.given.request_id,
        "user": one.given.user,
        "reason": one.reason,
        "detail": one.detail,
        "row": one.row,
    }
