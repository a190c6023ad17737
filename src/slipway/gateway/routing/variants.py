"""Which model a request gets in the end: canary and A/B split, mirror, fallbacks.

All decisions are functions of names and hashes, so every process, and tomorrow's, decides alike,
and nobody flips between two models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

BASIS_POINTS = 10_000
FallbackCause = Literal["failed", "context", "content"]


@dataclass(frozen=True, slots=True)
class Arm:
    """A part of a split.

    Attributes:
        model: what its users get instead of the model they asked for.
        share_bp: its share of the users in basis points (100 = 1 %).
    """

    name: str
    model: str
    share_bp: int


@dataclass(frozen=True, slots=True)
class Split:
    """Users of one model divided over other models; whoever is in no arm keeps the model.

    Each user has a fixed point from 0 to 9999, and the arms lie one after another from 0. So an
    arm added at the end, or a larger share of the last arm, moves only users who were in no arm;
    a changed share of an earlier arm moves users at the borders of those behind it.

    Attributes:
        name: another name is another draw: the users of one canary are not those of the next.

    Raises:
        ValueError: a negative share, shares of more than 10000 in all, or two arms of one name.
    """

    name: str
    arms: tuple[Arm, ...]

    def __post_init__(self) -> None:
        if any(arm.share_bp < 0 for arm in self.arms):
            raise ValueError(f"split `{self.name}`: `share_bp` must not be negative")
        if sum(arm.share_bp for arm in self.arms) > BASIS_POINTS:
            raise ValueError(f"split `{self.name}`: the shares are more than {BASIS_POINTS}")
        if len({arm.name for arm in self.arms}) < len(self.arms):
            raise ValueError(f"split `{self.name}`: two arms have the same name")

    def arm_of(self, user: str) -> Arm | None:
        """The arm of a user; None to leave the request as it is.

        Args:
            user: what stays the same for a person, such as the user's id.
        """
        point = point_of(self.name, user)
        for arm in self.arms:
            point -= arm.share_bp
            if point < 0:
                return arm
        return None


@dataclass(frozen=True, slots=True)
class Mirror:
    """A share of the requests that is sent to another model as well, whose answer nobody sees.

    Attributes:
        share_bp: of the requests, in basis points.
    """

    model: str
    share_bp: int

    def takes(self, request_id: str) -> bool:
        """Whether a request is mirrored; drawn by request, so each user gives some."""
        return point_of(f"mirror/{self.model}", request_id) < self.share_bp


@dataclass(frozen=True, slots=True)
class Fallbacks:
    """What to try when a model fails altogether: model -> other models, in order.

    Attributes:
        failed: when no channel of the model could answer.
        context: when the prompt is too long for the model.
        content: when the model's provider refuses the content.
    """

    failed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    context: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    content: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, model: str, cause: FallbackCause) -> tuple[str, ...]:
        """The models to try instead, each once. The fallbacks of a fallback are not followed."""
        table = {"failed": self.failed, "context": self.context, "content": self.content}[cause]
        return tuple(name for name in dict.fromkeys(table.get(model, ())) if name != model)


def point_of(salt: str, name: str) -> int:
    """A fixed number from 0 to 9999 for a name; another salt is another draw."""
    digest = blake2b(f"{len(salt)}/{salt}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % BASIS_POINTS
