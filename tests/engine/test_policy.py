"""Who is granted, started, evicted: decisions on values, no I/O."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from slipway.engine.policy import (
    Action,
    Ask,
    Evict,
    Grant,
    Refuse,
    Room,
    Row,
    Start,
    State,
    Wait,
    fair_order,
    plan,
)
from slipway.engine.spec import Footprint, LoadSpec


def spec(name: str, num_ctx: int = 4096, num_gpu: int | None = None, size: int = 1) -> LoadSpec:
    need = Footprint(weights_bytes=size)
    return LoadSpec(Path(name), None, "generate", num_ctx, 4, num_gpu=num_gpu, footprint=need)


def row(
    id: int,
    name: str,
    state: State = "ready",
    leases: int = 0,
    used: float = 0.0,
    ctx: int = 4096,
    size: int = 1,
    pinned: bool = False,
) -> Row:
    return Row(id, spec(name, ctx, size=size), state, leases, used, size, pinned)


def decide(
    rows: list[Row],
    wanted: list[LoadSpec],
    free: int = 0,
    *,
    waited: float = 0.0,
    max_loaded: int = 0,
    cooling: frozenset[object] = frozenset(),
) -> list[Action]:
    asks = [Ask(one, waited_s=waited) for one in wanted]
    return plan(rows, asks, Room(free, max_loaded, patience_s=5.0), cooling).actions


def test_a_loaded_model_is_granted_and_an_absent_one_started() -> None:
    assert decide([row(1, "a")], [spec("a"), spec("b")], 1) == [Grant(1), Start(spec("b"))]


def test_two_requests_for_one_absent_model_start_it_once() -> None:
    assert decide([], [spec("a"), spec("a")], 9) == [Start(spec("a")), Wait()]


def test_requests_for_one_absent_model_start_it_as_large_as_all_need() -> None:
    assert decide([], [spec("a", 10), spec("a", 20)], 9) == [Start(spec("a", 20)), Wait()]


def test_a_loading_or_suspect_model_is_waited_for() -> None:
    rows = [row(1, "a", "loading"), row(2, "b", "suspect")]
    assert decide(rows, [spec("a"), spec("b")], 9) == [Wait(), Wait()]


def test_a_model_whose_slots_are_taken_is_waited_for() -> None:
    assert decide([row(1, "a", leases=3)], [spec("a"), spec("a")], 9) == [Grant(1), Wait()]


def test_the_idle_model_least_recently_used_makes_room() -> None:
    rows = [row(1, "a", used=5.0), row(2, "b", used=1.0), row(3, "c", leases=1, used=0.0)]
    assert decide(rows, [spec("d")]) == [Evict((2,))]


def test_as_many_idle_models_go_as_must_and_no_more() -> None:
    rows = [row(1, "a", used=1.0), row(2, "b", used=2.0), row(3, "c", used=3.0)]
    assert decide(rows, [spec("d", size=2)]) == [Evict((1, 2))]


def test_a_number_of_workers_is_kept_when_one_is_set() -> None:
    rows = [row(1, "a", used=1), row(2, "b", used=2)]
    assert decide(rows, [spec("c")], 9, max_loaded=2) == [Evict((1,))]


def test_a_busy_model_is_never_evicted() -> None:
    assert decide([row(1, "a", leases=1)], [spec("b")]) == [Wait()]


def test_a_pinned_model_is_never_evicted_and_its_memory_not_counted_on() -> None:
    assert decide([row(1, "a", pinned=True)], [spec("b")]) == [Refuse(1, 0)]


def test_what_never_fits_is_refused_with_both_numbers() -> None:
    assert decide([row(1, "a", leases=2)], [spec("b", size=3)], 1) == [Refuse(3, 2)]


def test_a_model_that_somebody_waits_for_is_not_evicted() -> None:
    assert decide([row(1, "a")], [spec("b"), spec("a")]) == [Wait(), Grant(1)]


def test_who_waited_long_closes_the_busy_model_to_those_behind() -> None:
    rows = [row(1, "a", leases=1)]
    assert decide(rows, [spec("b"), spec("a")], waited=1.0) == [Wait(), Grant(1)]
    assert decide(rows, [spec("b"), spec("a")], waited=6.0) == [Wait(), Wait()]
    assert decide(rows, [spec("a"), spec("b")], waited=6.0) == [Grant(1), Wait()]


def test_room_that_is_coming_is_not_made_twice() -> None:
    rows = [row(1, "a", "stopping"), row(2, "b")]
    assert decide(rows, [spec("c")]) == [Wait()]
    assert decide(rows, [spec("c"), spec("d")]) == [Wait(), Evict((2,))]


def test_two_absent_models_take_two_places() -> None:
    rows = [row(1, "a", used=1), row(2, "b", used=2)]
    assert decide(rows, [spec("c"), spec("d")]) == [Evict((1,)), Evict((2,))]
    assert decide(rows, [spec("c"), spec("c")]) == [Evict((1,)), Wait()]


def test_a_larger_context_serves_a_smaller_one_and_not_the_other_way() -> None:
    assert decide([row(1, "a", ctx=8192)], [spec("a", 4096)]) == [Grant(1)]
    assert decide([row(1, "a", ctx=2048)], [spec("a", 4096)]) == [Evict((1,))]
    assert decide([row(1, "a", ctx=2048, leases=1)], [spec("a", 4096)]) == [Wait()]
    beside = decide([row(1, "a", ctx=2048, leases=1)], [spec("a", 4096)], 1)
    assert beside == [Start(spec("a", 4096))]


def test_an_idle_worker_goes_when_a_newer_one_can_do_all_it_does() -> None:
    rows = [row(1, "a", ctx=2048), row(2, "a", ctx=4096), row(3, "b")]
    assert plan(rows, [], Room(9)).retire == [1]
    assert plan([row(1, "a", ctx=8192), row(2, "a")], [], Room(9)).retire == []


def test_a_load_option_that_differs_reloads_and_one_left_open_does_not() -> None:
    loaded = Row(1, spec("a", num_gpu=0), "ready", 0, 0.0, 1)
    assert decide([loaded], [spec("a")]) == [Grant(1)]
    assert decide([loaded], [spec("a", num_gpu=9)]) == [Evict((1,))]


def test_a_model_that_crashed_a_moment_ago_is_not_started_yet() -> None:
    assert decide([], [spec("a")], 9, cooling=frozenset([spec("a").key])) == [Wait()]


names = st.sampled_from("abc")
tables = st.lists(
    st.tuples(
        names,
        st.sampled_from(["loading", "ready", "suspect", "stopping"]),
        st.integers(0, 4),
        st.integers(1, 3),
        st.booleans(),
    ),
    max_size=5,
)
queues = st.lists(st.tuples(names, st.integers(1, 4), st.floats(0, 10)), max_size=8)


@given(tables, queues, st.integers(-2, 6))
def test_no_plan_breaks_the_rules(
    table: list[tuple[str, State, int, int, bool]],
    queue: list[tuple[str, int, float]],
    free: int,
) -> None:
    rows = [
        row(id, name, state, leases if state == "ready" else 0, size=size, pinned=pinned)
        for id, (name, state, leases, size, pinned) in enumerate(table, 1)
    ]
    asks = [Ask(spec(name, size=size), waited_s=waited) for name, size, waited in queue]
    decided = plan(rows, asks, Room(free))
    by_id = {one.id: one for one in rows}
    leases = {one.id: one.leases for one in rows}
    gone: list[int] = [*decided.retire]
    started = 0
    for ask, action in zip(asks, decided.actions, strict=True):
        if isinstance(action, Grant):
            leases[action.id] += 1
            assert by_id[action.id].state == "ready"
            assert by_id[action.id].spec.satisfies(ask.spec)
        elif isinstance(action, Evict):
            gone.extend(action.ids)
        elif isinstance(action, Start):
            started += action.spec.memory_bytes
    assert len(gone) == len(set(gone))
    assert all(leases[id] == 0 and by_id[id].state == "ready" for id in gone)
    assert all(leases[id] <= by_id[id].spec.slots for id in leases)
    assert started <= max(0, free)


def test_callers_take_turns_within_a_model_and_models_keep_their_places() -> None:
    asks = [Ask(spec("a"), c) for c in ("x", "x", "y")] + [Ask(spec("b"), "x")]
    assert fair_order(asks, {}, {}) == [0, 2, 1, 3]
    assert fair_order(asks, {(spec("a").key, "x"): 1}, {}) == [2, 0, 1, 3]
    assert fair_order(asks, {}, {(spec("a").key, "x"): 7.0}) == [2, 0, 1, 3]


@given(st.lists(st.tuples(names, st.sampled_from("xyz")), max_size=12))
def test_a_fair_order_loses_nobody(queue: list[tuple[str, str]]) -> None:
    asks = [Ask(spec(name), caller) for name, caller in queue]
    order = fair_order(asks, {}, {})
    assert sorted(order) == list(range(len(asks)))
    assert [asks[i].spec.key for i in order] == [ask.spec.key for ask in asks]
