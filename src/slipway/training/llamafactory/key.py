"""What becomes of one key of a LLaMA Factory file here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from slipway.core.i18n import Text

Fate = Literal["mapped", "accepted", "refused"]


@dataclass(frozen=True, slots=True)
class Key:
    """One key that LLaMA Factory knows.

    Attributes:
        fate: `mapped`: its value decides ours; `accepted`: it has no effect here, and `why` says
            for what reason; `refused`: a value other than the default or those in `harmless` asks
            for something Slipway does not do, and is an error that gives `why`.
        default: the value where the file is silent.
        to: the keys of ours that it decides.
        harmless: further values of a refused key that ask for nothing.
    """

    name: str
    fate: Fate
    default: Any = None
    to: tuple[str, ...] = ()
    why: Text | None = None
    harmless: tuple[Any, ...] = ()

    def asks(self, value: Any) -> bool:
        """Whether a value of this key asks for anything beyond its default."""
        nothing = (None, False, "", self.default, *self.harmless)
        return not any(value is v or (value == v and type(value) is type(v)) for v in nothing)


def mapped(name: str, to: str, default: Any = None) -> Key:
    """A key whose value decides ours; `to` names one or more of ours, apart by a space."""
    return Key(name, "mapped", default, tuple(to.split()))


def accepted(why: Text, *names: str, **defaults: Any) -> list[Key]:
    """Keys without effect here, for one reason; `defaults` are further ones with a default."""
    return [Key(name, "accepted", None, (), why) for name in names] + [
        Key(name, "accepted", value, (), why) for name, value in defaults.items()
    ]


def refused(name: str, why: Text, default: Any = None, harmless: tuple[Any, ...] = ()) -> Key:
    """A key whose wishes cannot be met."""
    return Key(name, "refused", default, (), why, harmless)
