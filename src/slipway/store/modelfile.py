"""Modelfiles: FROM, ADAPTER, PARAMETER, TEMPLATE, SYSTEM, MESSAGE, LICENSE.

    FROM ./shop-q4           # a GGUF, a folder that holds one, or a model of the store
    PARAMETER temperature 0.3
    SYSTEM \"\"\"You answer for the shop.\"\"\"

Directives are case-insensitive; a line that begins with `#` is a comment; a value is bare to the
end of its line, in "…", or in three quotes over several lines.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from slipway.core.errors import InputError, NotFoundError, from_os_error, nearest
from slipway.core.i18n import Text, tr
from slipway.store.parameters import PARAMETERS, parse_value

DIRECTIVES = ("FROM", "ADAPTER", "PARAMETER", "TEMPLATE", "SYSTEM", "MESSAGE", "LICENSE")
ACCEPTED = ("RENDERER", "PARSER", "REQUIRES")
"""Directives of Ollama that mean nothing here; they are kept, so that Ollama finds them again."""
LATER = ("DRAFT",)
ROLES = ("system", "user", "assistant")

_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Modelfile:
    """A parsed Modelfile.

    Attributes:
        from_: what FROM names, as written.
        from_line: its line, for errors.
        parameters: option -> value; `stop` is a list.
        template: TEMPLATE's text; None when not given (then the base's own is used).
        system: SYSTEM's text; None when not given.
        messages: MESSAGE lines as {"role", "content"}.
        licenses: LICENSE texts.
        adapters: what each ADAPTER names, as written, and its line.
        accepted: what RENDERER, PARSER and REQUIRES say.
        projector: a GGUF that goes with the model, given by programs (no directive).
        warnings: options and directives that have no effect.
        source: the file's path, or "Modelfile" for text.
    """

    from_: str
    from_line: int
    parameters: dict[str, Any] = field(default_factory=dict)
    template: str | None = None
    template_line: int = 0
    system: str | None = None
    messages: tuple[dict[str, str], ...] = ()
    licenses: tuple[str, ...] = ()
    adapters: tuple[tuple[str, int], ...] = ()
    accepted: dict[str, str] = field(default_factory=dict)
    projector: Path | None = None
    warnings: tuple[Text, ...] = ()
    source: str = "Modelfile"


@dataclass(slots=True)
class _Draft:
    """What has been read so far."""

    source: str
    from_: str = ""
    from_line: int = 0
    parameters: dict[str, Any] = field(default_factory=dict)
    template: str | None = None
    template_line: int = 0
    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    licenses: list[str] = field(default_factory=list)
    adapters: list[tuple[str, int]] = field(default_factory=list)
    accepted: dict[str, str] = field(default_factory=dict)
    warnings: list[Text] = field(default_factory=list)


def read_modelfile(path: Path) -> Modelfile:
    """Read a Modelfile (UTF-8, or UTF-16 with a byte-order mark).

    Raises:
        NotFoundError: no such file.
        InputError: see `parse_modelfile`; or not text.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(
            "modelfile.not_found",
            tr("there is no Modelfile at {path}", path=path),
            tr("name it with `-f FILE`; a first one: `echo 'FROM ./model.gguf' > Modelfile`"),
        ) from error
    except OSError as error:
        raise from_os_error(error, path) from error
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            "modelfile.encoding", tr("{path} is not UTF-8 text ({reason})", path=path, reason=error)
        ) from error
    return parse_modelfile(text, source=str(path))


def parse_modelfile(text: str, *, source: str = "Modelfile") -> Modelfile:
    """Parse a Modelfile's text.

    Args:
        source: the file to name in errors.

    Raises:
        InputError: an unknown directive or option (with the nearest known one), a value of the
            wrong kind, an unterminated quote, or no FROM; the message names file and line.
    """
    draft = _Draft(source)
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        number, line = at + 1, lines[at].strip()
        at += 1
        if not line or line.startswith("#"):
            continue
        word, _, rest = line.partition(" ") if " " in line else line.partition("\t")
        directive = word.upper()
        if directive not in (*DIRECTIVES, *ACCEPTED):
            _unknown_directive(source, number, word)
        key = ""
        if directive in ("PARAMETER", "MESSAGE"):
            key, rest = _split_key(rest.strip())
            if not key or not rest:
                _fail(source, number, tr("{directive} needs a name and a value", directive=word))
        value, at = _value(rest.strip(), lines, at, source, number)
        if not value and directive in ("FROM", "ADAPTER", "PARAMETER"):
            _fail(source, number, tr("{directive} has no value", directive=word))
        _apply(draft, directive, key, value, number)
    if not draft.from_:
        _fail(source, max(len(lines), 1), tr("there is no FROM line"))
    return Modelfile(
        from_=draft.from_,
        from_line=draft.from_line,
        parameters=draft.parameters,
        template=draft.template,
        template_line=draft.template_line,
        system=draft.system,
        messages=tuple(draft.messages),
        licenses=tuple(draft.licenses),
        adapters=tuple(draft.adapters),
        accepted=draft.accepted,
        warnings=tuple(draft.warnings),
        source=source,
    )


