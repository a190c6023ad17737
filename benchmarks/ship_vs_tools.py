"""A whole `slipway ship` of three levels against the same steps by hand with the bare tools.

    python benchmarks/ship_vs_tools.py [--run FOLDER] [--rounds 2] [--json FILE]

By hand: PEFT's `merge_and_unload` and `save_pretrained`, `convert_hf_to_gguf.py`, `llama-quantize`
for each level, `llama-perplexity` for the reference and for each level, one after the other, on the
same text with the same context and chunks. Ours does that and its proofs, and creates the names.
The starter is trained for a few steps first, unless a finished run is given.

Time is wall-clock time; the sides take turns, and each is counted by its best round. Memory is the
greatest sum, sampled each 20 ms, of the proportional set sizes of a command and its children, so
that pages that two of them share count once (Linux only). It has a round of its own, as looking at
a process that often slows it down. Goals: 1.25 times the time, 1.2 times the memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from slipway.core.events import EventLog
from slipway.core.hardware import probe
from slipway.core.paths import Home
from slipway.export.toolchain import Toolchain, require_toolchain

ROOT = Path(__file__).parents[1]
LEVELS = ("Q4_K_M", "Q5_K_M", "Q8_0")
CONTEXT, CHUNKS = 512, 8
GOALS = {"ratio_wall_s": 1.25, "ratio_peak_rss": 1.2}
PEFT_MERGE = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
model.save_pretrained(out)
AutoTokenizer.from_pretrained(base).save_pretrained(out)
"""


@dataclass
class Side:
    """One way of doing it: seconds of its parts and peak bytes, of each round."""

    name: str
    seconds: list[dict[str, float]] = field(default_factory=list)
    peaks: dict[str, int] = field(default_factory=dict)

    def add(self, seconds: dict[str, float], peaks: dict[str, int], memory: bool) -> None:
        if memory:
            self.peaks = peaks
        else:
            self.seconds.append(seconds)

    @property
    def best_s(self) -> float:
        return min(sum(parts.values()) for parts in self.seconds)

    @property
    def peak(self) -> int:
        return max(self.peaks.values())


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def pss(pid: int) -> int:
    """Proportional set size in bytes; 0 when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def watched(command: list[str | Path], env: dict[str, str], memory: bool) -> tuple[float, int, str]:
    """Run a command; its seconds, its tree's peak bytes if they are wanted, and its output."""
    with tempfile.TemporaryFile("w+") as log:
        began, peak = time.perf_counter(), 0
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
        )
        while memory and process.poll() is None:
            peak = max(peak, sum(pss(pid) for pid in tree(process.pid)))
            time.sleep(0.02)
        process.wait()
        seconds = time.perf_counter() - began
        log.seek(0)
        output = log.read()
    if process.returncode:
        sys.exit(f"{command[0]} ended with {process.returncode}:\n{output[-3000:]}")
    return seconds, peak, output


def by_hand(
    side: Side, run: Path, base: Path, tools: Toolchain, text: Path, work: Path, memory: bool
) -> None:
    """The bare tools, one after the other."""
    merged, gguf, logits = work / "merged", work / "model.gguf", work / "logits"
    perplexity: list[str | Path] = [
        *(tools.program("llama-perplexity"), "-f", text, "-c", str(CONTEXT), "-b", str(CONTEXT)),
        *("--chunks", str(CHUNKS), "-t", str(probe().cores), "--kl-divergence-base", logits),
    ]
    converter: list[str | Path] = [sys.executable, tools.converter, merged, "--outfile", gguf]
    quant = {level: work / f"{level}.gguf" for level in LEVELS}
    steps: dict[str, list[str | Path]] = {
        "merge": [sys.executable, "-c", PEFT_MERGE, base, run / "adapter", merged],
        "convert": [*converter, "--outtype", "bf16"],
        **{
            f"quantise {level}": [tools.program("llama-quantize"), gguf, path, level]
            for level, path in quant.items()
        },
        "measure reference": [*perplexity, "-m", gguf],
        **{
            f"measure {level}": [*perplexity, "-m", path, "--kl-divergence"]
            for level, path in quant.items()
        },
    }
    env = {"PYTHONPATH": str(tools.gguf_py), "HF_HUB_OFFLINE": "1"}
    seconds, peaks = {}, {}
    for name, command in steps.items():
        seconds[name], peaks[name], _ = watched(command, env, memory)
    side.add(seconds, peaks, memory)


