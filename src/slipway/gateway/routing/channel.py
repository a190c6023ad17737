"""What a channel is, and under which names models are offered."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from slipway.gateway.outbound import Reach

ChannelKind = Literal["slipway", "openai", "ollama", "azure", "anthropic", "gemini"]
LOCAL_KINDS: frozenset[ChannelKind] = frozenset({"slipway", "ollama"})


@dataclass(frozen=True, slots=True)
class Channel:
    """A place that requests can go to.

    Attributes:
        base_url: without `/v1`.
        models: name that clients use -> name at the upstream.
        priority: higher ones are tried first.
        weight: share of the requests among channels of equal priority; 0 only as a last resort.
        enabled: False was said by a human, and only a human takes it back.
        sealed_key: the upstream's own key, see `slipway.gateway.seal`.
        created_at: UTC milliseconds.
        groups: groups of users it serves; empty: all.
        tags: what a request can ask for by tag.
        capabilities: what it can do beyond the model's plain use, such as `tools` or `vision`;
            None: not known, so it is not held against it.
        keys: ids of its own keys where it has several; see `key_ids`.
        needs_key: it cannot be used without one.
        slots: requests it works on at a time; None: not known.
        disabled_by: who disabled it.
    """

    id: int
    name: str
    kind: ChannelKind
    base_url: str
    reach: Reach
    models: Mapping[str, str]
    priority: int = 0
    weight: int = 1
    enabled: bool = True
    sealed_key: bytes | None = field(default=None, repr=False)
    created_at: int = 0
    groups: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    capabilities: frozenset[str] | None = None
    keys: tuple[int, ...] = ()
    needs_key: bool = False
    slots: int | None = None
    disabled_by: str | None = None

    @property
    def key_ids(self) -> tuple[int, ...]:
        """Ids of its keys; a single stored key has the id 0."""
        return self.keys or ((0,) if self.sealed_key is not None else ())

    def as_json(self) -> dict[str, Any]:
        """The channel as JSON; of its own key only whether there is one."""
        return {
            "id": self.id,
            "name": self.name,
            "kind": self.kind,
            "base_url": self.base_url,
            "reach": self.reach,
            "models": dict(self.models),
            "priority": self.priority,
            "weight": self.weight,
            "enabled": self.enabled,
            "has_key": self.sealed_key is not None,
        }


@dataclass(frozen=True, slots=True)
class Target:
    """One step of a plan: a channel and the model's name there.

    Attributes:
        model: the name under which the channel offers it, which breakers go by.
        key: id of the channel's key to use; None when it has none.
    """

    channel: Channel
    upstream_model: str
    model: str = ""
    key: int | None = None


def resolve_model(channels: Iterable[Channel], asked: str) -> str | None:
    """The name under which enabled channels offer a model; None when none does.

    As with Ollama, a name without a tag means `:latest`; a name that is offered exactly as it was
    asked for wins.
    """
    return match_name({n for c in channels if c.enabled for n in c.models}, asked)


def match_name(offered: Collection[str], asked: str) -> str | None:
    """As `resolve_model`, among the names that are offered."""
    other = asked.removesuffix(":latest") if asked.endswith(":latest") else f"{asked}:latest"
    return next((name for name in (asked, other) if name in offered), None)
