from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from slipway.core.errors import ConflictError
from slipway.core.files import new_folder
from slipway.core.i18n import tr
from slipway.jobs.pipeline import Pipeline, Stage, _exclusive


def counting_stage(name: str, calls: list[str], value: Any = 1, **options: Any) -> Stage:
    def run(results: dict[str, Any]) -> dict[str, Any]:
        calls.append(name)
        return {"value": value}

    return Stage(name, tr("error"), inputs=options.pop("inputs", lambda r: 0), run=run, **options)


def test_second_run_takes_every_stage_from_the_record(tmp_path: Path) -> None:
    calls: list[str] = []
    stages = [counting_stage("a", calls), counting_stage("b", calls)]
    first = Pipeline(tmp_path, stages).run()
    second = Pipeline(tmp_path, stages).run()
    assert calls == ["a", "b"]
    assert [r.cached for r in first] == [False, False]
    assert [r.cached for r in second] == [True, True]
    assert [r.outputs for r in first] == [r.outputs for r in second]


def test_changed_input_reruns_that_stage_and_those_that_depend_on_it(tmp_path: Path) -> None:
    calls: list[str] = []

    def build(value: int) -> list[Stage]:
        return [
            counting_stage("a", calls, value, inputs=lambda r: value),
            counting_stage("b", calls, inputs=lambda r: r["a"]),
            counting_stage("c", calls),
        ]

    Pipeline(tmp_path, build(1)).run()
    calls.clear()
    Pipeline(tmp_path, build(2)).run()
    assert calls == ["a", "b"]


def test_missing_output_reruns_the_stage(tmp_path: Path) -> None:
    calls: list[str] = []
    product = tmp_path / "product"

    def run(results: dict[str, Any]) -> dict[str, Any]:
        calls.append("make")
        product.write_text("x")
        return {"path": str(product)}

    stage = Stage("make", tr("error"), lambda r: 0, run, intact=lambda o: Path(o["path"]).is_file())
    Pipeline(tmp_path, [stage]).run()
    product.unlink()
    Pipeline(tmp_path, [stage]).run()
    assert calls == ["make", "make"]


def test_fresh_keeps_only_downloads_and_builds(tmp_path: Path) -> None:
    calls: list[str] = []
    stages = [counting_stage("pull", calls, keep_when_fresh=True), counting_stage("train", calls)]
    Pipeline(tmp_path, stages).run()
    calls.clear()
    Pipeline(tmp_path, stages).run(fresh=True)
    assert calls == ["train"]


def test_service_stage_runs_every_time(tmp_path: Path) -> None:
    calls: list[str] = []
    stages = [counting_stage("serve", calls, always=True)]
    Pipeline(tmp_path, stages).run()
    Pipeline(tmp_path, stages).run()
    assert calls == ["serve", "serve"]


def test_failed_stage_is_run_again_and_earlier_ones_are_not(tmp_path: Path) -> None:
    calls: list[str] = []
    broken = [True]

    def run(results: dict[str, Any]) -> dict[str, Any]:
        calls.append("b")
        if broken[0]:
            raise OSError("no")
        return {}

    stages = [counting_stage("a", calls), Stage("b", tr("error"), lambda r: 0, run)]
    with pytest.raises(OSError):
        Pipeline(tmp_path, stages).run()
    broken[0] = False
    Pipeline(tmp_path, stages).run()
    assert calls == ["a", "b", "b"]


def _killed_in_second_stage(folder: Path, die: bool) -> None:
    def first(results: dict[str, Any]) -> dict[str, Any]:
        with (folder / "first.log").open("a") as log:
            log.write("ran\n")
        return {}

    def second(results: dict[str, Any]) -> dict[str, Any]:
        with new_folder(folder / "product") as build:
            (build / "part").write_text("half")
            if die:
                os.kill(os.getpid(), signal.SIGKILL)
            (build / "whole").write_text("whole")
        return {}

    stages = [
        Stage("first", tr("error"), lambda r: 0, first),
        Stage("second", tr("error"), lambda r: 0, second),
    ]
    Pipeline(folder, stages).run()


def test_killed_process_continues_in_the_stage_it_was_in(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_killed_in_second_stage, args=(tmp_path, True))
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    assert not (tmp_path / "product").exists()
    _killed_in_second_stage(tmp_path, die=False)
    assert (tmp_path / "first.log").read_text() == "ran\n"
    assert sorted(p.name for p in (tmp_path / "product").iterdir()) == ["part", "whole"]
    assert not list(tmp_path.glob(".product.*"))


def test_corrupt_record_means_start_again_not_a_crash(tmp_path: Path) -> None:
    calls: list[str] = []
    (tmp_path / "pipeline.json").write_text('{"a": {"na')
    Pipeline(tmp_path, [counting_stage("a", calls)]).run()
    assert calls == ["a"]


def test_two_processes_cannot_run_the_same_pipeline(tmp_path: Path) -> None:
    with _exclusive(tmp_path / "pipeline.lock"), pytest.raises(ConflictError) as caught:
        Pipeline(tmp_path, [counting_stage("a", [])]).run()
    assert caught.value.code == "pipeline.busy"
