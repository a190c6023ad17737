"""What a training step costs with and without each of the ways in which it saves work or memory.

    python benchmarks/train_step.py [--rows 8] [--rounds 3] [--threads 1] [--json FILE]

The starter with LoRA of rank 8 on all linear layers, rows of `support-en`. The ways take turns in
one process. "CPU s" is the least processor time of a step, forward and backward, which other
programs change little; "MB" the peak of what torch's tensors occupy besides the model.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from pathlib import Path
from typing import Any

from slipway.core.paths import Home
from slipway.store.pull import STARTER, pull_base

ROOT = Path(__file__).parents[1]
# name -> (beginnings shared and ends left out, norms and gates computed anew, layers run twice)
WAYS = {
    "everything computed and kept": (False, False, False),
    "common beginnings once, no ends": (True, False, False),
    "and norms and gates computed anew": (True, True, False),
    "and checkpointing": (True, True, True),
}


def make(base: Path, light: bool, twice: bool) -> Any:
    import torch

    from slipway.training import lora, model
    from slipway.training.checkpointing import compute_twice

    kept = model.lighten
    try:
        if not light:
            model.lighten = lambda model: 0
        made = model.load_base(base, torch.float32, torch.device("cpu"))
    finally:
        model.lighten = kept
    torch.manual_seed(0)
    lora.attach(made, rank=8, alpha=16.0, dropout=0.0, target="all")
    if twice:
        compute_twice(made)
    return made.train()


def step(model: Any, rows: Any, lean: bool) -> float:
    import torch

    from slipway.training.batch import batches, losses

    packs = batches(rows, 2048, torch.device("cpu"), lean=lean)
    labels = sum(len(batch.targets) for _, batch in packs)
    total = 0.0
    for _, batch in packs:
        loss = losses(model, batch, 1.0 / labels).sum()
        loss.backward()
        total += float(loss.detach())
    for parameter in model.parameters():
        parameter.grad = None
    return total


def peak(model: Any, rows: Any, lean: bool) -> int:
    from slipway.training.estimate.peak import AllocationPeak

    gc.collect()
    counter = AllocationPeak()
    counter.ignore([list(model.parameters()), list(model.buffers())])
    with counter:
        step(model, rows, lean)
    return counter.peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    import torch

    from slipway.datasets import encode_all, load_dataset, load_tokenizer

    home = Home.current()
    base = home.bases / STARTER
    if not base.is_dir():
        pull_base(STARTER, home=home)
    torch.set_num_threads(options.threads)
    samples = load_dataset(ROOT / "examples" / "support-en")
    rows = encode_all(samples, load_tokenizer(base), 1024).rows[: options.rows]
    tokens = sum(len(row.input_ids) for row in rows)
    models = {name: make(base, light, twice) for name, (_, light, twice) in WAYS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    losses = {}
    for number in range(options.rounds + 1):
        for name, (lean, _, _) in WAYS.items():
            start = time.process_time()
            losses[name] = step(models[name], rows, lean)
            if number:  # the first one warms up
                seconds[name].append(time.process_time() - start)
    print(f"{len(rows)} rows, {tokens} tokens, fp32, {options.threads} thread(s)")
    print(f"{'':<36} {'CPU s':>7} {'tokens/CPU s':>13} {'MB':>6} {'loss':>9}")
    found: dict[str, float] = {}
    first = next(iter(WAYS))
    for name, (lean, _, _) in WAYS.items():
        best, memory = min(seconds[name]), peak(models[name], rows, lean)
        found[f"seconds {name}"], found[f"bytes {name}"] = best, memory
        loss = losses[name]
        print(f"{name:<36} {best:>7.2f} {tokens / best:>13.1f} {memory / 1e6:>6.0f} {loss:>9.6f}")
    usual = list(WAYS)[2]
    found["ratio_seconds"] = found[f"seconds {usual}"] / found[f"seconds {first}"]
    found["ratio_bytes"] = found[f"bytes {usual}"] / found[f"bytes {first}"]
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
