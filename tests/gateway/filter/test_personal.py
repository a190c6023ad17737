"""Personal data and keys do not reach logs and captures."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.gateway.filter import mask_body, mask_personal


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mail ada.l@slipway.dev now", "mail [EMAIL] now"),
        ("打 13812345678 或 +86 138-1234-5678", "打 [MOBILE] 或 [MOBILE]"),
        ("电话 010-62345678", "电话 [LANDLINE]"),
        ("全角 １３８１２３４５６７８！", "全角 [MOBILE]！"),
        ("身份证 11010519491231002X。", "身份证 [ID_CARD]。"),
        ("no id: 110105194912310021", "no id: 110105194912310021"),
        ("card 4111 1111 1111 1111", "card 4111 1111 1111 1111"),
        ("card 4012-8888-8888-1881", "card [BANK_CARD]"),
        ("card 4012-8888-8888-1882", "card 4012-8888-8888-1882"),
        ("key sk-proj-abcDEF1234567890_x.", "key [KEY]."),
        ("Authorization: Bearer abcdef0123456789abcdef", "Authorization: Bearer [KEY]"),
        ("ghp_" + "a1" * 18, "[KEY]"),
        ("AKIAIOSFODNN7EXAMPLE", "[KEY]"),
        ("LTAI5tAbcdEfgh12345678", "[KEY]"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJlLXNpZ25hdHVyZQ", "[KEY]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- ok", "[KEY] ok"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEcut off", "[KEY]"),
        ("task-list-for-tomorrow-morning", "task-list-for-tomorrow-morning"),
        ("the bearer of this", "the bearer of this"),
        ("", ""),
    ],
)
def test_what_is_masked_and_what_is_not(text: str, masked: str) -> None:
    assert mask_personal(text) == masked


def test_addresses_are_masked_only_when_asked_for() -> None:
    assert mask_personal("from 10.1.2.3") == "from 10.1.2.3"
    assert mask_personal("from 10.1.2.3", {"ipv4"}) == "from [IP]"


def test_a_body_is_masked_everywhere_and_left_as_it_was() -> None:
    body: dict[str, Any] = {
        "model": "m",
        "n": 1,
        "messages": [{"role": "user", "content": "I am 13812345678"}],
        "metadata": {"ada@slipway.dev": 13812345678, "ok": True, "score": 0.5, "none": None},
    }
    assert mask_body(body) == {
        "model": "m",
        "n": 1,
        "messages": [{"role": "user", "content": "I am [MOBILE]"}],
        "metadata": {"[EMAIL]": "[MOBILE]", "ok": True, "score": 0.5, "none": None},
    }
    assert body["messages"][0]["content"] == "I am 13812345678"


def test_what_lies_too_deep_is_replaced_as_a_whole() -> None:
    deep: Any = "13812345678"
    for _ in range(500):
        deep = [deep]
    assert "138" not in str(mask_body(deep))


@given(st.text(st.sampled_from("abc 法，。eyJ-.@"), max_size=80))
def test_a_text_without_digits_and_addresses_is_not_changed(text: str) -> None:
    if "@" not in text:
        assert mask_personal(text) == text


def test_a_long_hostile_text_is_masked_in_time_that_grows_with_its_length() -> None:
    hostile = "-----BEGIN PRIVATE KEY-----" * 4000 + "eyJaaaaaaaa-" * 9000 + "sk-" * 50_000
    assert len(mask_personal(hostile)) < len(hostile)
