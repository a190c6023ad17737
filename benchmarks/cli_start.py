"""Time of `slipway --help` against a bare interpreter, alternating, median of 15 each.

python benchmarks/cli_start.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 15


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    ours, bare = [sys.executable, "-m", "slipway.cli", "--help"], [sys.executable, "-c", "pass"]
    seconds(ours)
    pairs = [(seconds(ours), seconds(bare)) for _ in range(RUNS)]
    help_s, bare_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = help_s / bare_s
    print(f"slipway --help {help_s * 1e3:.0f} ms, bare python {bare_s * 1e3:.0f} ms ({ratio:.1f}x)")
    print(f"goal 250 ms: ratio {help_s / 0.25:.2f}")
    if arguments.json:
        values = {"ratio_help_to_bare_python": round(ratio, 2), "help_ms": round(help_s * 1e3, 1)}
        arguments.json.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
