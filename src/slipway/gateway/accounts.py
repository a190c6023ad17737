"""Users and tokens: made and listed by the command line, checked by the relay."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from slipway.core.errors import ConflictError, NotFoundError, UsageError, nearest
from slipway.core.i18n import Text, tr
from slipway.gateway.clock import now_ms, to_rfc3339
from slipway.gateway.feedback.consent import Consent, consent_of
from slipway.gateway.problems import ApiError, invalid_key
from slipway.gateway.store import Store
from slipway.gateway.tables import tokens, users

Role = Literal["admin", "user"]

_ALPHABET = string.ascii_letters + string.digits
_KEY_LENGTH = 48  # of 62 symbols: 285 bits
_PREFIX_LENGTH = 10
_NAME = re.compile(r"[\w.@-]{1,64}")

_TOKENS = select(
    tokens,
    users.c.name.label("user"),
    users.c.enabled.label("user_enabled"),
    users.c.group.label("user_group"),
    users.c.role.label("user_role"),
).join_from(tokens, users, tokens.c.user_id == users.c.id)
# made once, because making a statement costs more than running it
_TOKEN_BY_ID = _TOKENS.where(tokens.c.id == bindparam("token_id"))
_TOKEN_BY_HASH = _TOKENS.where(tokens.c.hash == bindparam("key_hash"))


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who owns tokens. `created_at` is UTC milliseconds."""

    id: int
    name: str
    role: Role
    enabled: bool
    created_at: int
    group: str = "default"

    def as_json(self) -> dict[str, Any]:
        """The user as JSON, times in RFC 3339."""
        return {**asdict(self), "created_at": to_rfc3339(self.created_at)}


@dataclass(frozen=True, slots=True)
class Token:
    """A key and what it may do; the key itself is not stored.

    Attributes:
        prefix: the first characters of the key, to recognise it by.
        models: names it may use; None for every model.
        budget_micro: what it may spend in all, in millionths of the currency; None for no limit.
        used_micro: what it has spent.
        held_micro: what running requests have reserved on top.
        rpm: requests it may make per minute; None for no limit.
        group: its user's.
        networks: addresses (CIDR) that it may be used from; None for any.
        capture: consent to keep prompts and answers; None for none.
    """

    id: int
    user_id: int
    user: str
    name: str
    prefix: str
    enabled: bool
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    models: tuple[str, ...] | None
    budget_micro: int | None
    used_micro: int
    held_micro: int
    rpm: int | None
    group: str = "default"
    networks: tuple[str, ...] | None = None
    capture: Consent | None = None

    def allows(self, model: str) -> bool:
        """Whether the token may use the model of this name."""
        return self.models is None or model in self.models

    def as_json(self) -> dict[str, Any]:
        """The token as JSON, times in RFC 3339."""
        times = ("created_at", "expires_at", "last_used_at")
        return {**asdict(self), **{name: to_rfc3339(getattr(self, name)) for name in times}}


