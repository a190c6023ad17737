from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.datasets.personal import KINDS, Mask, find_personal, is_bank_card, is_id_card


def kinds_in(text: str) -> list[tuple[str, str]]:
    return [(one.kind, text[one.start : one.end]) for one in find_personal(text, KINDS)]


@pytest.mark.parametrize(
    ("text", "kind", "piece"),
    [
        ("电话13812345678谢谢", "mobile", "13812345678"),
        ("打 138-1234-5678 找我", "mobile", "138-1234-5678"),
        ("call +86 138 1234 5678.", "mobile", "+86 138 1234 5678"),
        ("座机010-62345678", "landline", "010-62345678"),
        ("（0755）8234 5678", "landline", "（0755）8234 5678"),
        ("+86 21 5234 5678", "landline", "+86 21 5234 5678"),
        ("分机 0571-88888888-123", "landline", "0571-88888888-123"),
        ("身份证11010519491231002X，", "id_card", "11010519491231002X"),
        ("卡号 6222 0212 3456 7890 128", "bank_card", "6222 0212 3456 7890 128"),
        ("card 4539 1488 0343 6467", "bank_card", "4539 1488 0343 6467"),
        ("mail zhang.san@qq.com!", "email", "zhang.san@qq.com"),
        ("call +1 415-555-2671", "phone_abroad", "+1 415-555-2671"),
        ("地址192.168.1.10", "ipv4", "192.168.1.10"),
    ],
)
def test_each_kind_is_found_with_its_exact_place(text: str, kind: str, piece: str) -> None:
    assert kinds_in(text) == [(kind, piece)]


@pytest.mark.parametrize(
    "text",
    [
        "订单号 202311138123456789",  # eighteen digits, no check digit
        "110105194912310021",  # wrong check digit
        "11010519491331002X",  # month 13
        "400-820-8820",  # a company's service number
        "help@shop.example.com and a@localhost",  # names kept for examples
        "2023-11-24 12:00:00, 2020-2021-2022 3333",
        "价格 12345678901 元，13812345678.5",
        "4111 1111 1111 1111",  # Luhn holds, but it is everybody's test card
        "version v1.2.3.4 on 127.0.0.1",
        "id 913812345678",
        "1-800-555-0199",
    ],
)
def test_numbers_that_only_look_alike_are_left_alone(text: str) -> None:
    assert kinds_in(text) == []


def test_an_ip_address_is_looked_for_only_when_asked_for() -> None:
    assert find_personal("地址 192.168.1.10") == []


@given(st.integers(0, 10**6), st.integers(0, 17))
def test_one_wrong_digit_makes_an_id_card_number_none(seed: int, at: int) -> None:
    rng = random.Random(seed)
    body = f"110101{rng.randint(1930, 2020)}{rng.randint(1, 12):02}{rng.randint(1, 28):02}"
    body += f"{rng.randint(0, 999):03}"
    (check,) = [c for c in "0123456789X" if is_id_card(body + c)]
    number = body + check
    other = rng.choice([c for c in "0123456789" if c != number[at]])
    assert not is_id_card(number[:at] + other + number[at + 1 :])
    assert kinds_in(f"身份证号码：{number}。") == [("id_card", number)]


@given(st.integers(0, 10**15 - 1))
def test_exactly_one_check_digit_makes_a_card(number: int) -> None:
    body = f"62{number % 10**13:013}"
    if len(set(body)) > 3:
        assert sum(is_bank_card(body + digit) for digit in "0123456789") == 1


@given(st.text(max_size=300))
def test_any_text_is_read_and_masking_it_leaves_the_rest_as_it_is(text: str) -> None:
    found = find_personal(text, KINDS)
    assert all(a.end <= b.start for a, b in pairwise(found))
    masked = Mask(KINDS).text(text)
    if not found:
        assert masked == text


@given(
    st.lists(
        st.sampled_from(
            ["13812345678", "a.b@qq.com", "010-62345678", "11010519491231002X", "你好"]
        ),
        max_size=8,
    )
)
def test_nothing_is_found_in_a_masked_text_and_masking_again_changes_nothing(
    parts: list[str],
) -> None:
    masked = Mask().text("，".join(parts))
    assert find_personal(masked) == []
    assert Mask().text(masked) == masked


def test_the_same_value_gets_the_same_placeholder_within_a_row() -> None:
    mask = Mask()
    assert mask.text("13812345678 或 138 1234 5678") == "[MOBILE_1] 或 [MOBILE_1]"
    assert mask.text("+86 13812345678, 13912345678") == "[MOBILE_1], [MOBILE_2]"
    assert mask.text("A@qq.com a@qq.com") == "[EMAIL_1] [EMAIL_1]"
    assert mask.counts == {"mobile": 4, "email": 2}


def test_long_runs_of_letters_and_digits_take_no_time() -> None:
    import time

    began = time.perf_counter()
    for text in ("a" * 200_000 + "@", "1" * 200_000, "1 " * 100_000, "a.-" * 50_000 + "@b"):
        find_personal(text, KINDS)
    assert time.perf_counter() - began < 5  # a pattern that backtracks takes hours
