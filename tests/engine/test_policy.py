from __future__ import annotations

from pathlib import Path

from slipway.engine.policy import Evict, Grant, Row, Start, State, Wait, plan
from slipway.engine.spec import LoadSpec


def spec(name: str, num_ctx: int = 4096, num_gpu: int | None = None) -> LoadSpec:
    return LoadSpec(Path(name), None, "generate", num_ctx, 4, num_gpu=num_gpu)


def row(
    id: int, name: str, state: State = "ready", leases: int = 0, used: float = 0.0, ctx: int = 4096
) -> Row:
    return Row(id, spec(name, ctx), state, leases, used)


def test_a_loaded_model_is_granted_and_an_absent_one_started() -> None:
    assert plan([row(1, "a")], [spec("a"), spec("b")], 3) == [Grant(1), Start()]


def test_two_requests_for_one_absent_model_start_it_once() -> None:
    assert plan([], [spec("a"), spec("a")], 3) == [Start(), Wait()]


def test_a_loading_or_suspect_model_is_waited_for() -> None:
    rows = [row(1, "a", "loading"), row(2, "b", "suspect")]
    assert plan(rows, [spec("a"), spec("b")], 3) == [Wait(), Wait()]


def test_the_idle_model_least_recently_used_makes_room() -> None:
    rows = [row(1, "a", used=5.0), row(2, "b", used=1.0), row(3, "c", leases=1, used=0.0)]
    assert plan(rows, [spec("d")], 3) == [Evict(2)]


def test_a_busy_model_is_never_evicted() -> None:
    assert plan([row(1, "a", leases=1)], [spec("b")], 1) == [Wait()]


def test_a_model_that_somebody_waits_for_is_not_evicted() -> None:
    assert plan([row(1, "a")], [spec("b"), spec("a")], 1) == [Wait(), Grant(1)]


def test_room_that_is_coming_is_not_made_twice() -> None:
    rows = [row(1, "a", "stopping"), row(2, "b")]
    assert plan(rows, [spec("c")], 2) == [Wait()]
    assert plan(rows, [spec("c"), spec("d")], 2) == [Wait(), Evict(2)]


def test_two_absent_models_take_two_places() -> None:
    rows = [row(1, "a", used=1), row(2, "b", used=2)]
    assert plan(rows, [spec("c"), spec("d")], 2) == [Evict(1), Evict(2)]
    assert plan(rows, [spec("c"), spec("c")], 2) == [Evict(1), Wait()]


def test_a_larger_context_serves_a_smaller_one_and_not_the_other_way() -> None:
    assert plan([row(1, "a", ctx=8192)], [spec("a", 4096)], 1) == [Grant(1)]
    assert plan([row(1, "a", ctx=2048)], [spec("a", 4096)], 1) == [Evict(1)]
    assert plan([row(1, "a", ctx=2048, leases=1)], [spec("a", 4096)], 1) == [Wait()]


def test_a_load_option_that_differs_reloads_and_one_left_open_does_not() -> None:
    loaded = Row(1, spec("a", num_gpu=0), "ready", 0, 0.0)
    assert plan([loaded], [spec("a")], 1) == [Grant(1)]
    assert plan([loaded], [spec("a", num_gpu=9)], 1) == [Evict(1)]
