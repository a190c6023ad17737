"""How near estimates come to what then happens: memory within 20 %, time within 25 %.

    python benchmarks/train_estimates.py [--only NAME ...] [--steps 40] [--json FILE]

Each configuration is trained in a process of its own, which estimates itself before the model is
loaded. `ratio_memory_<name>` and `ratio_seconds_<name>` are estimated / measured (1 is exact). The
machine should do nothing else meanwhile: an estimate cannot know who will come. Configurations that
training does not obey yet are named and left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from slipway.core.paths import Home
from slipway.store.pull import STARTER, pull_base
from slipway.testing.tiny import tiny_model

ROOT = Path(__file__).parents[1]
DATA = ROOT / "examples" / "support-en"
SHORT, LONG = ["cutoff_len=128"], ["cutoff_len=512"]
CONFIGURATIONS: dict[str, tuple[str, list[str]]] = {
    "starter-lora-short": ("starter", [*SHORT, "batch_tokens=256"]),
    "starter-lora-long": ("starter", [*LONG, "batch_tokens=1024"]),
    "starter-lora-rows": ("starter", [*LONG, "batch_rows=8", "lora.rank=64"]),
    "starter-lora-big-packs": ("starter", [*LONG, "batch_tokens=4096", "pack_tokens=4096"]),
    "starter-lora-attention": ("starter", [*LONG, "lora.target=[q_proj, v_proj]"]),
    "starter-full": ("starter", [*SHORT, "method=full", "learning_rate=1e-5"]),
    "starter-freeze": ("starter", [*SHORT, "method=freeze", "learning_rate=1e-4"]),
    "starter-qlora-4": ("starter", [*SHORT, "quant.bits=4"]),
    "tiny-lora": ("tiny", [*LONG, "batch_tokens=2048"]),
    "tiny-full": ("tiny", [*LONG, "method=full", "batch_tokens=2048"]),
}
_RUN = """
import json, sys
from pathlib import Path
from slipway.core.errors import UsageError
from slipway.core.events import EventLog
from slipway.training import load_recipe, train
try:
    found = train(load_recipe(Path(sys.argv[1]), sys.argv[3:]), run_dir=Path(sys.argv[2]),
                  events=EventLog(None))
except UsageError as error:
    if error.code != "train.not_yet":
        raise
    print(json.dumps({"refused": error.message_en}))
else:
    print(json.dumps(found.manifest.notes["estimate"]))
"""


def run(base: Path, overrides: list[str], folder: Path, steps: int) -> dict[str, Any]:
    recipe = folder / "recipe.yaml"
    recipe.write_text(f"model: {base}\ndata: {DATA}\nmax_steps: {steps}\nepochs: 100\n")
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(recipe), str(folder / "run"), *overrides],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", choices=list(CONFIGURATIONS))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {}
    heads = ("GB est", "GB", "ratio", "s est", "s", "ratio")
    print(f"{'configuration':<24} " + " ".join(f"{head:>8}" for head in heads))
    for name in options.only or CONFIGURATIONS:
        base_name, overrides = CONFIGURATIONS[name]
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            if base_name == "tiny":
                base = tiny_model(folder / "tiny")
            else:
                base = Home.current().bases / STARTER
                if not base.is_dir():
                    pull_base(STARTER, home=Home.current())
            found = run(base, overrides, folder, options.steps)
        if "refused" in found:
            print(f"{name:<24} left out: {found['refused']}")
            continue
        told = found["compared"]
        result[f"ratio_memory_{name}"] = told["memory_ratio"]
        result[f"ratio_seconds_{name}"] = told["seconds_ratio"]
        print(
            f"{name:<24} {told['memory_bytes_estimated'] / 1e9:>8.2f} "
            f"{told['memory_bytes_measured'] / 1e9:>8.2f} {told['memory_ratio']:>8.2f} "
            f"{told['seconds_estimated']:>8.1f} {told['seconds_measured']:>8.1f} "
            f"{told['seconds_ratio']:>8.2f}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
