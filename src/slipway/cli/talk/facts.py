"""The `/show` commands of the dialogue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from slipway.cli.talk.session import Session
from slipway.cli.talk.wrap import width_of
from slipway.core.errors import UsageError, nearest
from slipway.core.i18n import Text, tr


def show(session: Session, what: str) -> None:
    """Print one of `SUBJECTS`.

    Raises:
        UsageError: not one of them.
    """
    if what not in SUBJECTS:
        close = nearest(what, SUBJECTS, limit=1)
        raise UsageError(
            "run.no_subject",
            tr("nothing to show by the name `{name}`", name=what),
            tr("did you mean {names}?", names=f"`/show {close[0]}`")
            if close
            else tr("there are {names}", names=", ".join(SUBJECTS)),
        )
    for line in SUBJECTS[what](session):
        print(line)


def _text(key: str, missing: Text) -> Callable[[Session], Iterator[Text | str]]:
    def lines(session: Session) -> Iterator[Text | str]:
        yield str(session.facts.get(key) or "").rstrip() or missing

    return lines


def _system(session: Session) -> Iterator[Text | str]:
    yield session.system or session.facts.get("system") or tr("no system prompt")


def _parameters(session: Session) -> Iterator[Text | str]:
    own = str(session.facts.get("parameters") or "")
    yield tr("set by the model:")
    yield from (f"  {line}" for line in own.splitlines() or ["-"])
    yield tr("set here:")
    yield from (f"  {name:<30} {_shown(v)}" for name, v in session.options.items())
    if not session.options:
        yield "  -"


def _info(session: Session) -> Iterator[Text | str]:
    facts = session.facts
    details: dict[str, Any] = facts.get("details") or {}
    info: dict[str, Any] = facts.get("model_info") or {}
    architecture = str(info.get("general.architecture", ""))
    rows: list[tuple[Text, Any]] = [
        (tr("architecture"), architecture or details.get("family")),
        (tr("parameters"), details.get("parameter_size")),
        (tr("context length"), info.get(f"{architecture}.context_length")),
        (tr("embedding length"), info.get(f"{architecture}.embedding_length")),
        (tr("quantization"), details.get("quantization_level")),
        (tr("capabilities"), ", ".join(facts.get("capabilities") or [])),
    ]
    yield session.model
    yield from (f"  {_padded(label)} {value}" for label, value in rows if value)
    for label, key in ((tr("parameters"), "parameters"), (tr("system"), "system")):
        if text := str(facts.get(key) or "").rstrip():
            yield f"{label}:"
            yield from (f"  {line}" for line in text.splitlines())
    if license_text := str(facts.get("license") or "").strip():
        yield f"{tr('license')}: {license_text.splitlines()[0]}"


def _padded(label: Text) -> str:
    return f"{label}{' ' * (20 - width_of(str(label)))}"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(f'"{v}"' for v in value) if isinstance(value, list) else str(value)


SUBJECTS: dict[str, Callable[[Session], Iterator[Text | str]]] = {
    "info": _info,
    "license": _text("license", tr("no license was given for this model")),
    "modelfile": _text("modelfile", tr("no Modelfile")),
    "parameters": _parameters,
    "system": _system,
    "template": _text("template", tr("no template")),
}
