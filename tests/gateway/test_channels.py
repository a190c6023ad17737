from __future__ import annotations

import dataclasses

import pytest

from slipway.core.errors import (
    AuthError,
    ConflictError,
    InputError,
    NotFoundError,
    ToolError,
    UnreachableError,
    UsageError,
)
from slipway.core.process import free_port
from slipway.gateway import (
    ChannelSpec,
    Price,
    Store,
    add_channel,
    list_channels,
    list_prices,
    refresh_channel,
)
from slipway.gateway.channels import upstream_key
from slipway.testing.fake_upstream import FakeUpstream


def test_a_channel_asks_its_upstream_which_models_it_has(
    store: Store, upstream: FakeUpstream
) -> None:
    upstream.models = ["b:latest", "a"]
    made = add_channel(store, ChannelSpec("main", "slipway", upstream.url + "/v1/"))
    assert made.base_url == upstream.url
    assert dict(made.models) == {"a": "a", "b:latest": "b:latest"}
    assert list_channels(store) == [made]


def test_named_models_may_be_renamed_and_nothing_is_asked(store: Store) -> None:
    spec = ChannelSpec("main", "ollama", "http://127.0.0.1:9", models=("a", "chat=b:q4"))
    assert dict(add_channel(store, spec).models) == {"a": "a", "chat": "b:q4"}


def test_failures_of_the_upstream_leave_nothing_behind(
    store: Store, upstream: FakeUpstream
) -> None:
    with pytest.raises(UnreachableError):
        add_channel(store, ChannelSpec("x", "slipway", f"http://127.0.0.1:{free_port()}"))
    upstream.api_key = "secret"
    with pytest.raises(AuthError):
        add_channel(store, ChannelSpec("x", "slipway", upstream.url))
    with pytest.raises(ToolError):
        add_channel(store, ChannelSpec("x", "slipway", upstream.url + "/elsewhere"))
    upstream.api_key, upstream.models = None, []
    with pytest.raises(UsageError, match="no_models"):
        add_channel(store, ChannelSpec("x", "slipway", upstream.url))
    assert list_channels(store) == []


def test_a_paid_service_needs_a_price_and_a_local_one_does_not(store: Store) -> None:
    spec = ChannelSpec("x", "openai", "https://api.example.com", models=("a",))
    with pytest.raises(UsageError, match="unpriced"):
        add_channel(store, spec)
    add_channel(store, dataclasses.replace(spec, price=Price(0, 0)))
    assert list_prices(store) == {"a": Price(0, 0)}
    add_channel(store, ChannelSpec("y", "slipway", "http://127.0.0.1:1", models=("b",)))
    assert "b" not in list_prices(store)


def test_the_upstreams_key_is_sealed(store: Store, upstream: FakeUpstream) -> None:
    upstream.api_key = "top-secret-key"
    made = add_channel(store, ChannelSpec("x", "slipway", upstream.url, api_key="top-secret-key"))
    assert upstream_key(store, made) == "top-secret-key"
    files = {p.name: p.read_bytes() for p in store.path.parent.iterdir()}
    assert not [name for name, content in files.items() if b"top-secret-key" in content]
    assert store.key_file.stat().st_mode & 0o777 == 0o600
    assert "sealed_key" not in repr(made) and "has_key" in made.as_json()
    # sealed for this channel, so that it cannot be moved to one with another address
    with pytest.raises(InputError, match="seal_broken"):
        upstream_key(store, dataclasses.replace(made, name="y"))
    store.key_file.write_bytes(b"k" * 32)
    with pytest.raises(InputError, match="seal_broken"):
        upstream_key(store, made)
    store.key_file.unlink()
    with pytest.raises(NotFoundError, match="seal_key_missing"):
        upstream_key(store, made)


def test_a_name_is_taken_unless_replaced(store: Store, upstream: FakeUpstream) -> None:
    first = add_channel(store, ChannelSpec("x", "slipway", upstream.url))
    with pytest.raises(ConflictError):
        add_channel(store, ChannelSpec("x", "slipway", upstream.url))
    second = add_channel(
        store, ChannelSpec("x", "slipway", upstream.url, priority=5, weight=0), replace=True
    )
    assert (second.id, second.priority, second.weight) == (first.id, 5, 0)


def test_refresh_follows_the_upstream_and_keeps_renamed_models(
    store: Store, upstream: FakeUpstream
) -> None:
    upstream.models = ["a", "b", "c"]
    add_channel(store, ChannelSpec("x", "slipway", upstream.url, models=("a", "chat=b", "s=c")))
    upstream.models = ["b", "d"]
    assert dict(refresh_channel(store, "x").models) == {"chat": "b", "d": "d"}
    with pytest.raises(NotFoundError):
        refresh_channel(store, "y")


@pytest.mark.parametrize(
    "url",
    ["", "ftp://x", "http://", "127.0.0.1:80", "http://u:p@host", "http://h?x=1", "http://h:99999"],
)
def test_bad_addresses_are_refused(store: Store, url: str) -> None:
    with pytest.raises(UsageError):
        add_channel(store, ChannelSpec("x", "slipway", url, models=("a",)))


def test_channels_do_not_point_into_the_house_unasked(store: Store) -> None:
    def spec(kind: str, url: str, allow: bool = False) -> ChannelSpec:
        return ChannelSpec(
            "x", kind, url, models=("a",), price=Price(0, 0), allow_private=allow  # type: ignore[arg-type]
        )  # fmt: skip

    refused = [
        spec("openai", "http://127.0.0.1:80"),
        spec("openai", "http://localhost:80"),
        spec("openai", "http://[::1]:80"),
        spec("openai", "http://10.0.0.1"),
        spec("slipway", "http://192.168.1.1"),
        spec("slipway", "http://169.254.169.254", allow=True),
        spec("slipway", "http://0.0.0.0:80", allow=True),
    ]
    for each in refused:
        with pytest.raises(UsageError, match="address_refused"):
            add_channel(store, each)
    for each in (spec("openai", "http://127.0.0.1:80", allow=True), spec("ollama", "http://[::1]")):
        add_channel(store, each, replace=True)


def test_refresh_of_a_paid_service_takes_no_model_without_a_price(
    store: Store, upstream: FakeUpstream
) -> None:
    upstream.models = ["a"]
    paid = ChannelSpec("x", "openai", upstream.url, price=Price(1, 1), allow_private=True)
    add_channel(store, paid)
    assert dict(refresh_channel(store, "x").models) == {"a": "a"}
    upstream.models = ["a", "dear"]
    with pytest.raises(UsageError) as caught:
        refresh_channel(store, "x")
    assert "dear" in caught.value.message_en and "--replace" in caught.value.hint_en
    assert dict(list_channels(store)[0].models) == {"a": "a"}
