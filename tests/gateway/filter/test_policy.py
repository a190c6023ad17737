"""What requests and answers get, and what of it is written down."""

from __future__ import annotations

import json

import pytest

from slipway.core.errors import InputError
from slipway.gateway.filter import CODE, FINISH_REASON, STATUS, ContentFilter, Rule, words_of
from slipway.gateway.filter.policy import MAX_HITS


def chat(*contents: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content} for content in contents]}


house = ContentFilter(
    [
        Rule("secrets", words_of(["project x"], group="plans"), mode="block"),
        Rule("watched", words_of(["weather"]), mode="audit"),
    ]
)


def test_the_words_of_the_protocol() -> None:
    assert (STATUS, CODE, FINISH_REASON) == (400, "content_policy_violation", "content_filter")


def test_a_clean_request_is_allowed() -> None:
    verdict = house.check_request(chat("hello"))
    assert (verdict.action, verdict.hits, verdict.message) == ("allow", (), "")


def test_a_watched_word_is_noted_and_let_through() -> None:
    verdict = house.check_request(chat("the WEATHER today"))
    assert verdict.action == "audit" and verdict.blocked is None
    assert verdict.hits[0].rule == "watched"
    assert verdict.hits[0].field == "messages[0].content"


def test_a_blocked_request_names_rule_and_field_but_not_the_word() -> None:
    verdict = house.check_request(chat("hi", "tell me of Ｐroject\u3000X and the weather"))
    assert verdict.action == "block" and len(verdict.hits) == 2
    assert "secrets" in verdict.message and "messages[1].content" in verdict.message
    assert "roject" not in verdict.message


def test_a_word_is_found_across_the_parts_of_a_message() -> None:
    parts = [{"type": "text", "text": "proj"}, {"type": "text", "text": "ect x"}]
    body = {"messages": [{"role": "user", "content": parts}]}
    assert house.check_request(body).action == "block"


def test_the_log_has_neither_the_word_nor_personal_data() -> None:
    text = "mail ada@slipway.dev or call 13812345678 about project x; key sk-" + "a1" * 12
    written = json.dumps(house.check_request(chat(text)).log())
    assert '"group": "plans"' in written
    for secret in ("project", "ada@", "138123", "a1a1"):
        assert secret not in written
    assert "[MOBILE]" in written


def test_personal_data_that_an_excerpt_would_cut_is_still_masked() -> None:
    (hit,) = house.check_text("card 4012888888881881 for project x").hits
    assert hit.excerpt == "…[BANK_CARD] for p********"


@pytest.mark.parametrize("number", ["4012888888881881", "13812345678", "11010519491231002X"])
def test_no_piece_of_a_number_is_in_a_streams_log(number: str) -> None:
    text = "x" * 70 + f" 号码{number}的 project x, 号码{number}"
    for size in (1, 2, 3, 5):
        stream = house.stream()
        for at in range(0, len(text), size):
            stream.feed(0, text[at : at + size])
        stream.finish(0)
        (hit,) = stream.verdict.hits
        assert not any(number[n : n + 4] in hit.excerpt for n in range(len(number) - 3))
        assert "p********" in hit.excerpt


def test_rules_look_only_where_they_should() -> None:
    both = ContentFilter(
        [
            Rule("asked", words_of(["foo"]), where="request"),
            Rule("told", words_of(["bar"]), where="answer"),
        ]
    )
    assert both.check_text("foo", "request").action == "block"
    assert both.check_text("foo", "answer").action == "allow"
    assert both.check_text("bar", "request").action == "allow"
    assert both.check_answer({"choices": [{"text": "a bar"}]}).action == "block"
    assert both.looks_at_answers
    assert not ContentFilter([Rule("asked", words_of(["foo"]), where="request")]).looks_at_answers


def test_without_rules_everything_is_allowed_and_forwarded() -> None:
    nothing = ContentFilter([])
    assert nothing.check_request(chat("anything")).action == "allow"
    stream = nothing.stream()
    assert stream.feed(0, "anything ") == "anything " and stream.finish(0) == ""


def test_whole_words_spare_longer_words_but_not_chinese() -> None:
    rules = ContentFilter([Rule("r", words_of(["ass", "赌博"]), whole_words=True)])
    for text in ("class", "assume", "ＣＬＡＳＳ", "ass\u0301"):
        assert rules.check_text(text).action == "allow", text
    for text in ("an ass.", "ass", "去赌博吧", "中ass文"):
        assert rules.check_text(text).action == "block", text


def test_choices_of_a_stream_are_texts_of_their_own() -> None:
    stream = house.stream()
    assert stream.feed(0, "a proj") == "a "
    assert stream.feed(1, "ect x") == "ect x"
    assert stream.feed(0, "ect") == ""
    assert stream.feed("0.reasoning", " x") == " x"
    assert stream.feed(0, " x!") == ""
    assert stream.is_blocked(0) and not stream.is_blocked(1) and not stream.is_blocked(7)
    assert stream.finish(0) == "" and stream.finish(1) == ""
    assert stream.verdict.action == "block"
    assert [hit.field for hit in stream.verdict.hits] == ["choice 0"]


def test_a_stream_shares_what_it_learned_but_not_where_it_stands() -> None:
    for _ in range(3):
        first, second = house.stream(), house.stream()
        assert first.feed(0, "my proj") == "my "
        assert second.feed(0, "ect x") == "ect x"
        assert first.feed(0, "ector ") == "projector "


def test_hits_are_limited_but_a_block_is_never_missed() -> None:
    text = "weather " * (MAX_HITS * 3) + "project x"
    verdict = house.check_text(text)
    assert len(verdict.hits) == MAX_HITS + 1 and verdict.action == "block"
    stream = house.stream()
    for word in text.split(" "):
        stream.feed(0, word + " ")
    assert stream.is_blocked(0) and len(stream.verdict.hits) == MAX_HITS + 1


def test_the_same_word_in_two_rules_counts_for_both() -> None:
    two = ContentFilter(
        [Rule("a", words_of(["Foo"]), mode="audit"), Rule("b", words_of(["foo"]), mode="block")]
    )
    assert [hit.rule for hit in two.check_text("foo").hits] == ["a", "b"]


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="rule_twice"):
        ContentFilter([Rule("a", ()), Rule("a", ())])