def ours(side: Side, run: Path, home: Home, memory: bool) -> None:
    """`slipway ship` in a home that holds nothing but the base, the run and the tools."""
    command: list[str | Path] = [
        *(sys.executable, "-m", "slipway.cli", "ship", run, "--as", "bench:v1"),
        *("-t", ",".join(LEVELS), "--json"),
    ]
    env = {"SLIPWAY_HOME": str(home.root), "SLIPWAY_LANG": "en"}
    seconds, peak, output = watched(command, env, memory)
    result = json.loads(output[output.index("\n{\n") :])
    if any(stage["cached"] for stage in result["stages"]):
        sys.exit("something was not made anew")
    parts = {stage["name"]: stage["seconds"] for stage in result["stages"]}
    parts["start and end"] = seconds - sum(parts.values())
    side.add(parts, {"all": peak}, memory)


def fresh_home(root: Path, shared: Home) -> Home:
    """A home with the base and the tools of another one."""
    root.mkdir()
    for name in ("bases", "toolchains"):
        (root / name).symlink_to(getattr(shared, name).resolve())
    return Home(root)


def trained(home: Home, folder: Path) -> Path:
    """The starter after a few steps on the example."""
    from slipway.store.pull import STARTER, pull_base
    from slipway.training import load_recipe, train

    base = pull_base(STARTER, home=home)
    overrides = [f"model={base}", f"data={ROOT / 'examples' / 'support-en'}", "max_steps=4"]
    recipe = load_recipe(ROOT / "examples" / "recipes" / "support-en.yaml", overrides)
    train(recipe, run_dir=folder, events=EventLog(None))
    return folder


def held_out(path: Path) -> None:
    """The text that ours measures on: what is said in the run's held-out rows."""
    from slipway.datasets import load_dataset

    rows = load_dataset(ROOT / "examples" / "support-en", "heldout")
    spoken = ["\n".join(m.content for m in r.messages if m.role != "system") for r in rows]
    path.write_text("\n\n".join(spoken), encoding="utf-8")


def table(sides: list[Side]) -> None:
    for side in sides:
        print(f"\n{side.name}")
        best = min(side.seconds, key=lambda parts: sum(parts.values()), default={})
        if best:
            best = {**best, "all": side.best_s}
        peaks = {**side.peaks, "all": side.peak} if side.peaks else {}
        for part in dict.fromkeys([*best, *peaks]):
            seconds = f"{best[part]:>8.2f} s" if part in best else " " * 10
            memory = f"{peaks[part] / 1e6:>9.0f} MB" if part in peaks else ""
            print(f"  {part:<22}{seconds}{memory}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=("time", "memory"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    home = Home.current()
    tools = require_toolchain(home)
    hand, ship = Side("by hand: PEFT and llama.cpp's tools"), Side("slipway ship")
    with tempfile.TemporaryDirectory(prefix="ship-bench-") as name:
        work = Path(name)
        run = (arguments.run or trained(home, work / "run")).resolve()
        base = home.bases / "starter"
        held_out(work / "text.txt")
        rounds = [] if arguments.only == "memory" else [False] * arguments.rounds
        rounds += [] if arguments.only == "time" else [True]
        for index, memory in enumerate(rounds):
            place = work / f"hand-{index}"
            place.mkdir()
            by_hand(hand, run, base, tools, work / "text.txt", place, memory)
            shutil.rmtree(place)
            there = fresh_home(work / f"home-{index}", home)
            ours(ship, run, there, memory)
            shutil.rmtree(there.root)
    table([hand, ship])
    ratios = {}
    if ship.seconds:
        ratios["ratio_wall_s"] = round(ship.best_s / hand.best_s, 3)
    if ship.peaks:
        ratios["ratio_peak_rss"] = round(ship.peak / hand.peak, 3)
    for key, value in ratios.items():
        print(f"{key} {value} (goal {GOALS[key]})")
    if arguments.json:
        measured = {
            key: {"seconds": side.seconds, "peak_bytes": side.peaks}
            for key, side in (("by_hand", hand), ("ship", ship))
        }
        result = {**ratios, "goals": GOALS, "rounds": measured}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
