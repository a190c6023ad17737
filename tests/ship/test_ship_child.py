from __future__ import annotations

import os
import signal
from importlib.util import find_spec
from typing import Any

import pytest

from slipway.core.errors import InputError, ToolError
from slipway.core.events import EventLog
from slipway.core.i18n import tr
from slipway.ship.child import run_apart


def told(*words: str, events: EventLog, say: Any) -> tuple[int, tuple[str, ...]]:
    print("a library prints")
    events.emit("progress", stage="x", fraction=0.5)
    say(tr("no quant type was given"))
    return os.getpid(), words


def refused(*, events: EventLog) -> None:
    raise InputError("test.no", tr("{path} does not exist", path="/x"), "a hint")


def killed(*, events: EventLog) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def lacks(*, events: EventLog) -> bool:
    return find_spec("colorsys") is None


def apart(work: Any, *arguments: Any, **more: Any) -> tuple[Any, list[Any]]:
    heard: list[Any] = []
    made = run_apart(
        work, *arguments, events=EventLog(None, heard.append), tell=heard.append, **more
    )
    return made, heard


def test_results_events_and_sentences_come_back_from_the_child(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (pid, words), heard = apart(told, "a", "b", say=True)
    assert words == ("a", "b") and pid != os.getpid()
    assert heard[0]["fraction"] == 0.5
    monkeypatch.setenv("SLIPWAY_LANG", "zh")
    assert str(heard[1]) == "没有给出量化类型"


def test_an_error_of_the_child_is_the_same_error_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError) as caught:
        apart(refused)
    assert (caught.value.code, caught.value.hint) == ("test.no", "a hint")
    monkeypatch.setenv("SLIPWAY_LANG", "zh")
    assert "不存在" in str(caught.value.message)


def test_a_child_that_dies_is_told_and_not_waited_for() -> None:
    with pytest.raises(ToolError, match="killed"):
        apart(killed)


def test_a_package_can_be_kept_out_of_the_child() -> None:
    assert apart(lacks, without=("colorsys",))[0] is True
    assert apart(lacks)[0] is False