def check_name(name: str, what: Text) -> str:
    """The name itself.

    Raises:
        UsageError: it is not 1 to 64 letters, digits, `.`, `@`, `-` or `_`.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            "gateway.bad_name",
            tr("`{name}` cannot be the name of a {what}", name=name, what=what),
            tr("use 1 to 64 letters, digits, `.`, `@`, `-` or `_`"),
        )
    return name


def check_network(text: str) -> str:
    """A network in CIDR notation; a single address is one of its own.

    Raises:
        UsageError: it is none.
    """
    try:
        return str(ipaddress.ip_network(text.strip(), strict=False))
    except ValueError as error:
        raise UsageError(
            "gateway.bad_network",
            tr("`{text}` is no network", text=text),
            tr("write an address or CIDR, for example `10.0.0.0/8`"),
        ) from error


def add_user(store: Store, name: str, role: Role = "user", group: str = "default") -> User:
    """Make a user, in a group that limits and channels may name.

    Raises:
        ConflictError: the name is taken.
        UsageError: bad name or role.
    """
    check_name(name, tr("user"))
    check_name(group, tr("group"))
    if role not in get_args(Role):
        raise UsageError(
            "gateway.bad_role",
            tr("`{role}` is not a role", role=role),
            tr("roles: {names}", names=", ".join(get_args(Role))),
        )
    with store.write() as db:
        if db.execute(select(users.c.id).where(users.c.name == name)).first():
            raise ConflictError(
                "gateway.user_exists",
                tr("the user `{name}` exists already", name=name),
                tr("list them with `slipway gateway user ls`"),
            )
        made = now_ms()
        result = db.execute(
            insert(users).values(name=name, role=role, group=group, created_at=made)
        )
        assert result.inserted_primary_key is not None
        return User(result.inserted_primary_key[0], name, role, True, made, group)


def list_users(store: Store) -> list[User]:
    """All users in the order of their names."""
    with store.read() as db:
        rows = db.execute(select(users).order_by(users.c.name)).all()
    return [
        User(row.id, row.name, row.role, row.enabled, row.created_at, row.group) for row in rows
    ]


def add_token(
    store: Store,
    name: str,
    *,
    user: str,
    models: list[str] | None = None,
    budget_micro: int | None = None,
    lifetime_ms: int | None = None,
    rpm: int | None = None,
    networks: list[str] | None = None,
    capture: Consent | None = None,
) -> tuple[Token, str]:
    """Make a token.

    Returns:
        the token, and its key, which is shown this once and kept only as a SHA-256 hash.

    Raises:
        NotFoundError: no such user.
        ConflictError: the user has an enabled token of this name.
        UsageError: a limit that is not positive.
    """
    check_name(name, tr("token"))
    for option, value in (("--budget", budget_micro), ("--rpm", rpm), ("--expires", lifetime_ms)):
        if value is not None and value <= 0:
            raise UsageError(
                "gateway.bad_limit", tr("{option} must be greater than zero", option=option)
            )
    key = "sk-" + "".join(secrets.choice(_ALPHABET) for _ in range(_KEY_LENGTH))
    made = now_ms()
    with store.write() as db:
        user_id = _user_id(db, user)
        same = select(tokens.c.id).where(
            tokens.c.user_id == user_id, tokens.c.name == name, tokens.c.enabled
        )
        if db.execute(same).first():
            raise ConflictError(
                "gateway.token_exists",
                tr("`{user}` has a token `{name}` already", user=user, name=name),
                tr("revoke it with `slipway gateway token revoke {name}`", name=name),
            )
        result = db.execute(
            insert(tokens).values(
                user_id=user_id,
                name=name,
                prefix=key[:_PREFIX_LENGTH],
                hash=digest_of(key),
                created_at=made,
                expires_at=made + lifetime_ms if lifetime_ms else None,
                models=models,
                budget_micro=budget_micro,
                rpm=rpm,
                networks=None if networks is None else [check_network(text) for text in networks],
                **(capture.columns() if capture else {}),
            )
        )
        assert result.inserted_primary_key is not None
        made_id = result.inserted_primary_key[0]
        row = db.execute(_TOKEN_BY_ID, {"token_id": made_id}).one()
    return _token(row), key


def list_tokens(store: Store) -> list[Token]:
    """All tokens, by user and name."""
    with store.read() as db:
        rows = db.execute(_TOKENS.order_by(users.c.name, tokens.c.name, tokens.c.id)).all()
    return [_token(row) for row in rows]


def revoke_token(store: Store, name: str) -> Token:
    """Disable a token for good; requests in flight end normally.

    Args:
        name: the token's name, or the prefix of its key where names repeat.

    Raises:
        NotFoundError: no enabled token has this name or prefix.
        ConflictError: several have.
    """
    return _change_token(store, name, {"enabled": False})


def set_capture(store: Store, name: str, capture: Consent | None) -> Token:
    """Give or withdraw consent; what is kept already stays until its time is over.

    Raises:
        NotFoundError, ConflictError: as `revoke_token`.
    """
    nothing = dict.fromkeys(Consent().columns())
    return _change_token(store, name, capture.columns() if capture else nothing)


def _change_token(store: Store, name: str, values: Mapping[str, Any]) -> Token:
    with store.write() as db:
        rows = db.execute(_TOKENS.where(tokens.c.enabled)).all()
        found = [row for row in rows if name in (row.name, row.prefix)]
        if not found:
            close = nearest(name, [row.name for row in rows])
            raise NotFoundError(
                "gateway.token_not_found",
                tr("no enabled token `{name}`", name=name),
                tr("did you mean {names}?", names=", ".join(f"`{n}`" for n in close))
                if close
                else tr("list them with `slipway gateway token ls`"),
            )
        if len(found) > 1:
            raise ConflictError(
                "gateway.token_ambiguous",
                tr("several tokens are named `{name}`", name=name),
                tr("name one by its prefix: {names}", names=", ".join(r.prefix for r in found)),
            )
        db.execute(update(tokens).where(tokens.c.id == found[0].id).values(values))
        row = db.execute(_TOKEN_BY_ID, {"token_id": found[0].id}).one()
    return _token(row)


@dataclass(frozen=True, slots=True)
class Known:
    """A key that is in the database, whether it may be used or not."""

    token: Token
    user_enabled: bool
    role: Role = "user"


def find_key(db: Connection, digest: str) -> Known | None:
    """The token with this hash; None when there is none."""
    row = db.execute(_TOKEN_BY_HASH, {"key_hash": digest}).first()
    if row is None or not hmac.compare_digest(row.hash, digest):
        return None
    return Known(_token(row), row.user_enabled, row.user_role)


def check_key(known: Known | None, at_ms: int) -> Known:
    """The same, when it may be used.

    Raises:
        ApiError: 401 for a key that is unknown, revoked or expired; 403 when its user is disabled.
    """
    if known is None:
        raise invalid_key("Wrong API key.")
    token = known.token
    if not token.enabled:
        raise invalid_key("This API key was revoked.")
    if token.expires_at is not None and token.expires_at <= at_ms:
        raise invalid_key("This API key has expired.")
    if not known.user_enabled:
        raise ApiError(403, "user_disabled", "The user of this API key is disabled.")
    return known


def authenticate(db: Connection, key: str | None, at_ms: int) -> Token:
    """The token that a key opens.

    Args:
        key: what stood after `Bearer `; None when there was no such header.

    Raises:
        ApiError: 401 for a key that is missing, unknown, revoked or expired; 403 when its user is
            disabled.
    """
    if not key:
        raise invalid_key("No API key: send `Authorization: Bearer sk-...`.")
    return check_key(find_key(db, digest_of(key)), at_ms).token


def digest_of(key: str) -> str:
    """The hash under which a key is kept."""
    # keys are random and long, so a plain hash cannot be searched and a slow one buys nothing
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def user_number(store: Store, name: str) -> int:
    """The id of a user.

    Raises:
        NotFoundError: no such user.
    """
    with store.read() as db:
        return _user_id(db, name)


def _user_id(db: Connection, name: str) -> int:
    known = {row.name: row.id for row in db.execute(select(users.c.name, users.c.id))}
    if name not in known:
        close = nearest(name, known)
        raise NotFoundError(
            "gateway.user_not_found",
            tr("no user `{name}`", name=name),
            tr("did you mean {names}?", names=", ".join(f"`{n}`" for n in close))
            if close
            else tr("make one with `slipway gateway user add {name}`", name=name),
        )
    return int(known[name])


def _token(row: Row[Any]) -> Token:
    return Token(
        id=row.id,
        user_id=row.user_id,
        user=row.user,
        name=row.name,
        prefix=row.prefix,
        enabled=row.enabled,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        models=None if row.models is None else tuple(row.models),
        budget_micro=row.budget_micro,
        used_micro=row.used_micro,
        held_micro=row.held_micro,
        rpm=row.rpm,
        group=row.user_group,
        networks=None if row.networks is None else tuple(row.networks),
        capture=consent_of(row),
    )
