"""Seconds of each stage of the demo, with caches warm, against the goal for the whole.

Runs `slipway demo --fresh` in SLIPWAY_HOME (downloads and the native build are kept) in a process
of its own and prints a table. The goal is 420 s in full and 180 s with `--quick` on two cores.

    python benchmarks/demo_stages.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOAL_S = {False: 420.0, True: 180.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "slipway.cli", "demo", "--fresh", "--no-chat", "--stop"]
        command += ["--report", folder] + (["--quick"] if arguments.quick else [])
        began = time.monotonic()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        if done.returncode:
            return done.returncode
        report = json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))
    goal = GOAL_S[arguments.quick]
    print(f"{'stage':<12}{'seconds':>10}")
    for stage in report["stages"]:
        print(f"{stage['name']:<12}{stage['seconds']:>10.1f}{'  kept' if stage['cached'] else ''}")
    print(f"{'all':<12}{seconds:>10.1f}   goal {goal:.0f} s, ratio {seconds / goal:.2f}")
    if arguments.json:
        values = {
            "ratio_seconds_to_goal": round(seconds / goal, 3),
            "seconds": round(seconds, 1),
            "stages": {s["name"]: s["seconds"] for s in report["stages"]},
        }
        arguments.json.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
