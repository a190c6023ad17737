from __future__ import annotations

import json
from typing import Any

import pytest
from tests.gateway.routing.channels_for_tests import MODEL, channel, live, numbers

from slipway.gateway.routing import Channel
from slipway.gateway.routing.attempts import Attempts, Router, Sending
from slipway.gateway.routing.explain import Explanation, explain
from slipway.gateway.routing.live import Live
from slipway.gateway.routing.retry import Failure, RetryBudget
from slipway.gateway.routing.strategy import Ask, RoutingRules, Strategy
from slipway.gateway.routing.table import ChannelTable
from slipway.gateway.routing.variants import Fallbacks


def router(channels: list[Channel], state: Live | None = None, **more: Any) -> Router:
    return Router(ChannelTable(channels), state or live(), RetryBudget(), numbers(), **more)


def reasons(found: Explanation) -> dict[int, str]:
    return {line.channel.id: line.code for line in found.lines}


def fail(own: Router, pinned: int, failure: Failure, times: int = 1) -> None:
    for _ in range(times):
        attempts = Attempts(own, Ask(MODEL, pinned=pinned), 0.0)
        assert isinstance(attempts.next(0.0), Sending)
        attempts.failed(failure, 0.0)


def test_every_channel_of_the_model_is_named_with_its_place_or_the_reason_against_it() -> None:
    own = router(
        [
            channel(1, weight=3, priority=1),
            channel(2, weight=1, priority=1),
            channel(3),
            channel(4, enabled=False, disabled_by="ada"),
            channel(5, groups=frozenset({"vip"})),
            channel(6, tags=frozenset({"eu"})),
            channel(7, needs_key=True, tags=frozenset({"eu"})),
            channel(8),
            channel(9),
            channel(10, models={"other": "x"}),
        ],
        fallbacks=Fallbacks(failed={MODEL: ("b",)}),
    )
    fail(own, 8, Failure("connect"), 5)
    found = explain(own, Ask(MODEL, group="default", excluded={9}), 0.0)
    codes = reasons(found)
    assert {codes.pop(1), codes.pop(2)} == {codes.pop(3), codes.pop(6)} == {"weighted", "next"}
    assert codes == {
        **{4: "disabled", 5: "group", 7: "key_missing", 8: "breaker", 9: "excluded"},
    }
    assert [line.place for line in found.lines] == [1, 2, 3, 4, *[None] * 5]
    by_id = {line.channel.id: line for line in found.lines}
    assert (by_id[1].share, by_id[2].share, by_id[3].share) == (0.75, 0.25, None)
    assert by_id[4].text.en == "disabled by ada"
    assert by_id[8].text.en == "breaker: open (failures), tried again in 5.0 s"
    assert found.fallbacks == ("b",) and found.come_back_s is None


def test_the_order_said_is_the_order_taken() -> None:
    channels = [channel(n, priority=n % 2, keys=(1,)) for n in range(6)]
    own = router(channels, rules=RoutingRules("cost"))
    own.live.prices = {(n, MODEL): 100 - n for n in range(6)}
    found = explain(own, Ask(MODEL), 0.0)
    attempts, taken = Attempts(own, Ask(MODEL), 0.0), []
    now = 0.0
    for _ in range(4):
        now += 5.0
        step = attempts.next(now)
        assert isinstance(step, Sending)
        taken.append(step.target.channel.id)
        attempts.failed(Failure("connect"), now)
    assert [line.channel.id for line in found.lines][:4] == taken == [5, 3, 1, 4]


@pytest.mark.parametrize(
    ("strategy", "code"),
    [
        ("least_busy", "the least busy: 0"),
        ("latency", "not measured"),
        ("cost", "none has a price"),
    ],
)
def test_the_first_one_says_what_put_it_there(strategy: Strategy, code: str) -> None:
    found = explain(router([channel(1)], rules=RoutingRules(strategy)), Ask(MODEL), 0.0)
    assert found.lines[0].code == strategy and found.lines[0].text.en.startswith(code)


def test_a_prefixs_owner_that_has_too_much_load_is_pointed_out() -> None:
    own = router([channel(1), channel(2)])
    owner = explain(own, Ask(MODEL, prefix=7), 0.0).lines[0]
    assert owner.code == "prefix"
    for _ in range(20):
        own.live.loads.begin(owner.channel.id)
    found = explain(own, Ask(MODEL, prefix=7), 0.0)
    assert found.ordered_by == "prefix"
    assert reasons(found)[owner.channel.id] == "prefix_hot" and found.lines[0].code == "prefix"


def test_full_channels_and_weight_0_are_said_to_be_so() -> None:
    own = router([channel(1), channel(2, slots=1), channel(3, weight=0)])
    own.live.loads.begin(2)
    found = explain(own, Ask(MODEL), 0.0)
    assert reasons(found) == {1: "weighted", 2: "full", 3: "weight_0"}
    assert {line.channel.id: line.share for line in found.lines} == {1: 1.0, 2: 0.0, 3: 0.0}


def test_when_nothing_is_left_it_says_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_LANG", "en")
    own = router([channel(1), channel(2, keys=(7,))])
    fail(own, 1, Failure("status", 429, retry_after_s=30.0))
    fail(own, 2, Failure("status", 401))
    found = explain(own, Ask(MODEL), 10.0)
    assert reasons(found) == {1: "breaker", 2: "keys_refused"} and found.come_back_s == 20.0
    assert found.as_text().splitlines() == [
        "`m`: 0 of 2 channels can take the request",
        "  -  c1: breaker: open (rate limit), tried again in 20 s",
        "  -  c2: no key can be used: open (key refused), tried again in 50 s",
        "the next try is possible in 20 s",
    ]
    monkeypatch.setenv("SLIPWAY_LANG", "zh")
    assert found.as_text().splitlines()[1] == "  -  c1：熔断器：断开（触发限流），20 秒后重试"


def test_a_model_that_only_disabled_channels_have_is_explained_too() -> None:
    own = router([channel(1, models={"a:latest": "x"}, enabled=False)])
    found = explain(own, Ask("a"), 0.0)
    assert (found.asked, found.model, reasons(found)) == ("a", "a:latest", {1: "disabled"})
    nothing = explain(own, Ask("zzz"), 0.0)
    assert nothing.model is None
    assert [text.en for text in nothing.texts()] == ["no channel has the model `zzz`"]


def test_explaining_takes_no_probe_and_its_json_holds_no_secret() -> None:
    own = router([channel(1, sealed_key=b"secret")])
    fail(own, 1, Failure("connect"), 5)
    for _ in range(3):
        found = explain(own, Ask(MODEL), 5.0)
    (row,) = json.loads(json.dumps(found.as_json()))["channels"]
    assert row["place"] == 1 and row["breaker"]["state"] == "half_open"
    assert row["keys"][0]["id"] == 0 and "secret" not in json.dumps(row)
    attempts = Attempts(own, Ask(MODEL), 5.0)
    assert isinstance(attempts.next(5.0), Sending)
    busy = explain(own, Ask(MODEL), 5.0)
    assert busy.lines[0].text.en == "breaker: half-open, its probe is under way"
