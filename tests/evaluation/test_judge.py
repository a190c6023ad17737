from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.core.errors import AuthError, UnreachableError
from slipway.evaluation.endpoint import TRIES, each
from slipway.evaluation.judge import Judge, cost, judge_pair, outcome, read_verdict
from slipway.evaluation.predictions import Prediction
from slipway.testing.fake_upstream import FakeAnswer, FakeUpstream

PRICE = (Decimal("0.5"), Decimal("1.5"))


def answers(texts: list[str]) -> list[Prediction]:
    return [Prediction(f"r{n}", f"question {n}", text, "right") for n, text in enumerate(texts)]


def says(verdict: str) -> FakeAnswer:
    return FakeAnswer((json.dumps({"reason": "so", "winner": verdict}),), usage=(100, 10))


def prefers_good(body: dict[str, Any]) -> FakeAnswer:
    """An honest judge: the answer with `good` in it wins, wherever it stands."""
    shown = re.findall(r"<answer_\d>\n(.*?)\n</answer_\d>", body["messages"][0]["content"], re.S)
    good = [number for number, text in enumerate(shown, 1) if "good" in text]
    return says(str(good[0]) if len(good) == 1 else "tie")


def run(
    upstream: FakeUpstream, path: Path, base: list[str], tuned: list[str], **more: Any
) -> dict[str, Any]:
    judge = Judge(upstream.url, "judge", price=PRICE, **more)
    return judge_pair(
        judge,
        answers(base),
        answers(tuned),
        path,
        seed=0,
        resamples=200,
        sleep=lambda seconds: None,
    )


