from __future__ import annotations

import fcntl
import json
from dataclasses import replace
from pathlib import Path

import pytest

from slipway.core.errors import ConflictError, NotFoundError, UsageError
from slipway.core.events import EventLog
from slipway.core.paths import Home
from slipway.demo import run_demo, serve_stages
from slipway.demo.context import DemoContext
from slipway.demo.options import DemoOptions, model_stem
from slipway.demo.plan import _default_base
from slipway.demo.talk import _questions


def rows(file: Path, *conversations: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for turns in conversations:
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
        lines.append(json.dumps({"messages": messages}))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "My Shop"
    rows(folder / "train.jsonl", ["a", "b"], ["c", "d"])
    rows(folder / "heldout.jsonl", ["long", "x", "y", "z"], ["one", "x"], ["two", "x"])
    return folder


def test_default_base_stays_the_same_when_the_network_changes(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["starter", "ms://Qwen/Qwen2.5-0.5B-Instruct"])
    monkeypatch.setattr("slipway.store.pull.default_base", lambda language: next(answers))
    assert _default_base(home, DemoOptions()) == "starter"
    assert _default_base(home, DemoOptions()) == "starter"
    assert _default_base(home, DemoOptions(fresh=True)).endswith("Qwen2.5-0.5B-Instruct")


def test_own_data_without_heldout_rows_is_refused_before_any_work(home: Home, data: Path) -> None:
    (data / "heldout.jsonl").unlink()
    with pytest.raises(NotFoundError) as caught:
        run_demo(DemoOptions(base="starter", data=data), home=home)
    assert "heldout.jsonl" in caught.value.message_en
    assert "slipway demo --data" in caught.value.hint_en
    assert not home.root.exists()


def test_a_file_in_the_report_folders_place_is_told_before_any_work(home: Home, data: Path) -> None:
    taken = data.parent / "report"
    taken.write_text("mine")
    for wrong in (taken, taken / "deeper"):
        with pytest.raises(UsageError, match="report"):
            run_demo(DemoOptions(base="starter", data=data, report=wrong), home=home)
    assert taken.read_text() == "mine"
    assert not home.root.exists()


def test_a_second_demo_with_stop_leaves_the_services_of_the_first(
    home: Home, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[Home] = []
    monkeypatch.setattr(serve_stages, "stop_services", stopped.append)
    folder = home.root / "demo" / f"starter--{data.name}"
    folder.mkdir(parents=True)
    options = DemoOptions(base="starter", data=data, keep_services=False)
    with (folder / "pipeline.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConflictError):
            run_demo(options, home=home)
    assert stopped == []
    with pytest.raises(UsageError):  # a failure of its own stops them
        run_demo(replace(options, base="no such base"), home=home)
    assert stopped == [home]


@pytest.mark.parametrize(
    ("folder", "stem"),
    [
        ("support-en", "support-en"),
        ("My Shop", "my-shop"),
        ("客服", "assistant"),
        ("a.b_c", "a.b_c"),
    ],
)
def test_any_folder_name_gives_a_model_name(folder: str, stem: str) -> None:
    from slipway.store.names import ModelName

    assert model_stem(Path(folder)) == stem
    assert ModelName.parse(f"{model_stem(Path(folder))}:latest").model == stem


def test_questions_of_data_without_topics_begin_with_single_turns(home: Home, data: Path) -> None:
    context = DemoContext(
        DemoOptions(), home, home.root, "starter", data, EventLog(None), lambda text: None
    )
    assert [question for question, _ in _questions(context, "")] == ["one", "two", "long"]
    rows(data / "heldout.jsonl", ["only", "x", "y", "z"])
    found = _questions(context, "be kind")
    assert [(q, [m["role"] for m in ms]) for q, ms in found] == [("only", ["system", "user"])]
