"""`slipway quantize` of several levels against `llama-quantize` by hand, on the same file.

    python benchmarks/quantise.py [--model FOLDER] [--rounds 3] [--json FILE]

By hand the levels run one after the other, each with all cores, which is what a shell loop does.
Ours is the whole command, with its checks, digests and manifests; it runs levels side by side where
cores and memory allow, here without an importance matrix, as the tool does by itself. The files
must be the same byte for byte. Time is the best round's; memory is the greatest sum of the
proportional set sizes of a command and its children, in a round of its own. `--model` is a folder
of `slipway convert`; without it the starter is converted first.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from ship_vs_tools import watched
from slipway.core.files import sha256_file
from slipway.core.paths import Home
from slipway.export.toolchain import require_toolchain

LEVELS = ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")


def slipway(*arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-c", "from slipway.cli.main import entry; entry()", *arguments]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    home = Home.current()
    tool = require_toolchain(home).program("llama-quantize")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model = options.model
        if model is None:
            model = work / "bf16"
            watched(slipway("convert", home.bases / "starter", "-o", model), {}, False)
        gguf = model / "model.gguf"
        seconds: dict[str, list[float]] = {"hand": [], "ours": []}
        peak: dict[str, int] = {}
        for number in range(options.rounds + 1):
            memory = number == options.rounds
            hand = []
            for level in LEVELS:
                out = work / f"{level}.gguf"
                hand.append(watched([tool, gguf, out, level], {}, memory))
            target = work / f"ours{number}"
            types = [part for level in LEVELS for part in ("-t", level)]
            ours = watched(
                slipway("quantize", model, *types, "--no-imatrix", "-o", target), {}, memory
            )
            if memory:
                peak = {"hand": max(one[1] for one in hand), "ours": ours[1]}
            else:
                seconds["hand"].append(sum(one[0] for one in hand))
                seconds["ours"].append(ours[0])
            for level in LEVELS:
                mine = target / level / "model.gguf"
                assert sha256_file(mine) == sha256_file(work / f"{level}.gguf"), level
    best = {name: min(values) for name, values in seconds.items()}
    result = {
        "levels": len(LEVELS),
        "hand_s": best["hand"],
        "ours_s": best["ours"],
        "ratio_wall_s": best["ours"] / best["hand"],
        "hand_peak_mb": peak["hand"] / 1e6,
        "ours_peak_mb": peak["ours"] / 1e6,
        "ratio_peak_rss": peak["ours"] / peak["hand"],
        "identical": True,
    }
    for name, value in result.items():
        print(
            f"{name:16} {value:>10.2f}" if isinstance(value, float) else f"{name:16} {value!s:>10}"
        )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
