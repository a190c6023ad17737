"""`slipway gateway feedback`: what users think of answers, consent, and rows to learn from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from slipway.cli.commands.gateway_common import json_option, opened
from slipway.cli.output import note, print_json, print_table
from slipway.core.errors import UsageError
from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.gateway.feedback.consent import Consent

F = TypeVar("F", bound=Callable[..., Any])
_HEAD = 60


def capture_options(command: F) -> F:
    """Options by which a token gets consent; give what they hold to `consent_from`."""
    for option in (
        click.option("--capture-kib", type=int, help=str(tr("Largest prompt and answer in KiB."))),
        click.option(
            "--capture-days", type=int, help=str(tr("Days after which they are removed."))
        ),
        click.option(
            "--capture-share",
            type=int,
            help=str(tr("Share of requests in basis points (of 10000).")),
        ),
        click.option(
            "--capture",
            type=click.Choice(["off", "on"]),
            default="off",
            show_default=True,
            help=str(tr("Keep prompts and answers, masked; the user must have consented.")),
        ),
    ):
        command = option(command)
    return command


def consent_from(
    capture: str,
    capture_share: int | None,
    capture_days: int | None,
    capture_kib: int | None,
) -> Consent | None:
    """The consent that options give; None for off."""
    from slipway.gateway.feedback.consent import Consent

    kib = None if capture_kib is None else capture_kib * 1024
    given = {"share_bp": capture_share, "days": capture_days, "max_bytes": kib}
    set_ones = {name: value for name, value in given.items() if value is not None}
    if capture == "on":
        return Consent(**set_ones)
    if set_ones:
        raise UsageError("gateway.capture_off", tr("the options of capture need `--capture on`"))
    return None


@click.group(help=str(tr("What users think of answers, and rows to learn from.")))
def feedback() -> None:
    pass


@feedback.command("ls", help=str(tr("List feedback, the newest first.")))
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    help=str(tr("How many.")),
)
@json_option
def list_(limit: int, as_json: bool) -> None:
    from slipway.gateway.feedback.record import list_feedback

    with opened() as store:
        found = list_feedback(store, limit)
    if as_json:
        print_json(found)
        return
    columns = (tr("TIME"), tr("REQUEST"), tr("USER"), tr("MODEL"), tr("SCORE"), tr("LABEL"))
    rows = []
    for row in found:
        score = "-" if row["score"] is None else f"{row['score']:g}"
        start = (row["created_at"][:16], row["request_id"], row["user"], row["model"] or "-")
        texts = [_head(row[name]) for name in ("correction", "comment")]
        kept = tr("yes") if row["captured"] else tr("no")
        rows.append((*start, score, row["label"] or "-", kept, *texts))
    print_table((*columns, tr("KEPT"), tr("CORRECTION"), tr("COMMENT")), rows)


@feedback.command("export", help=str(tr("Write feedback as rows of a dataset, checked.")))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help=str(tr("The file to write, ending with .jsonl.")),
)
@click.option("--preferences", is_flag=True, help=str(tr("Pairs: correction before answer.")))
@click.option("--since", help=str(tr("Only feedback of the last 30d, 12h or 45m.")))
@click.option(
    "--min-score",
    type=float,
    default=1.0,
    show_default=True,
    help=str(tr("From this score an answer without correction is taken as it is.")),
)
@click.option(
    "--min-quality",
    type=click.IntRange(0, 100),
    default=50,
    show_default=True,
    help=str(tr("Rows below this score of `slipway data check` are set aside.")),
)
@click.option(
    "--user-share",
    type=float,
    default=0.5,
    show_default=True,
    help=str(tr("No user may have more than this share of the rows.")),
)
@click.option("--force", is_flag=True, help=str(tr("Overwrite files that are there already.")))
@json_option
def export(out: Path, since: str | None, as_json: bool, **given: Any) -> None:
    from slipway.gateway.clock import now_ms, parse_lifetime
    from slipway.gateway.feedback.export import ExportOptions, export_feedback

    since_ms = None if since is None else now_ms() - parse_lifetime(since)
    with opened() as store:
        done = export_feedback(store, out, ExportOptions(since_ms=since_ms, **given))
    if as_json:
        print_json(done.as_json())
        return
    counts = {"feedback": done.feedback, "rows": done.rows, "path": str(done.path)}
    note(tr("{feedback} pieces of feedback gave {rows} rows in {path}", **counts))
    for reason, count in done.left_out.most_common():
        note(tr("left out: {count} ({reason})", count=count, reason=reason))
    if done.quarantine:
        note(tr("each with its reason: {path}", path=str(done.quarantine)))
    if not done.share_held:
        note(tr("warning: too few users for the share of one user to hold"))
    note(tr("next: `slipway data check {path}`", path=str(done.path)))


@feedback.command(
    "purge", help=str(tr("Remove captures whose time is over, or all that is of a user."))
)
@click.option("--user", help=str(tr("Remove all captures and feedback of this user.")))
@json_option
def purge(user: str | None, as_json: bool) -> None:
    from slipway.gateway.accounts import user_number
    from slipway.gateway.feedback.keep import forget_user, purge_expired

    with opened() as store:
        if user is None:
            gone = {"captures": purge_expired(store), "feedback": 0}
        else:
            gone = forget_user(store, user_number(store, user))
        # the log beside the database still has what was removed
        store.checkpoint(empty=True)
    if as_json:
        print_json(gone)
        return
    note(tr("removed: {captures} captures, {feedback} pieces of feedback", **gone))


@feedback.command("consent", help=str(tr("Change what a token has consented to.")))
@click.argument("token")
@capture_options
@json_option
def consent(token: str, as_json: bool, **given: Any) -> None:
    from slipway.gateway.accounts import set_capture

    with opened() as store:
        changed = set_capture(store, token, consent_from(**given))
    if as_json:
        print_json(changed.as_json())
        return
    state = tr("on") if changed.capture else tr("off")
    note(tr("capture of the token `{name}`: {state}", name=changed.name, state=state))


def _head(text: str | None) -> str:
    line = " ".join((text or "-").split())
    return line if len(line) <= _HEAD else line[: _HEAD - 1] + "…"
