"""Our gateway as a user runs it, made ready by its own command line in a home of its own.

On are: tokens with a budget and a limit of requests per minute, prices, the ledger, the usage log,
metrics, and a channel whose key is sealed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway_load.client import Target
from gateway_load.peers import Start
from gateway_load.processes import free_port

CLI = (sys.executable, "-c", "from slipway.cli.main import entry; entry()")
_UPSTREAM_KEY = "sk-upstream"
_BIG_MODELS = 10
_BIG_USERS = 100
_BIG_KEYS = 1000  # of the million: so many different ones are used


@dataclass(frozen=True)
class Big:
    """The size of a large installation."""

    channels: int
    tokens: int


def start_of(name: str, home: Path, upstream: int, big: Big | None = None) -> Start:
    """Make the database, and say how to start the gateway on it."""
    env = {**os.environ, "SLIPWAY_HOME": str(home)}
    home.mkdir(parents=True, exist_ok=True)
    _cli(env, "user", "add", "bench")
    keys = tuple(_token(env, f"bench-{number}") for number in range(4))
    if big is None:
        models: tuple[str, ...] = ("bench",)
        options = ("--models", "bench", "--price-in", "1", "--price-out", "2")
        where = ("--kind", "openai", "--url", _url(upstream), "--allow-private")
        _cli(env, "channel", "add", "up", *where, *options, "--api-key-file", "-", key=True)
    else:
        models = tuple(f"bench-{number}" for number in range(_BIG_MODELS))
        database = home / "gateway" / "gateway.db"
        _add_channels(database, big.channels, models, upstream)
        keys = _add_tokens(database, big.tokens, keys[0]) or keys
    port = free_port()
    command = (*CLI, "gateway", "serve", "--port", str(port))
    return Start(Target(name, port, {}, keys, models), command, env)


def logged(home: Path) -> dict[str, int]:
    """How many requests the usage log has, how many failed, and their cost in micro-units."""
    env = {**os.environ, "SLIPWAY_HOME": str(home)}
    total = json.loads(_cli(env, "usage", "--json"))["total"]
    return {key: total[key] for key in ("requests", "errors", "cost_micro")}


def _url(upstream: int) -> str:
    return f"http://127.0.0.1:{upstream}"


def _cli(env: dict[str, str], *words: str, key: bool = False) -> str:
    done = subprocess.run(
        [*CLI, "gateway", *words],
        env=env,
        check=True,
        input=_UPSTREAM_KEY if key else "",
        stdout=subprocess.PIPE,
        stderr=None if words[0] == "usage" else subprocess.DEVNULL,
        text=True,
    )
    return done.stdout


def _token(env: dict[str, str], name: str) -> str:
    limits = ("--budget", "1000000000", "--rpm", "1000000000")
    made = json.loads(_cli(env, "token", "add", name, "--user", "bench", *limits, "--json"))
    return str(made["key"])


def _add_channels(database: Path, count: int, models: tuple[str, ...], upstream: int) -> None:
    """Channels with a sealed key each; every model is offered by a tenth of them."""
    from slipway.gateway import ChannelSpec, Price, add_channel, open_store

    store = open_store(database)
    try:
        for number in range(count):
            name = f"up-{number}"
            offered = (models[number % len(models)],)
            add_channel(
                store,
                ChannelSpec(
                    name,
                    "openai",
                    _url(upstream),
                    models=offered,
                    api_key=f"{_UPSTREAM_KEY}-{number}",
                    price=Price(1_000_000, 2_000_000),
                    allow_private=True,
                ),
            )
    finally:
        store.close()


def _add_tokens(database: Path, count: int, known_key: str) -> tuple[str, ...]:
    """Copy the first user and token with all their columns, in bulk.

    Returns:
        keys of copies; none when keys are not stored as the SHA-256 that this knows of.
    """
    db = sqlite3.connect(database)
    try:
        template, user = _first_row(db, "tokens"), _first_row(db, "users")
        known = template["hash"] == hashlib.sha256(known_key.encode()).hexdigest()
        users = [user["id"]] + [user["id"] + n for n in range(1, _BIG_USERS)]
        copies = ({**user, "id": each, "name": f"user-{each}"} for each in users[1:])
        _insert(db, "users", list(user), copies)
        first = db.execute("SELECT max(id) FROM tokens").fetchone()[0] + 1

        def made() -> Iterator[dict[str, Any]]:
            for number in range(count):
                key = _key(number)
                yield {
                    **template,
                    "id": first + number,
                    "user_id": users[number % len(users)],
                    "name": f"token-{number}",
                    "prefix": key[:10],
                    "hash": hashlib.sha256(key.encode()).hexdigest(),
                }

        _insert(db, "tokens", list(template), made())
        db.commit()
    finally:
        db.close()
    step = max(1, count // _BIG_KEYS)
    return tuple(_key(number) for number in range(0, count, step)) if known else ()


def _key(number: int) -> str:
    return "sk-" + hashlib.sha256(f"benchmark {number}".encode()).hexdigest()[:48]


def _first_row(db: sqlite3.Connection, table: str) -> dict[str, Any]:
    found = db.execute(f"SELECT * FROM {table} ORDER BY id LIMIT 1")
    names = [column[0] for column in found.description]
    return dict(zip(names, found.fetchone(), strict=True))


def _insert(
    db: sqlite3.Connection, table: str, columns: list[str], rows: Iterator[dict[str, Any]]
) -> None:
    marks = ", ".join(f":{column}" for column in columns)
    quoted = ", ".join(f'"{column}"' for column in columns)
    db.executemany(f"INSERT INTO {table} ({quoted}) VALUES ({marks})", rows)
