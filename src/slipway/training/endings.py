"""How a run ends before its time: what is told of it, and as which error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from slipway.core.errors import ResourceError, SlipwayError, from_os_error
from slipway.core.events import EventLog
from slipway.core.i18n import tr
from slipway.training.folder import StopAsked
from slipway.training.spec import Resolved


def as_known(error: BaseException, resolved: Resolved, run_dir: Path) -> SlipwayError | None:
    """The error for the reader; None for a bug."""
    if isinstance(error, SlipwayError):
        return error
    if isinstance(error, OSError):
        return from_os_error(error, error.filename or run_dir)
    from slipway.training.memory import is_out_of_memory

    if not is_out_of_memory(error):
        return None
    return ResourceError(
        "train.out_of_memory",
        tr(
            "there is not enough memory for this model and {n} tokens at once",
            n=_at_once(resolved),
        ),
        tr("run it again with `pack_tokens={n}`", n=max(64, _at_once(resolved) // 2)),
    )


@contextmanager
def end_told(events: EventLog, resolved: Resolved, run_dir: Path) -> Iterator[None]:
    """Whatever ends the work of the block early stands in the run's events."""
    try:
        yield
    except StopAsked:
        events.emit("state", state="stopped")
        raise
    except KeyboardInterrupt:
        events.emit("state", state="interrupted")
        raise
    except Exception as error:
        known = as_known(error, resolved, run_dir)
        told = known.as_json() if known else {"code": "bug", "message": repr(error), "hint": ""}
        with suppress(SlipwayError):  # a full disk: the error itself says so
            events.emit("state", state="failed", **told)
        raise


def _at_once(resolved: Resolved) -> int:
    return min(resolved.spec.pack_tokens, resolved.spec.batch_tokens)
