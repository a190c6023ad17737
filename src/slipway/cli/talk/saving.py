"""`/save`: the session as a model, by the daemon or, when it cannot, in the store they share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from slipway.cli.talk.session import Session
from slipway.core.errors import ConflictError, NotFoundError, SlipwayError, UsageError
from slipway.core.i18n import tr
from slipway.core.paths import Home

_QUOTES = '"""'


def save_as(session: Session, name: str) -> None:
    """Make a model of this one with the session's system text, parameters and turns.

    Raises:
        UsageError: not a name, or a text that no Modelfile can hold.
        ConflictError: a model of that name is there already and is not the one talked to.
    """
    from slipway.store import ModelName

    wanted = ModelName.parse(name).folded
    if wanted != ModelName.parse(session.model.partition("+")[0]).folded:
        taken = {ModelName.parse(str(row["name"])).folded for row in session.daemon.models()}
        if wanted in taken:
            raise ConflictError(
                "model.exists",
                tr("there is another model with the name `{name}`", name=name),
                tr("give another name, or remove it first with `slipway rm {name}`", name=name),
            )
    fields: dict[str, Any] = {"from": session.model}
    if session.system:
        fields["system"] = session.system
    if session.options:
        fields["parameters"] = session.options
    if session.turns:
        fields["messages"] = [*(session.facts.get("messages") or []), *session.turns]
    try:
        for _ in session.daemon.create(name, **fields):
            pass
    except NotFoundError as error:
        if error.code != "request.not_found" or not _shares_our_store(session):
            raise
        _create_here(name, fields)


def _shares_our_store(session: Session) -> bool:
    """Whether the daemon's model is the one in the store of this SLIPWAY_HOME."""
    from slipway.store import resolve_model

    try:
        here = resolve_model(session.model, home=Home.current()).digest
    except SlipwayError:
        return False
    return any(row.get("digest") == here for row in session.daemon.models())


def _create_here(name: str, fields: dict[str, Any]) -> None:
    from slipway.store import create_model

    create_model(name, "\n".join(_modelfile(fields)), home=Home.current())


def _modelfile(fields: dict[str, Any]) -> Iterator[str]:
    yield f"FROM {fields['from']}"
    if "system" in fields:
        yield f"SYSTEM {_quoted(fields['system'])}"
    for name, value in fields.get("parameters", {}).items():
        for item in value if isinstance(value, list) else [value]:
            yield f"PARAMETER {name} {_quoted(item) if isinstance(item, str) else item}"
    for message in fields.get("messages", []):
        yield f"MESSAGE {message['role']} {_quoted(message['content'])}"


def _quoted(text: str) -> str:
    if _QUOTES in text:
        raise UsageError("run.cannot_save", tr('a text with """ cannot be saved'))
    return f"{_QUOTES}{text}{_QUOTES}"
