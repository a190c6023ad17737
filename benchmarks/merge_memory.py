"""Peak memory of `slipway merge` on a sharded model, beside PEFT's way and one shard's size.

    python benchmarks/merge_memory.py [--layers 16] [--shard-mb 100] [--rounds 2] [--json FILE]

A Llama of random bf16 weights (hidden size 2048, about 1.8 GB at 16 layers) in shards, and a
random LoRA adapter of rank 8 on all linear layers. PEFT's way is `PeftModel.merge_and_unload` and
`save_pretrained`. Ours is the command with `--proof layers`, which is what it takes for a model
that is larger than the memory.

Counted is private memory (RssAnon), sampled each 10 ms over the whole tree of processes: pages of
the mapped input file belong to the page cache and are given back whenever somebody needs them.
`ratio_peak_rss` is ours over PEFT's; `ratio_peak_over_shard` is how many shards of memory ours
takes above a bare `import torch` (goal: little more than 1).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ship_vs_tools import PEFT_MERGE, tree
from slipway.core.paths import Home
from slipway.store.pull import STARTER, pull_base

MIB = 1 << 20
MAKE = """
import sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
starter, out, adapter, layers, shard = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(starter)
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
config = LlamaConfig(hidden_size=2048, intermediate_size=5632, num_hidden_layers=int(layers),
    num_attention_heads=32, num_key_value_heads=4, vocab_size=len(tokenizer),
    max_position_embeddings=2048, tie_word_embeddings=True)
model = LlamaForCausalLM(config)
model.save_pretrained(out, max_shard_size=shard + "MB")
tokenizer.save_pretrained(out)
tuned = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
for name, weight in tuned.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(weight, std=0.02)
tuned.save_pretrained(adapter)
"""


def anonymous(pid: int) -> int:
    """Private memory of a process in bytes; 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    line = next((line for line in text.splitlines() if line.startswith("RssAnon:")), "x 0")
    return int(line.split()[1]) * 1024


def watched(command: list[str], env: dict[str, str]) -> tuple[float, int]:
    """Seconds and peak private bytes of a command and its children."""
    with tempfile.TemporaryFile("w+") as log:
        began, peak = time.perf_counter(), 0
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **env}
        )
        while process.poll() is None:
            peak = max(peak, sum(anonymous(pid) for pid in tree(process.pid)))
            time.sleep(0.01)
        if process.returncode:
            log.seek(0)
            sys.exit(f"{command[0]} ended with {process.returncode}:\n{log.read()[-3000:]}")
    return time.perf_counter() - began, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--shard-mb", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    starter = Home.current().bases / "starter"
    if not starter.is_dir():
        pull_base(STARTER, home=Home.current())
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        base, adapter = work / "base", work / "adapter"
        make = [sys.executable, "-c", MAKE, str(starter), str(base), str(adapter)]
        watched([*make, str(options.layers), str(options.shard_mb)], {})
        shards = sorted(base.glob("model-*.safetensors"), key=lambda path: path.stat().st_size)
        total, shard = sum(p.stat().st_size for p in shards), shards[-1].stat().st_size
        _, bare = watched([sys.executable, "-c", "import torch"], {})
        runs: dict[str, list[tuple[float, int]]] = {"peft": [], "ours": []}
        for number in range(options.rounds):
            out = work / f"out{number}"
            line = ["merge", str(adapter), "--base", str(base), "--proof", "layers"]
            code = "from slipway.cli.main import entry; entry()"
            ours = [sys.executable, "-c", code, *line, "-o", str(out)]
            runs["ours"].append(watched(ours, {"SLIPWAY_HOME": str(work / "home")}))
            theirs = [sys.executable, "-c", PEFT_MERGE, str(base), str(adapter), str(work / "peft")]
            runs["peft"].append(watched(theirs, {}))
    best = {name: min(seconds for seconds, _ in values) for name, values in runs.items()}
    peak = {name: max(memory for _, memory in values) for name, values in runs.items()}
    result = {
        "model_mb": total / MIB,
        "largest_shard_mb": shard / MIB,
        "bare_torch_mb": bare / MIB,
        "ours_peak_mb": peak["ours"] / MIB,
        "peft_peak_mb": peak["peft"] / MIB,
        "ours_s": best["ours"],
        "peft_s": best["peft"],
        "ratio_peak_rss": peak["ours"] / peak["peft"],
        "ratio_seconds": best["ours"] / best["peft"],
        "ratio_peak_over_shard": (peak["ours"] - bare) / shard,
    }
    for name, value in result.items():
        print(f"{name:24} {value:>10.2f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
