"""What a gateway costs: ours, LiteLLM's proxy and Portkey's gateway against the upstream itself.

    python benchmarks/gateway_overhead.py --prepare          # installs the peers, once
    python benchmarks/gateway_overhead.py [--rounds 5] [--big] [--quick] [--json FILE]

An upstream of constant latency, the load, and each gateway are processes of their own; the gateway
under test has one core, load and upstream have the others. All take turns within each round. A peer
that is not installed is left out and named. Measured are

- one client: added latency p50 and p99 (goals 1.5 and 6 ms);
- closed loops of many clients: requests per second on one core (goal 1,500, and 8 times LiteLLM's)
  and processor milliseconds per request;
- 16 streams of many small events: events per second, microseconds per event, added time to the
  first event;
- memory before and after, and seconds to start.

`--big` adds our gateway on a database with 10,000 channels and 1,000,000 tokens. `ratio_*_NAME` is
ours over theirs: of rates more is better, of all else less. What is on and off in each is said in
`gateway_load/ours.py` and `gateway_load/peers.py`. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from gateway_load import ours, peers
from gateway_load.client import Target
from gateway_load.measure import DIRECT, QUICK, Plan, Subject, measure, numbers, ratios
from gateway_load.processes import Cores, running
from slipway.core.paths import Home

PEERS = ("litellm", "portkey")
OURS, BIG = "ours", "ours_big"
GOALS = {"added_ms_p50": 1.5, "added_ms_p99": 6.0, "requests_per_s": 1500.0}
GOAL_OVER_LITELLM = 8.0
ROWS = {
    "added latency p50, ms": "added_ms_p50",
    "added latency p99, ms": "added_ms_p99",
    "requests/s on one core": "requests_per_s",
    "processor ms per request": "cpu_ms_per_request",
    "events/s, 16 streams": "events_per_s",
    "processor µs per event": "cpu_us_per_event",
    "added time to first event, ms": "added_ttft_ms_p50",
    "time to first event, 16 streams, ms": "ttft_many_ms_p50",
    "memory after start, MB": "rss_start_mb",
    "memory at the end, MB": "rss_end_mb",
    "seconds to start": "start_s",
}


@contextmanager
def upstream_server(cores: frozenset[int], latency_ms: float) -> Iterator[tuple[int, int]]:
    """The upstream's process id and port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway_load.upstream", "--latency-ms", str(latency_ms)],
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    assert process.stdout is not None
    try:
        yield process.pid, json.loads(process.stdout.readline())["port"]
    finally:
        process.communicate()


def starts(
    options: argparse.Namespace, upstream: int, scratch: Path
) -> tuple[list[peers.Start], dict[str, str]]:
    """What can be started, and for the others why not."""
    found = [ours.start_of(OURS, scratch / OURS, upstream)]
    if options.big:
        size = ours.Big(options.channels, options.tokens)
        print(f"making a database of {size.channels} channels and {size.tokens} tokens")
        found.append(ours.start_of(BIG, scratch / BIG, upstream, size))
    skipped = {}
    for name in PEERS:
        reason = (
            "left out by --no-peers" if options.no_peers else peers.why_not(name, options.cache)
        )
        if reason is None:
            found.append(peers.start_of(name, options.cache, upstream, scratch))
        else:
            skipped[name] = reason
    return found, skipped


def compare(options: argparse.Namespace, plan: Plan) -> dict[str, Any]:
    cores = Cores.of_this_machine()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        scratch = Path(folder)
        pid, port = stack.enter_context(upstream_server(cores.load, options.latency_ms))
        subjects = [Subject(Target(DIRECT, port, {}), pid)]
        found, skipped = starts(options, port, scratch)
        for start in found:
            log = scratch / f"{start.target.name}.log"
            try:
                process, seconds = stack.enter_context(
                    running(
                        start.command,
                        cores.gateway,
                        port=start.target.port,
                        log=log,
                        env=start.env,
                    )
                )
            except RuntimeError as error:
                if start.target.name not in PEERS:
                    raise
                skipped[start.target.name] = str(error)
                continue
            subjects.append(Subject(start.target, process.pid, start_s=seconds))
        for name, reason in skipped.items():
            print(f"{name} is not measured: {reason}")
        os.sched_setaffinity(0, cores.load)
        uvloop.run(measure(subjects, plan))
        books = {
            subject.name: ours.logged(scratch / subject.name)
            for subject in subjects
            if subject.name in (OURS, BIG)
        }
    check_books(subjects, books)
    by_name = {subject.name: numbers(subject, subjects[0]) for subject in subjects}
    result: dict[str, Any] = {"cores_apart": cores.apart, "rounds": plan.rounds}
    result |= {"latency_ms": options.latency_ms, "skipped": skipped, "books": books}
    for name in by_name.keys() - {DIRECT, OURS}:
        result |= ratios(by_name[OURS], by_name[name], name)
    return result | {"numbers": by_name}


def check_books(subjects: list[Subject], books: dict[str, dict[str, int]]) -> None:
    """Every request that was sent must be in our usage log and have cost something.

    Raises:
        SystemExit: the gateway was faster than it may be.
    """
    for subject in subjects:
        book = books.get(subject.name)
        if book and (book["requests"], book["errors"]) != (subject.sent, 0):
            raise SystemExit(f"{subject.name}: sent {subject.sent} requests, in the log: {book}")
        if book and not book["cost_micro"]:
            raise SystemExit(f"{subject.name}: nothing was charged")


def show(result: dict[str, Any]) -> None:
    by_name = result["numbers"]
    print(f"{'':36}" + "".join(f"{name:>12}" for name in by_name) + f"{'goal':>10}")
    for title, key in ROWS.items():
        cells = "".join(f"{values[key]:12.3f}" for values in by_name.values())
        print(f"{title:36}{cells}" + (f"{GOALS[key]:10.1f}" if key in GOALS else ""))
    low, high = by_name[OURS]["added_ms_p50_quartiles"]
    print(f"quartiles of our added p50 over {result['rounds']} rounds: {low:.3f} to {high:.3f} ms")
    for name in (key for key in sorted(result) if key.startswith("ratio_")):
        goal = f"   goal {GOAL_OVER_LITELLM:.0f}" if name == "ratio_requests_per_s_litellm" else ""
        print(f"{name:36}{result[name]:12.3f}{goal}")
    if not result["cores_apart"]:
        print("one core only: gateway, load and upstream shared it, so all rates are too low")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prepare", action="store_true", help="install the peers, then end")
    parser.add_argument("--cache", type=Path, default=Home.current().cache / "gateway-peers")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--latency-ms", type=float, default=0.0, help="of the upstream")
    parser.add_argument("--big", action="store_true")
    parser.add_argument("--channels", type=int, default=10_000, help="for --big")
    parser.add_argument("--tokens", type=int, default=1_000_000, help="for --big")
    parser.add_argument("--quick", action="store_true", help="only to see that all works")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.cache = options.cache.absolute()
    if options.prepare:
        peers.prepare(options.cache)
        return
    plan = QUICK if options.quick else Plan()
    if options.rounds:
        plan = replace(plan, rounds=options.rounds)
    result = compare(options, plan)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
