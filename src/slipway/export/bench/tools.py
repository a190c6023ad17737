"""The command lines of llama.cpp's benchmarks, and what they print."""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from slipway.export.bench.child import Watched, run_watched
from slipway.export.bench.grid import Pace, Point, Setup
from slipway.export.toolchain import Toolchain

Samples = Callable[[Point, list[float], list[float], Watched], None]
"""A finished point: tokens/s of each repetition, tokens/s of the prompts (streams only), what was
seen of process and machine."""


def _common(model: Path, setup: Setup) -> list[str | Path]:
    return [
        *("-m", model, "-t", str(setup.threads), "-b", str(setup.batch)),
        *("-ub", str(setup.ubatch), "-fa", setup.flash_attn),
        *("-ctk", setup.kv_type, "-ctv", setup.kv_type),
    ]


def run_single(
    toolchain: Toolchain,
    model: Path,
    setup: Setup,
    points: Sequence[Point],
    repeat: int,
    found: Samples,
    timeout_s: float | None = None,
) -> None:
    """Measure prompts and answers of one sequence with `llama-bench`.

    Raises:
        TimeUpError, ToolError: see `child.run_watched`; what was finished has been handed over.
    """
    by_test = {(p.prompt, p.decode, p.depth): p for p in points}
    command = [toolchain.program("llama-bench"), *_common(model, setup)]
    command += ["-r", str(repeat), "-o", "jsonl"]
    for flag, values in (
        ("-p", {p.prompt for p in points if p.prompt} or {0}),
        ("-n", {p.decode for p in points if p.decode} or {0}),
        ("-d", {p.depth for p in points}),
    ):
        command += [flag, ",".join(str(value) for value in sorted(values))]

    def read(line: str, seen: Watched) -> None:
        test = _json(line)
        if test is None or "samples_ts" not in test:
            return
        point = by_test.get((test["n_prompt"], test["n_gen"], test["n_depth"]))
        if point is not None:
            found(point, [float(value) for value in test["samples_ts"]], [], seen)

    run_watched(command, read, timeout_s=timeout_s)


def run_streams(
    toolchain: Toolchain,
    model: Path,
    setup: Setup,
    points: Sequence[Point],
    repeat: int,
    found: Samples,
    timeout_s: float | None = None,
) -> None:
    """Measure several sequences at once with `llama-batched-bench`.

    Each number of streams is run once more than asked; the first time warms up and is dropped.

    Raises:
        TimeUpError, ToolError: as `run_single`.
    """
    point = points[0]
    by_streams = {p.streams: p for p in points}
    most = max(by_streams)
    context = most * (point.prompt + point.decode + 8)
    command = [toolchain.program("llama-batched-bench"), *_common(model, setup)]
    command += ["-npp", str(point.prompt), "-ntg", str(point.decode), "-c", str(context)]
    counts = [str(p.streams) for p in points for _ in range(repeat + 1)]
    command += ["-npl", ",".join(counts), "--output-format", "jsonl"]
    writing: dict[int, list[float]] = defaultdict(list)
    reading: dict[int, list[float]] = defaultdict(list)

    def read(line: str, seen: Watched) -> None:
        test = _json(line)
        if test is None or "speed_tg" not in test:
            return
        streams = int(test["pl"])
        writing[streams].append(float(test["speed_tg"]))
        reading[streams].append(float(test["speed_pp"]))
        if len(writing[streams]) == repeat + 1:
            found(by_streams[streams], writing[streams][1:], reading[streams][1:], seen)

    run_watched(command, read, timeout_s=timeout_s)


def run_streams_served(
    toolchain: Toolchain,
    model: Path,
    setup: Setup,
    points: Sequence[Point],
    repeat: int,
    found: Samples,
    timeout_s: float | None = None,
) -> None:
    """Measure several sequences at once through `llama-server`, where the toolchain lacks
    `llama-batched-bench`: requests sent at the same time, timed by the server.

    Raises:
        TimeUpError: `timeout_s` passed before the last measurement began.
        ToolError: the server failed.
    """
    from slipway.export.bench.child import TimeUpError
    from slipway.export.server import Server, served

    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    dice = random.Random(0)

    def ask(server: Server, point: Point) -> dict[str, Any]:
        prompt = [dice.randrange(10, 250) for _ in range(point.prompt)]
        body = {"prompt": prompt, "n_predict": point.decode, "ignore_eos": True}
        timings = server.post("/completion", {**body, "cache_prompt": False})["timings"]
        assert isinstance(timings, dict)
        return timings

    for point in points:
        context = point.streams * (point.prompt + point.decode + 8)
        arguments = [str(part) for part in _common(model, setup)[2:]]
        arguments += ["-np", str(point.streams), "-c", str(context), "--no-kv-unified"]
        with (
            served(toolchain, model, arguments) as server,
            ThreadPoolExecutor(point.streams) as pool,
        ):
            writing, reading = [], []
            for _ in range(repeat + 1):
                if deadline is not None and time.monotonic() > deadline:
                    raise TimeUpError
                answers = list(pool.map(partial(ask, server), [point] * point.streams))
                write_ms = max(float(answer["predicted_ms"]) for answer in answers)
                read_ms = max(float(answer["prompt_ms"]) for answer in answers)
                writing.append(point.streams * point.decode / write_ms * 1000)
                reading.append(point.streams * point.prompt / read_ms * 1000)
            seen = Watched(server.peak_memory_bytes(), None)
            found(point, writing[1:], reading[1:], seen)


def measure_pace(toolchain: Toolchain, model: Path, setup: Setup) -> Pace:
    """A short run, to tell how long a long one takes.

    Raises:
        ToolError: the model does not load.
    """
    found: dict[str, float] = {}
    started = time.monotonic()

    def keep(point: Point, speeds: list[float], _: list[float], __: Watched) -> None:
        if not found:
            found["load"] = time.monotonic() - started
        found[point.kind] = speeds[0]

    points = [Point("prompt", setup, prompt=64), Point("decode", setup, decode=8)]
    run_single(toolchain, model, setup, points, 1, keep)
    load = max(0.0, found["load"] - 2 * 64 / found["prompt"])
    return Pace(found["prompt"], found["decode"], load, setup.threads)


def _json(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
