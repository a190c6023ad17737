"""The benchmark: what is measured, how it is kept, what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slipway.cli.main import main
from slipway.core.errors import InputError, NotFoundError, ToolError, UsageError
from slipway.core.paths import Home
from slipway.export.bench import BenchModel, BenchSpec, Point, Setup, bench, child
from slipway.export.bench.analyse import best_of, conclusion, effects
from slipway.export.bench.child import TimeUpError, Watched, run_watched
from slipway.export.bench.grid import (
    Flash,
    KvType,
    Pace,
    estimate_s,
    flash_values,
    grid,
    kv_values,
    numbers,
)
from slipway.export.bench.machine import Load
from slipway.export.bench.records import Journal, Result, result_of
from slipway.export.bench.run import why_left_out
from slipway.export.bench.tools import run_streams_served
from slipway.export.toolchain import Toolchain, tiny_gguf
from slipway.testing.toolchain import CRASH_SIGILL, FakeToolchain

LOAD = Load("a CPU", 2, 0.01, 0.1, 1 << 30)
SETUP = Setup(1, 64, 32, "on", "f16")


def spec(**values: object) -> BenchSpec:
    given = {"threads": (1,), "prompt": (16,), "decode": (4,), "batch": (64,), "ubatch": (32,)}
    return BenchSpec(**{**given, "repeat": 2, **values})  # type: ignore[arg-type]


@pytest.fixture
def model(tools: Toolchain, tmp_path: Path) -> BenchModel:
    path = tmp_path / "tiny.gguf"
    env = {**os.environ, "PYTHONPATH": str(tools.gguf_py)}
    subprocess.run([sys.executable, tiny_gguf.__file__, path], env=env, check=True)
    return BenchModel("tiny", path)


def test_every_combination_that_can_change_the_number_is_measured() -> None:
    found = grid(spec(threads=(1, 2), ubatch=(16, 32), prompt=(16, 32), streams=(1, 4)))
    kinds = [point.kind for point in found.points]
    assert kinds.count("prompt") == 2 * 2 * 2
    # batch sizes do not change how one token after the other is written
    assert kinds.count("decode") == 2 and kinds.count("streams") == 2 * 2


def test_what_llama_cpp_cannot_run_is_left_out_with_the_reason() -> None:
    found = grid(spec(flash_attn=("on", "off"), kv_type=("f16", "q8_0"), ubatch=(32, 128)))
    setups = {(s.flash_attn, s.kv_type, s.ubatch) for s, _ in found.groups}
    assert setups == {("on", "f16", 32), ("on", "q8_0", 32), ("off", "f16", 32)}
    reasons = " ".join(text.en for text in why_left_out(found))
    assert "flash attention" in reasons and "--ubatch" in reasons


def test_decode_is_measured_though_the_first_physical_batch_is_too_large() -> None:
    found = grid(spec(ubatch=(128, 32)))
    assert [point.kind for point in found.points] == ["prompt", "decode"]


def test_zero_leaves_a_kind_out_and_nothing_at_all_is_an_error() -> None:
    assert [p.kind for p in grid(spec(prompt=(0,))).points] == ["decode"]
    with pytest.raises(UsageError) as caught:
        grid(spec(prompt=(0,), decode=(0,)))
    assert caught.value.code == "bench.nothing"


def test_options_are_lists_and_a_slip_names_the_option_and_the_part() -> None:
    assert numbers("--prompt", "128, 512,128") == (128, 512)
    assert flash_values("off,ON") == ("off", "on") and kv_values("q8_0,f16") == ("q8_0", "f16")
    for text in ("1,x", "-1", "1.5", "", ",", "99999999"):
        with pytest.raises(UsageError, match="--prompt"):
            numbers("--prompt", text)
    with pytest.raises(UsageError, match="q8_1") as caught:
        kv_values("q8_1")
    assert "`q8_0`" in caught.value.hint_en


def test_estimate_grows_with_length_repetitions_and_fewer_threads() -> None:
    pace = Pace(prompt=100.0, decode=10.0, load_s=1.0, threads=2)
    one = Point("decode", Setup(2, 64, 32, "on", "f16"), decode=20)
    assert estimate_s([one], pace, 3) == pytest.approx(1 + 4 * 2)
    half = Point("decode", Setup(1, 64, 32, "on", "f16"), decode=20)
    assert estimate_s([half], pace, 3) == pytest.approx(1 + 4 * 4)
    assert estimate_s([one, half], pace, 3) == pytest.approx(2 + 24)


def run(home: Home, tools: Toolchain, model: BenchModel, wish: BenchSpec, **more: object) -> object:
    return bench([model], wish, home=home, toolchain=tools, load=LOAD, **more)  # type: ignore[arg-type]


def test_real_tools_measure_each_kind(home: Home, tools: Toolchain, model: BenchModel) -> None:
    told: list[tuple[float, int, int]] = []
    report = bench(
        [model],
        spec(prompt=(16, 32), depth=(0, 8), flash_attn=("on", "off"), streams=(1, 2)),
        home=home,
        toolchain=tools,
        load=LOAD,
        on_pace=lambda *pace: told.append(pace),
    )
    assert len(report.results) == len(report.grid.points) == 2 * (2 * 2 + 2 + 2)
    assert {r.point.kind for r in report.results} == {"prompt", "decode", "streams"}
    assert all(len(r.samples) == 2 and r.mean > 0 for r in report.results)
    assert any(r.memory_bytes and r.memory_bytes > 5_000_000 for r in report.results)
    assert not report.failures and not report.missing
    [(seconds, count, resumed)] = told
    assert 0 < seconds < 300 and count == len(report.results) and resumed == 0
    assert [t.en for t in conclusion(report.results)]


def test_streams_are_measured_through_the_server_where_the_batched_program_is_missing(
    tools: Toolchain, model: BenchModel
) -> None:
    found: dict[int, list[float]] = {}

    def keep(point: Point, samples: list[float], prompts: list[float], seen: Watched) -> None:
        found[point.streams] = samples
        assert len(prompts) == 2 and seen.peak_bytes

    setup = Setup(1, 64, 32, "on", "f16")
    points = [Point("streams", setup, 8, 4, 0, streams) for streams in (1, 2)]
    run_streams_served(tools, model.path, setup, points, 2, keep)
    assert set(found) == {1, 2} and all(min(samples) > 0 for samples in found.values())


LINE = '{"n_prompt": %d, "n_gen": 0, "n_depth": 0, "samples_ts": [100.0, 102.0]}'  # of llama-bench


def fake(folder: Path, body: str) -> Toolchain:
    made = FakeToolchain(folder, llama_bench=body)
    return Toolchain(folder, made.bin, made.source, "x", "native")


def a_model(folder: Path) -> BenchModel:
    path = folder / "m.gguf"
    path.write_bytes(b"GGUF")
    return BenchModel("m", path)


def test_interrupted_run_goes_on_and_a_finished_one_begins_anew(home: Home, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    first = f"echo \"$*\" >> {calls}; echo '{LINE % 16}'; sleep 60"
    tools, model = fake(tmp_path / "t", first), a_model(tmp_path)
    wish = spec(prompt=(16, 32), decode=(0,))
    cut = bench([model], wish, home=home, toolchain=tools, load=LOAD, max_time_s=1.0)
    assert [r.point.prompt for r in cut.results] == [16] and cut.missing == 1

    fake(tmp_path / "t", f"echo \"$*\" >> {calls}; echo '{LINE % 16}'; echo '{LINE % 32}'")
    whole = bench([model], wish, home=home, toolchain=tools, load=LOAD)
    assert whole.resumed == 1 and [r.point.prompt for r in whole.results] == [16, 32]
    assert "-p 32" in calls.read_text().splitlines()[-1]

    anew = bench([model], wish, home=home, toolchain=tools, load=LOAD)
    assert anew.resumed == 0 and "-p 16,32" in calls.read_text().splitlines()[-1]


def test_result_cut_off_by_a_kill_is_measured_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    journal.add("start")
    one = Result("m", Point("prompt", SETUP, prompt=16), (1.0, 2.0), (), 5, 0.1)
    journal.add("result", **one.as_json())
    with journal.path.open("a") as file:
        file.write('{"event": "result", "mod')
    two = Result("m", Point("prompt", SETUP, prompt=32), (3.0,), (), None)
    journal.add("result", **two.as_json())
    assert journal.unfinished() == [one, two]
    assert result_of(one.as_json()) == one
    journal.add("end")
    assert journal.unfinished() == []


def test_setup_that_does_not_run_is_told_and_the_others_are_measured(
    home: Home, tmp_path: Path
) -> None:
    body = f"case $* in *q8_0*) echo bad type >&2; exit 1;; esac; echo '{LINE % 16}'"
    report = bench(
        [a_model(tmp_path)],
        spec(decode=(0,), kv_type=("q8_0", "f16")),
        home=home,
        toolchain=fake(tmp_path / "t", body),
        load=LOAD,
    )
    assert [r.point.setup.kv_type for r in report.results] == ["f16"]
    [failure] = report.failures
    assert failure.setup.kv_type == "q8_0" and "bad type" in failure.why


def test_when_nothing_runs_the_first_reason_is_the_error(home: Home, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="SIGILL"):
        bench(
            [a_model(tmp_path)],
            spec(),
            home=home,
            toolchain=fake(tmp_path / "t", CRASH_SIGILL),
            load=LOAD,
        )


def test_what_is_no_model_is_refused_before_anything_runs(home: Home, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"hello")
    tools = fake(tmp_path / "t", "exit 0")
    with pytest.raises(InputError, match=r"x\.gguf"):
        run(home, tools, BenchModel("x", tmp_path / "x.gguf"), spec())
    with pytest.raises(NotFoundError):
        run(home, tools, BenchModel("y", tmp_path / "y.gguf"), spec())


def test_program_is_ended_when_its_time_is_over() -> None:
    started = time.monotonic()
    with pytest.raises(TimeUpError):
        run_watched(["sh", "-c", "sleep 30 & wait"], lambda line, seen: None, timeout_s=0.2)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("lives_on", [True, False])
def test_peak_memory_is_known_also_when_the_last_line_comes_at_the_end(lives_on: bool) -> None:
    code = "import time; big = bytearray(60_000_000); time.sleep(0.4); del big; print()"
    seen: list[Watched] = []
    code += "; import sys; sys.stdout.flush(); time.sleep(0.3)" if lives_on else ""
    run_watched([sys.executable, "-c", code], lambda line, watched: seen.append(watched))
    [watched] = seen
    assert watched.peak_bytes is not None and 60_000_000 < watched.peak_bytes < 200_000_000


def test_share_of_other_programs_is_seen_and_the_own_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Looks of (time, processor time of all, of the program): no other load can change them."""
    looks = iter([(0.0, 10.0, 0.0), (2.0, 14.0, 2.0), (4.0, 17.0, 5.0), (4.001, 18.0, 5.0), None])
    monkeypatch.setattr(child._Clock, "_look", lambda self: next(looks))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    clock = child._Clock(1)
    assert clock.others() == pytest.approx(0.5)  # two of four seconds on two cores in two
    assert clock.others() == 0.0  # all of it was the program's own
    assert clock.others() is None  # too short to tell
    assert clock.others() is None  # the program has ended


