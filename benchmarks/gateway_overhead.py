"""How many milliseconds the gateway adds to a request, against the same server asked directly.

    python benchmarks/gateway_overhead.py [--requests 400] [--streams 16] [--json FILE]

Gateway and fake upstream run as processes of their own on loopback; direct and relayed requests
alternate in one run, so that the machine's mood is shared. `ratio_stream_throughput` compares
events per second of concurrent streams through the gateway with direct ones.
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
from pathlib import Path
from typing import Any

import aiohttp

EVENTS = 200
_UPSTREAM = (
    "import sys, time\n"
    "from slipway.testing.fake_upstream import FakeAnswer, FakeUpstream\n"
    "with FakeUpstream(default=FakeAnswer(pieces=('x ',) * int(sys.argv[1]))) as server:\n"
    "    print(server.url, flush=True)\n"
    "    sys.stdin.read()\n"
)
_GATEWAY = (
    "import sys, threading\n"
    "from slipway.gateway import *\n"
    "from slipway.testing.asgi_server import AsgiServer\n"
    "store = open_store()\n"
    "add_user(store, 'bench')\n"
    "key = add_token(store, 'bench', user='bench', budget_micro=10**15)[1]\n"
    "add_channel(store, ChannelSpec('c', 'slipway', sys.argv[1], price=Price(1000, 1000)))\n"
    "with AsgiServer(build_app(store)) as server:\n"
    "    print(server.url, key, flush=True)\n"
    "    sys.stdin.read()\n"
)


def start(code: str, argument: str, home: str) -> tuple[subprocess.Popen[str], list[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, argument],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SLIPWAY_HOME": home},
    )
    assert process.stdout is not None
    return process, process.stdout.readline().split()


async def ask(session: aiohttp.ClientSession, url: str, key: str, **more: Any) -> float:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], **more}
    headers = {"Authorization": f"Bearer {key}"}
    started = time.perf_counter()
    async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        await answer.read()
    return time.perf_counter() - started


async def streams(session: aiohttp.ClientSession, url: str, key: str, count: int) -> float:
    """Events per second over `count` concurrent streams."""
    started = time.perf_counter()
    await asyncio.gather(*(ask(session, url, key, stream=True) for _ in range(count)))
    return count * EVENTS / (time.perf_counter() - started)


async def measure(direct: str, gateway: str, key: str, requests: int, count: int) -> dict[str, Any]:
    times: dict[str, list[float]] = {direct: [], gateway: []}
    rates: dict[str, list[float]] = {direct: [], gateway: []}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for url in (direct, gateway):
            for _ in range(20):
                await ask(session, url, key)
        for number in range(requests):
            for url in (direct, gateway) if number % 2 else (gateway, direct):
                times[url].append(await ask(session, url, key))
        for _ in range(5):
            for url in (direct, gateway):
                rates[url].append(await streams(session, url, key, count))
    added = [1000 * (b - a) for a, b in zip(times[direct], times[gateway], strict=True)]
    deciles = statistics.quantiles(added, n=100)
    direct_rate, gateway_rate = (statistics.median(rates[u]) for u in (direct, gateway))
    return {
        "direct_ms_p50": 1000 * statistics.median(times[direct]),
        "gateway_ms_p50": 1000 * statistics.median(times[gateway]),
        "added_ms_p50": statistics.median(added),
        "added_ms_p95": deciles[94],
        "direct_events_per_s": direct_rate,
        "gateway_events_per_s": gateway_rate,
        "ratio_stream_throughput": gateway_rate / direct_rate,
        "ratio_latency": statistics.median(times[gateway]) / statistics.median(times[direct]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        upstream, (direct,) = start(_UPSTREAM, str(EVENTS), home)
        relay, (gateway, key) = start(_GATEWAY, direct, home)
        try:
            result = asyncio.run(measure(direct, gateway, key, options.requests, options.streams))
        finally:
            for process in (relay, upstream):
                process.communicate("")
    for name, value in result.items():
        print(f"{name:26} {value:10.3f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
