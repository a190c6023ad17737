from __future__ import annotations

from itertools import product
from typing import get_args

from slipway.jobs.states import ALLOWED, TRANSITIONS, Facts, RunState, state_of


def test_every_state_is_in_the_table_and_every_follower_is_a_state() -> None:
    states = set(get_args(RunState))
    assert set(TRANSITIONS) == states
    assert all(set(after) <= states - {before} for before, after in TRANSITIONS.items())
    assert all(allowed <= states for allowed in ALLOWED.values())


def test_every_state_can_be_reached_from_facts_and_no_facts_are_without_a_state() -> None:
    booleans = [False, True]
    words = ["", "started", "resumed", "interrupted", "stopped", "failed", "finished"]
    found = {
        state_of(Facts(folder, alive, manifest, waiting, last))
        for folder, alive, manifest, waiting, last in product(
            booleans, booleans, booleans, booleans, words
        )
    }
    assert found == set(get_args(RunState))


def test_only_a_living_process_makes_a_run_running() -> None:
    for last in ("started", "resumed"):
        assert state_of(Facts(True, False, False, False, last)) == "interrupted"
        assert state_of(Facts(True, True, False, False, last)) == "running"
    assert state_of(Facts(True, True, True, True, "finished")) == "running"
    assert state_of(Facts(True, False, True, False, "started")) == "finished"


def test_a_running_run_is_never_removed_and_only_a_running_one_is_kept() -> None:
    assert "running" not in ALLOWED["remove"]
    assert ALLOWED["keep"] == {"running"}
    assert not ALLOWED["resume"] & {"running", "finished", "queued"}