def test_share_of_a_real_program_that_spins_is_seen() -> None:
    seen: list[Watched] = []
    spin = "import time\nend = time.monotonic() + 9\nwhile time.monotonic() < end: pass"
    with subprocess.Popen([sys.executable, "-c", spin]) as other:
        wait = "import time; time.sleep(1.2); print()"
        run_watched([sys.executable, "-c", wait], lambda line, watched: seen.append(watched))
        other.kill()
    loaded = seen[0].others
    assert loaded is not None and loaded > 0.25 / (os.cpu_count() or 1)


def made(
    mean: float,
    *,
    kind: str = "decode",
    threads: int = 1,
    flash: Flash = "on",
    kv: KvType = "f16",
    streams: int = 1,
    spread: float = 0.5,
    others: float = 0.0,
) -> Result:
    setup = Setup(threads, 64, 32, flash, kv)
    prompt, decode = (16, 0) if kind == "prompt" else (0, 4)
    point = Point(kind, setup, prompt, decode, 0, streams)  # type: ignore[arg-type]
    return Result("m", point, (mean - spread, mean, mean + spread), (), 10_000_000, others)


def test_setting_that_matters_is_told_with_its_gain_and_noise_is_called_noise() -> None:
    results = [
        made(50, threads=1, flash="on"),
        made(50.2, threads=1, flash="off"),
        made(90, threads=2, flash="on"),
        made(90.3, threads=2, flash="off"),
    ]
    by_axis = {effect.axis: effect for effect in effects(results)}
    threads, flash = by_axis["threads"], by_axis["flash_attn"]
    assert threads.matters and threads.best == ("2",) and threads.gain == pytest.approx(0.8, 0.01)
    assert not flash.matters and set(flash.best) == {"on", "off"}
    said = "\n".join(text.en for text in conclusion(results))
    assert "--threads: 2 is 80% faster than 1" in said and "more cores" in said
    assert "--flash-attn: no difference" in said
    best = best_of(results, "decode")
    assert best is not None and best.mean == pytest.approx(90.3)


