"""64 clients against the daemon: chats, embeddings, clients that leave, models that take turns.

    python benchmarks/daemon_soak.py [--minutes 10] [--kills 20] [--model FILE.gguf] [--json FILE]

Three models of the starter's weights (two for chats, one asked for embeddings) share a memory that
holds two of them, so they are evicted all the time. In between a random worker is killed. Counted:

- wrong answers: a stream that does not end as it should, an empty one, an embedding that is not the
  one of the same text at the start (cosine below 0.999);
- requests that failed with the engine's loss, against those in flight when workers were killed;
- the daemon's memory: `ratio_memory` is its median in the last third over that in the second
  (goal: within 5 %);
- places still taken at the end (goal: none).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from daemon_vs_llamaserver import serve, starter
from slipway.core.paths import Home
from slipway.store import create_model

CHATS = ("one", "two")
TEXTS = ("where is my parcel", "can I return the lamp", "您好，发票什么时候开？", "thank you")


@dataclass
class Tally:
    """What has happened."""

    done: int = 0
    left: int = 0
    embedded: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: int = 0
    busy: int = 0
    in_flight_at_kills: int = 0
    kills: int = 0
    memory: list[tuple[float, int]] = field(default_factory=list)


async def chat(session: aiohttp.ClientSession, tally: Tally, draw: random.Random) -> None:
    """One chat; sometimes the client leaves in the middle."""
    leaves = draw.random() < 0.2
    body = {
        "model": draw.choice(CHATS),
        "messages": [{"role": "user", "content": f"{draw.choice(TEXTS)} {draw.randint(0, 99)}"}],
        "options": {"num_predict": draw.randint(4, 32), "seed": 1},
    }
    async with session.post("/api/chat", json=body) as answer:
        if answer.status != 200:
            _refused(tally, await answer.json())
            return
        text, ended = "", False
        async for line in answer.content:
            event = json.loads(line)
            if "error" in event:
                _refused(tally, event)
                return
            text += event["message"]["content"]
            ended = event["done"]
            if leaves and text:
                tally.left += 1
                return
    if not ended or not text:
        tally.wrong.append(f"a stream ended after {text[:40]!r}")
    tally.done += 1


async def embed(
    session: aiohttp.ClientSession, tally: Tally, draw: random.Random, known: dict[str, Any]
) -> None:
    """One embedding, compared with that of the same text at the start."""
    text = draw.choice(TEXTS)
    async with session.post("/api/embed", json={"model": "three", "input": text}) as answer:
        value = await answer.json()
    if answer.status != 200:
        _refused(tally, value)
        return
    (vector,) = value["embeddings"]
    same = sum(a * b for a, b in zip(vector, known[text], strict=True))
    if same < 0.999:
        tally.wrong.append(f"embedding of {text!r}: cosine {same:.4f}")
    tally.embedded += 1


def _refused(tally: Tally, value: dict[str, Any]) -> None:
    match value.get("code"):
        case "engine.lost":
            tally.lost += 1
        case "engine.busy" | "engine.queue_timeout":
            tally.busy += 1
        case code:
            tally.wrong.append(f"{code}: {value.get('error')}")


async def client(url: str, tally: Tally, known: dict[str, Any], number: int, until: float) -> None:
    draw = random.Random(number)
    headers = {"x-slipway-caller": f"client-{number % 16}"}
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(url, connector=connector, headers=headers) as session:
        while time.monotonic() < until:
            if draw.random() < 0.25:
                await embed(session, tally, draw, known)
            else:
                await chat(session, tally, draw)
            await asyncio.sleep(draw.random() * 0.2)


async def killer(url: str, pid: int, tally: Tally, count: int, seconds: float) -> None:
    """Kill a random worker, `count` times."""
    async with aiohttp.ClientSession(url) as session:
        for _ in range(count):
            await asyncio.sleep(seconds / (count + 1))
            async with session.get("/api/queue") as answer:
                models = (await answer.json())["models"]
            workers = [child for child in psutil.Process(pid).children() if "-m" in child.cmdline()]
            if workers:
                tally.in_flight_at_kills += max(model["active"] for model in models)
                tally.kills += 1
                random.choice(workers).kill()


async def watch(pid: int, tally: Tally, until: float) -> None:
    process = psutil.Process(pid)
    while time.monotonic() < until:
        tally.memory.append((time.monotonic(), process.memory_info().rss))
        await asyncio.sleep(1)


async def measure(url: str, pid: int, minutes: float, kills: int, clients: int) -> dict[str, Any]:
    tally, known = Tally(), {}
    async with aiohttp.ClientSession(url) as session:
        for text in TEXTS:
            body = {"model": "three", "input": text}
            async with session.post("/api/embed", json=body) as answer:
                (known[text],) = (await answer.json())["embeddings"]
        assert math.isclose(sum(x * x for x in known[TEXTS[0]]), 1.0, rel_tol=1e-3)
        begun = time.monotonic()
        until = begun + 60 * minutes
        await asyncio.gather(
            *(client(url, tally, known, number, until) for number in range(clients)),
            killer(url, pid, tally, kills, 60 * minutes),
            watch(pid, tally, until),
        )
        await asyncio.sleep(2)
        async with session.get("/api/queue") as answer:
            models = (await answer.json())["models"]
        async with session.get("/metrics") as answer:
            text = await answer.text()
    third = 20 * minutes
    parts = [
        statistics.median(rss for at, rss in tally.memory if begun + n * third <= at)
        for n in (1, 2)
    ]
    evictions = sum(
        float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith("slipway_model_evictions_total")
    )
    return {
        "clients": clients,
        "minutes": minutes,
        "chats": tally.done,
        "clients_that_left": tally.left,
        "embeddings": tally.embedded,
        "evictions": int(evictions),
        "kills": tally.kills,
        "failed_by_kills": tally.lost,
        "in_flight_at_kills": tally.in_flight_at_kills,
        "told_to_come_back": tally.busy,
        "wrong": len(tally.wrong),
        "first_wrong": tally.wrong[:3],
        "places_taken_at_the_end": sum(model["active"] for model in models),
        "waiting_at_the_end": sum(len(model["waiting"]) for model in models),
        "memory_mb": parts[1] / 1e6,
        "ratio_memory": parts[1] / parts[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        gguf = (options.model or starter(Path(folder))).resolve()
        home = Home(Path(folder) / "home")
        for name in (*CHATS, "three"):
            copy = Path(folder) / f"{name}.gguf"  # a file of its own: other weights to the daemon
            copy.write_bytes(gguf.read_bytes() + name.encode())
            create_model(name, f"FROM {copy}\nPARAMETER num_ctx 512", home=home)
        os.environ |= {"SLIPWAY_MAX_MEMORY": "900MiB", "SLIPWAY_SWITCH_AFTER": "1s"}
        process, url = serve(home.root)
        try:
            run = measure(url, process.pid, options.minutes, options.kills, options.clients)
            result = asyncio.run(run)
        finally:
            process.terminate()
            process.communicate()
    for name, value in result.items():
        print(f"{name:24} {value!s:>12}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