def test_an_honest_judge_is_asked_in_both_orders_and_counted(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    upstream.respond = prefers_good
    found = run(
        upstream,
        tmp_path / "judge.jsonl",
        ["bad", "good a", "good x", "same"],
        ["good b", "bad", "good y", "same"],
    )
    assert (found["wins"], found["losses"], found["ties"]) == (1, 1, 2)
    assert found["won"] == ["r0"] and found["lost"] == ["r1"]
    assert found["requests"] == len(upstream.seen) == 6  # equal answers are not asked about
    assert found["win_rate"]["value"] == 50
    assert (found["prompt_tokens"], found["tokens"]) == (600, 60)
    assert Decimal(found["cost"]) == (600 * PRICE[0] + 60 * PRICE[1]) / 1_000_000


def test_a_judge_that_looks_at_the_place_only_decides_nothing(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    upstream.respond = lambda body: says("1")
    found = run(upstream, tmp_path / "judge.jsonl", ["a", "b"], ["c", "d"])
    assert found["disagreements"] == 2 and found["wins"] == found["losses"] == 0
    assert found["win_rate"]["value"] == 50


def test_answers_without_a_verdict_are_named_and_decide_nothing(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    def respond(body: dict[str, Any]) -> FakeAnswer:
        if "question 1" in body["messages"][0]["content"]:
            return FakeAnswer(("I cannot say.",))
        return prefers_good(body)

    upstream.respond = respond
    path = tmp_path / "judge.jsonl"
    found = run(upstream, path, ["bad", "bad"], ["good", "good"])
    assert found["unreadable"] == ["r1"]
    assert found["wins"] == 1 and found["win_rate"]["value"] == 100
    seen = len(upstream.seen)
    upstream.respond = prefers_good
    again = run(upstream, path, ["bad", "bad"], ["good", "good"])  # asks for these two only
    assert len(upstream.seen) == seen + 2
    assert again["wins"] == 2 and again["unreadable"] == []


def test_an_interrupted_judge_goes_on_where_it_was(upstream: FakeUpstream, tmp_path: Path) -> None:
    path = tmp_path / "judge.jsonl"
    refused = FakeAnswer(status=401, body=b'{"error": {"message": "quota"}}')
    upstream.respond = lambda body: prefers_good(body) if len(upstream.seen) <= 3 else refused
    base, tuned = ["bad"] * 4, ["good"] * 4
    with pytest.raises(AuthError):
        run(upstream, path, base, tuned, at_once=1)
    assert len(path.read_text().splitlines()) == 3
    upstream.respond = prefers_good
    before = len(upstream.seen)
    assert run(upstream, path, base, tuned, at_once=1)["wins"] == 4
    assert len(upstream.seen) == before + 5


def test_a_new_answer_is_judged_anew_and_the_rest_is_kept(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    upstream.respond = prefers_good
    path = tmp_path / "judge.jsonl"
    run(upstream, path, ["bad", "bad"], ["good", "poor"])
    asked = len(upstream.seen)
    found = run(upstream, path, ["bad", "bad"], ["good", "good"])
    assert len(upstream.seen) == asked + 2 and found["wins"] == 2
    assert len(path.read_text().splitlines()) == 4


def test_the_first_error_begins_nothing_new_and_is_raised() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        if number == 3:
            raise ValueError("three")
        done.append(number)

    with pytest.raises(ValueError, match="three"):
        each(range(100), work, at_once=2)
    assert len(done) < 100
    each(range(50), done.append, at_once=8)
    assert set(done[-50:]) <= set(range(50)) and done.count(49) == 1
    each([], work, at_once=4)


def test_a_busy_judge_is_asked_again_after_the_time_it_says(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    upstream.respond = prefers_good
    upstream.script(
        FakeAnswer(status=429, body=b"{}", headers={"Retry-After": "7"}),
        FakeAnswer(status=503, body=b"{}"),
    )
    pauses: list[float] = []
    found = judge_pair(
        Judge(upstream.url, "judge", at_once=1),
        answers(["bad"]),
        answers(["good"]),
        tmp_path / "judge.jsonl",
        seed=0,
        resamples=200,
        sleep=pauses.append,
    )
    assert found["wins"] == 1 and found["cost"] is None
    assert pauses[0] == 7 and len(pauses) == 2


def test_a_judge_that_stays_busy_stops_the_evaluation(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    upstream.respond = lambda body: FakeAnswer(status=429, body=b"{}")
    with pytest.raises(UnreachableError):
        run(upstream, tmp_path / "judge.jsonl", ["a"], ["b"], at_once=1)
    assert len(upstream.seen) == TRIES


def test_the_key_is_sent_but_stands_nowhere(upstream: FakeUpstream, tmp_path: Path) -> None:
    upstream.api_key = "secret-key"
    upstream.respond = prefers_good
    run(upstream, tmp_path / "judge.jsonl", ["bad"], ["good"], key="secret-key")
    assert upstream.seen[0].headers["authorization"] == "Bearer secret-key"
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert "secret-key" not in path.read_text()
    assert "secret-key" not in repr(Judge("http://x", "judge", "secret-key"))
    with pytest.raises(AuthError) as error:
        run(upstream, tmp_path / "other.jsonl", ["bad"], ["good"], key="wrong-key")
    assert "wrong-key" not in str(error.value)
    said = b'{"error": {"message": "bad key: wrong-key"}}'
    upstream.script(FakeAnswer(status=401, body=said))
    upstream.api_key = None
    with pytest.raises(AuthError, match="bad key") as repeated:
        run(upstream, tmp_path / "third.jsonl", ["bad"], ["good"], key="wrong-key")
    assert "wrong-key" not in str(repeated.value)


def test_the_chinese_prompt_and_a_blind_judge(upstream: FakeUpstream, tmp_path: Path) -> None:
    upstream.respond = prefers_good
    run(upstream, tmp_path / "a.jsonl", ["bad"], ["good"], language="zh")
    assert "参考答案" in upstream.seen[0].body["messages"][0]["content"]
    run(upstream, tmp_path / "b.jsonl", ["bad"], ["good"], with_reference=False)
    assert "<reference>" not in upstream.seen[-1].body["messages"][0]["content"]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ('{"reason": "x", "winner": "1"}', "first"),
        ('```json\n{"winner": 2}\n```', "second"),
        ('Winner: "tie"', "tie"),
        ('<think>winner: 1</think>{"winner": "2"}', "second"),
        ('{"winner": "12"}', "unreadable"),
        ("", "unreadable"),
    ],
)
def test_verdicts_are_read_from_what_judges_write(text: str, verdict: str) -> None:
    assert read_verdict(text) == verdict


VERDICTS = st.sampled_from(["first", "second", "tie", "unreadable"])


@given(VERDICTS, VERDICTS)
def test_swapping_the_models_swaps_the_outcome(forward: Any, swapped: Any) -> None:
    # with the models exchanged, what was shown first is shown second: the verdicts change places
    mirror = {"model": "baseline", "baseline": "model"}
    there, back = outcome(forward, swapped), outcome(swapped, forward)
    assert back == mirror.get(there, there)


def test_prices_are_for_a_million_tokens() -> None:
    assert cost(1_000_000, 0, (Decimal("0.27"), Decimal(1))) == "0.270000"
    assert cost(1, 1, None) is None