def _split_key(text: str) -> tuple[str, str]:
    match = _WORD.match(text)
    return (match.group(), text[match.end() :].strip()) if match else ("", "")


def _value(rest: str, lines: list[str], at: int, source: str, number: int) -> tuple[str, int]:
    """A directive's value, and the index of the line after it."""
    quote = '"""' if rest.startswith('"""') else '"' if rest.startswith('"') else ""
    if not quote:
        return rest, at
    body = rest[len(quote) :]
    while True:
        closed = body.rstrip()
        if closed.endswith(quote):
            return closed[: -len(quote)], at
        if quote == '"""' and quote in body:
            _fail(source, at, tr("there is text after the closing quotes"))
        if at >= len(lines):
            _fail(source, number, tr("the quote that opens here is never closed"))
        body += "\n" + lines[at]
        at += 1


def _apply(draft: _Draft, directive: str, key: str, value: str, number: int) -> None:
    match directive:
        case "FROM":
            if draft.from_:
                _fail(draft.source, number, tr("only one FROM is supported"))
            draft.from_, draft.from_line = value, number
        case "ADAPTER":
            draft.adapters.append((value, number))
        case "PARAMETER":
            _parameter(draft, key, value, number)
        case "TEMPLATE":
            draft.template, draft.template_line = value, number
        case "SYSTEM":
            draft.system = value
        case "MESSAGE":
            if key.lower() not in ROLES:
                names = ", ".join(ROLES)
                _fail(draft.source, number, tr("message role must be one of {names}", names=names))
            draft.messages.append({"role": key.lower(), "content": value})
        case "LICENSE":
            draft.licenses.append(value)
        case _:
            draft.accepted[directive.lower()] = value
            draft.warnings.append(
                tr(
                    "{where}: {directive} has no effect here",
                    where=f"{draft.source}:{number}",
                    directive=directive,
                )
            )


def _parameter(draft: _Draft, key: str, value: str, number: int) -> None:
    name = key.lower()
    known = PARAMETERS.get(name)
    if known is None:
        _fail(
            draft.source,
            number,
            tr("unknown parameter `{name}`", name=key),
            _nearest_hint(name, list(PARAMETERS)),
        )
    if known.dead:
        draft.warnings.append(
            tr(
                "{where}: parameter `{name}` has no effect any more",
                where=f"{draft.source}:{number}",
                name=key,
            )
        )
        return
    try:
        parsed = parse_value(known.kind, value)
    except ValueError:
        _fail(
            draft.source,
            number,
            tr(
                "parameter `{name}` needs a value of kind {kind}, not `{value}`",
                name=key,
                kind=known.kind,
                value=value,
            ),
        )
    if known.kind == "strings":
        draft.parameters.setdefault(name, []).append(parsed)
    else:
        draft.parameters[name] = parsed


def _unknown_directive(source: str, number: int, word: str) -> NoReturn:
    if word.upper() in LATER:
        _fail(source, number, tr("`{word}` is not supported yet", word=word))
    _fail(
        source,
        number,
        tr(
            "`{word}` is no directive; it must be one of {names}",
            word=word,
            names=", ".join(DIRECTIVES),
        ),
        _nearest_hint(word.upper(), list(DIRECTIVES)),
    )


def _nearest_hint(name: str, known: list[str]) -> Text | str:
    close = nearest(name, known)
    return tr("did you mean {names}?", names=", ".join(f"`{n}`" for n in close)) if close else ""


def _fail(source: str, line: int, what: Text, hint: Text | str = "") -> NoReturn:
    raise InputError(
        "modelfile.bad_line", tr("{where}: {what}", where=f"{source}:{line}", what=what), hint
    )
