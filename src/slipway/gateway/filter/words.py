"""Word lists and the rules that use them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from slipway.core.errors import InputError, NotFoundError
from slipway.core.i18n import tr

Mode = Literal["audit", "block"]
"""`audit` notes what it finds, `block` also refuses the request or ends the answer."""

Where = Literal["both", "request", "answer"]

MAX_WORD = 200
"""Characters of a word: a stream never waits for more than this."""

UNGROUPED = ""


@dataclass(frozen=True, slots=True)
class Word:
    """A word or phrase as its list has it.

    Attributes:
        text: as written.
        group: its group in the list, `UNGROUPED` when it has none.
        origin: `file:line`, or where else it comes from; for messages.
    """

    text: str
    group: str = UNGROUPED
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is done about some words.

    Attributes:
        name: what log and refusal call it.
        words: texts or `Word`s.
        mode: what a hit does.
        where: what is looked at.
        whole_words: in scripts with spaces a hit may not stand inside a longer word (`ass` does
            not match `class`). Chinese and Japanese have no such bounds and are not concerned.
        groups: only words of these groups; all when None.
    """

    name: str
    words: tuple[Word, ...]
    mode: Mode = "block"
    where: Where = "both"
    whole_words: bool = False
    groups: frozenset[str] | None = None

    def __post_init__(self) -> None:
        for field, value, known in (
            ("mode", self.mode, get_args(Mode)),
            ("where", self.where, get_args(Where)),
        ):
            if value not in known:
                raise InputError(
                    "filter.bad_rule",
                    tr(
                        "rule `{name}`: {field} is `{value}`", name=self.name, field=field,
                        value=value,
                    ),
                    tr("it can be: {names}", names=", ".join(known)),
                )  # fmt: skip
        unknown = (self.groups or frozenset()) - {word.group for word in self.words}
        if unknown:
            raise InputError(
                "filter.no_group",
                tr(
                    "rule `{name}`: no word is in the group `{group}`",
                    name=self.name,
                    group=min(unknown),
                ),
                tr("groups of its words: {names}", names=_names(self.words)),
            )

    def chosen(self) -> Iterable[Word]:
        """Its words, of its groups."""
        return (w for w in self.words if self.groups is None or w.group in self.groups)


def _names(words: Iterable[Word]) -> str:
    return ", ".join(sorted({word.group or "-" for word in words}))


def words_of(texts: Iterable[str], group: str = UNGROUPED) -> tuple[Word, ...]:
    """Texts as words of one group."""
    return tuple(Word(text, group) for text in texts)


def load_words(path: Path) -> tuple[Word, ...]:
    r"""The words of a file, UTF-8: one a line, optionally followed by a tab and a group.

    Empty lines and lines that begin with `#` are passed over; `\#` begins a word with `#`. The
    `SensitiveWords` option of new-api, saved as a file, is such a list.

    Raises:
        NotFoundError: the file is not there.
        InputError: a line is not a word; the message names file and line.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(
            "filter.no_list",
            tr("there is no word list `{path}`", path=str(path)),
            tr("write one word a line into it, UTF-8"),
        ) from None
    except OSError as error:
        raise InputError(
            "filter.unreadable",
            tr("the word list `{path}` cannot be read: {why}", path=str(path), why=str(error)),
            tr("name a file that this user may read"),
        ) from None
    return parse_words(_decoded(data, str(path)), str(path))


def parse_words(text: str, origin: str) -> tuple[Word, ...]:
    """The words of a list's text; see `load_words`.

    Args:
        origin: the list's name, for messages.
    """
    words = []
    # not splitlines(): characters such as U+2028 or a form feed do not end a line
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        line = raw.strip(" \t\r")
        if line and not line.startswith("#"):
            words.append(_word(line, f"{origin}:{number}"))
    return tuple(words)


def _word(line: str, where: str) -> Word:
    text, *rest = (part.strip() for part in line.split("\t"))
    if len(rest) > 1:
        raise InputError(
            "filter.bad_line",
            tr("{where}: {count} tabs, where a word and its group have one", where=where,
               count=len(rest)),
            tr("write `word<TAB>group`, or only the word"),
        )  # fmt: skip
    if len(text) > MAX_WORD:
        raise InputError(
            "filter.long_word",
            tr("{where}: a word of {count} characters; the most is {most}", where=where,
               count=len(text), most=MAX_WORD),
            tr("write one word or phrase a line"),
        )  # fmt: skip
    return Word(text[1:] if text.startswith("\\#") else text, rest[0] if rest else UNGROUPED, where)


def _decoded(data: bytes, origin: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            "filter.not_utf8",
            tr("{where}: not UTF-8", where=f"{origin}:{line}"),
            tr("save the list as UTF-8; a list in GBK: `iconv -f GB18030 -t UTF-8 OLD > NEW`"),
        ) from None
