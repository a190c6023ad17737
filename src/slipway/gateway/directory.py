"""What every request must know of the database, kept in memory: keys, channels, prices.

The database counts changes in its table `revision`. The writer of the books reads that count in
each of its transactions, so a request that was admitted by an old copy is found out before anything
is reserved, and admitted again: a change counts from the next request on, in every process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sqlalchemy import select

from slipway.gateway.accounts import Known, Token, check_key, digest_of, find_key
from slipway.gateway.channels import load_channels, load_prices, upstream_key
from slipway.gateway.limits import Limit, load_limits
from slipway.gateway.limits.gate import Rule
from slipway.gateway.pricing import Price
from slipway.gateway.problems import invalid_key
from slipway.gateway.routing import Channel
from slipway.gateway.store import Store
from slipway.gateway.tables import revision

_MOST_KEYS = 100_000
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Channels and prices of one revision.

    Attributes:
        by_model: enabled channels by the name of each model that they offer.
        limits: by scope and subject.
    """

    revision: int
    channels: tuple[Channel, ...]
    prices: Mapping[str, Price]
    by_model: Mapping[str, tuple[Channel, ...]]
    limits: Mapping[tuple[str, str], Limit]
    keys: dict[int, str | None] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        number: int,
        channels: list[Channel],
        prices: Mapping[str, Price],
        limits: Mapping[tuple[str, str], Limit],
    ) -> Catalogue:
        """Arrange channels by what they offer."""
        by_model: dict[str, list[Channel]] = {}
        for channel in channels:
            if channel.enabled:
                for model in channel.models:
                    by_model.setdefault(model, []).append(channel)
        offered = {model: tuple(found) for model, found in by_model.items()}
        return cls(number, tuple(channels), prices, offered, limits)

    def rules_for(self, token: Token, model: str) -> list[Rule]:
        """The limits that hold for a request."""
        found: list[Rule] = []
        for subject in (
            ("token", str(token.id)),
            ("user", str(token.user_id)),
            ("group", token.group),
            ("model", model),
        ):
            limit = self.limits.get(subject)
            if subject[0] == "token" and token.rpm is not None:
                limit = replace(
                    limit or Limit(), rpm=min(token.rpm, (limit and limit.rpm) or token.rpm)
                )
            if limit is not None:
                found.append((subject, limit))
        return found

    def resolve(self, asked: str) -> str | None:
        """As `routing.resolve_model`, without looking at every channel."""
        if asked in self.by_model:
            return asked
        other = asked.removesuffix(":latest") if asked.endswith(":latest") else f"{asked}:latest"
        return other if other in self.by_model else None


class Directory:
    """The copy of one gateway process; used by one event loop, reading in a thread of its own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gateway-db")
        self._keys: dict[str, Known] = {}
        self._catalogue: Catalogue | None = None
        self._loading: asyncio.Task[Catalogue] | None = None

    async def in_database(self, work: Callable[..., T], *args: object) -> T:
        """Run other database work in the directory's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def shut_down(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    async def catalogue(self, at_least: int = -1) -> Catalogue:
        """Channels and prices.

        Args:
            at_least: a revision that is known to exist; an older copy is read again.
        """
        found = self._catalogue
        if found is not None and found.revision >= at_least:
            return found
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._load())
        found = await asyncio.shield(self._loading)
        return found if found.revision >= at_least else await self.catalogue(at_least)

    async def newest(self) -> int:
        """The revision in the database; asked before a request is refused by an old copy."""
        return await self.in_database(self._read_revision)

    async def key(self, key: str | None, at_ms: int) -> Known:
        """Whose key it is.

        Raises:
            ApiError: 401 for a key that is missing, unknown, revoked or expired; 403 when its user
                is disabled.
        """
        if not key:
            raise invalid_key("No API key: send `Authorization: Bearer sk-...`.")
        digest = digest_of(key)
        known = self._keys.get(digest)
        if known is None:
            # the revision comes first: what is read after it is at least as new
            number, known = await self.in_database(self._read_key, digest)
            have = self._catalogue
            if have is not None and number > have.revision:
                await self.catalogue(number)
            if known is not None and (have := self._catalogue) and have.revision == number:
                if len(self._keys) >= _MOST_KEYS:
                    self._keys.clear()
                self._keys[digest] = known
        return check_key(known, at_ms)

    def upstream_key(self, catalogue: Catalogue, channel: Channel) -> str | None:
        """The channel's own key, unsealed once for each revision."""
        if channel.sealed_key is None:
            return None
        if channel.id not in catalogue.keys:
            catalogue.keys[channel.id] = upstream_key(self._store, channel)
        return catalogue.keys[channel.id]

    async def _load(self) -> Catalogue:
        loaded = await self.in_database(self._read_catalogue)
        self._catalogue = loaded
        self._keys.clear()
        return loaded

    def _read_catalogue(self) -> Catalogue:
        with self._store.read() as db:
            number = db.execute(select(revision.c.value)).scalar_one()
            return Catalogue.of(number, load_channels(db), load_prices(db), load_limits(db))

    def _read_revision(self) -> int:
        with self._store.read() as db:
            return int(db.execute(select(revision.c.value)).scalar_one())

    def _read_key(self, digest: str) -> tuple[int, Known | None]:
        with self._store.read() as db:
            number = db.execute(select(revision.c.value)).scalar_one()
            return number, find_key(db, digest)