def test_one_repetition_claims_nothing_small() -> None:
    results = [
        Result("m", Point("decode", Setup(n, 64, 32, "on", "f16"), decode=4), (speed,), (), None)
        for n, speed in ((1, 100.0), (2, 104.0))
    ]
    assert [effect.matters for effect in effects(results)] == [False]


def test_disturbed_results_are_named_and_not_compared() -> None:
    results = [made(100, threads=1), made(3, threads=2, others=0.5)]
    assert effects(results) == []
    assert "1 of 2 results were disturbed" in conclusion(results)[0].en


def test_several_streams_are_compared_by_what_they_give_together() -> None:
    results = [made(100, kind="streams"), made(260, kind="streams", streams=4)]
    [effect] = effects(results)
    assert effect.axis == "streams" and effect.best == ("4",)
    assert "one reading of the weights" in "\n".join(t.en for t in conclusion(results))


def test_command_prints_a_table_json_and_draws_a_chart(
    tools: Toolchain, model: BenchModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    wish = ["--prompt", "16,32", "--decode", "4", "--threads", "1,2", "--repeat", "2"]
    chart = tmp_path / "c.png"
    command = ["bench", str(model.path), *wish, "--streams", "1,2"]
    assert main([*command, "--chart", str(chart)]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("test\tthreads\ttokens/s\t")
    assert "before the start" in shown.err and "writing answers: best" in shown.out
    assert chart.read_bytes()[1:4] == b"PNG"
    assert main([*command, "--no-chart", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["results"]) == 2 * 5 and answer["chart"] is None
    assert {"prompt", "decode", "streams"} == set(answer["best"])
    assert answer["machine"]["cores"] >= 1 and Path(answer["journal"]).is_file()


def test_slips_on_the_command_line(
    tmp_path: Path, tools: Toolchain, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(a_model(tmp_path).path)
    assert main(["bench", model, "--max-time", "soon"]) == 2
    assert main(["bench", model, "--threads", "0"]) == 2
    assert main(["bench", str(tmp_path)]) == 5
    assert main(["bench", "no-such:tag"]) == 5
    assert "no-such:tag" in capsys.readouterr().err
