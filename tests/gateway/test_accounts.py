from __future__ import annotations

import pytest

from slipway.core.errors import ConflictError, NotFoundError, UsageError
from slipway.gateway import Store, add_token, add_user, list_tokens, revoke_token
from slipway.gateway.accounts import authenticate
from slipway.gateway.clock import now_ms, parse_lifetime
from slipway.gateway.problems import ApiError

DAY_MS = 86_400_000


@pytest.fixture(autouse=True)
def ada(store: Store) -> None:
    add_user(store, "ada")


def status_of(store: Store, key: str | None, at_ms: int | None = None) -> tuple[int, str | None]:
    try:
        with store.read() as db:
            authenticate(db, key, now_ms() if at_ms is None else at_ms)
    except ApiError as error:
        return error.status, error.code
    return 200, None


def test_the_key_is_nowhere_in_the_files(store: Store) -> None:
    _, key = add_token(store, "laptop", user="ada")
    files = [p.read_bytes() for p in store.path.parent.iterdir()]
    assert files and not any(key.encode() in content for content in files)
    assert key.startswith("sk-") and len(key) > 40


def test_a_key_opens_its_token(store: Store) -> None:
    made, key = add_token(store, "laptop", user="ada", models=["a", "b"])
    with store.read() as db:
        found = authenticate(db, key, now_ms())
    assert found == made
    assert found.allows("a") and not found.allows("c")


def test_wrong_missing_expired_and_revoked_keys_are_refused(store: Store) -> None:
    _, key = add_token(store, "laptop", user="ada", lifetime_ms=DAY_MS)
    assert status_of(store, key) == (200, None)
    assert status_of(store, None) == (401, "invalid_api_key")
    assert status_of(store, key + "x") == (401, "invalid_api_key")
    assert status_of(store, "\udcff") == (401, "invalid_api_key")
    assert status_of(store, key, now_ms() + DAY_MS + 1000) == (401, "invalid_api_key")
    revoke_token(store, "laptop")
    assert status_of(store, key) == (401, "invalid_api_key")


def test_a_disabled_user_is_forbidden(store: Store) -> None:
    _, key = add_token(store, "laptop", user="ada")
    with store.write() as db:
        db.exec_driver_sql("UPDATE users SET enabled = 0")
    assert status_of(store, key) == (403, "user_disabled")


def test_names_are_taken_once_until_revoked(store: Store) -> None:
    add_token(store, "laptop", user="ada")
    with pytest.raises(ConflictError):
        add_token(store, "laptop", user="ada")
    revoke_token(store, "laptop")
    add_token(store, "laptop", user="ada")
    assert [token.enabled for token in list_tokens(store)] == [False, True]
    with pytest.raises(ConflictError):
        add_user(store, "ada")


def test_ambiguous_names_are_told_apart_by_prefix(store: Store) -> None:
    add_user(store, "bob")
    first, _ = add_token(store, "laptop", user="ada")
    add_token(store, "laptop", user="bob")
    with pytest.raises(ConflictError) as caught:
        revoke_token(store, "laptop")
    assert first.prefix in caught.value.hint_en
    assert revoke_token(store, first.prefix).user == "ada"


def test_unknown_names_offer_the_nearest(store: Store) -> None:
    with pytest.raises(NotFoundError) as caught:
        add_token(store, "laptop", user="adda")
    assert "`ada`" in caught.value.hint_en
    with pytest.raises(NotFoundError):
        revoke_token(store, "nothing")


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "semi;colon", "new\nline"])
def test_bad_names_are_refused(store: Store, name: str) -> None:
    with pytest.raises(UsageError):
        add_user(store, name)


def test_limits_must_be_positive(store: Store) -> None:
    with pytest.raises(UsageError, match="--budget"):
        add_token(store, "a", user="ada", budget_micro=0)
    with pytest.raises(UsageError, match="--rpm"):
        add_token(store, "a", user="ada", rpm=-1)
    assert list_tokens(store) == []


def test_lifetimes() -> None:
    assert parse_lifetime("30d") == 30 * DAY_MS
    assert parse_lifetime("90m") == 5_400_000
    for text in ("", "30", "0d", "-1d", "1w", "1.5h"):
        with pytest.raises(UsageError):
            parse_lifetime(text)
