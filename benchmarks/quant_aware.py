"""What quantisation-aware LoRA saves: the same training with and without, both as Q4_0.

    python benchmarks/quant_aware.py [--steps 60] [--noise 0.05] [--json FILE]

The starter is fine-tuned twice on the example's customer-service rows, same seed, data and steps;
once with `quant_aware: q4_0`. Both runs are merged, converted and quantised to Q4_0 without an
importance matrix (the rounding that was trained under). Measured on the held-out rows: the loss of
each quantised model, and the mean KLD of each against its own bf16 model. The run without is also
quantised in the default way, with a matrix that counts every weight the same, which is what it has
to be compared with in practice. `ratio_kld` and `ratio_eval_loss` are with over without, both
without a matrix; the `_default` ones are against the default.

The starter's own weights lie on a 4-bit grid, so noise of so much of each weight matrix's standard
deviation is added first (`--noise 0` leaves it out).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

from ship_vs_tools import watched
from slipway.core.paths import Home
from slipway.export.toolchain import require_toolchain

ROOT = Path(__file__).parents[1]


def slipway(*arguments: str | Path) -> str:
    command = [sys.executable, "-c", "from slipway.cli.main import entry; entry()", *arguments]
    return watched(command, {}, False)[2]


def noisy(base: Path, out: Path, share: float) -> None:
    """A copy of a model folder whose linear weights have random noise added."""
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, out)
    generator = torch.Generator().manual_seed(0)
    for path in out.glob("*.safetensors"):
        weights = load_file(path)
        for name, weight in weights.items():
            if share and ".layers." in name and weight.ndim == 2:
                wide = weight.float()
                wide += torch.randn(wide.shape, generator=generator) * wide.std() * share
                weights[name] = wide.to(weight.dtype)
        save_file(weights, path, {"format": "pt"})
    (out / "manifest.json").unlink(missing_ok=True)


def measure(reference: Path, quant: Path, text: Path, home: Home) -> tuple[float, float]:
    """Mean KLD against the reference, and the loss on the text, by llama-perplexity."""
    import re

    program = require_toolchain(home).program("llama-perplexity")
    with tempfile.TemporaryDirectory() as folder:
        logits = Path(folder) / "logits"
        common: list[str | Path] = [
            program,
            "-f",
            text,
            "-c",
            "256",
            "--kl-divergence-base",
            logits,
        ]
        watched([*common, "-m", reference], {}, False)
        told = watched([*common, "-m", quant, "--kl-divergence"], {}, False)[2]
    kld = re.search(r"Mean\s+KLD:\s+([-\d.]+)", told)
    ppl = re.search(r"Mean PPL\(Q\)\s*:\s*([\d.]+)", told)
    assert kld and ppl, told[-2000:]
    return float(kld[1]), math.log(float(ppl[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    home = Home.current()
    data = ROOT / "examples" / "support-en"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        base = work / "base"
        noisy(home.bases / "starter", base, options.noise)
        text = work / "heldout.txt"
        text.write_text(heldout_text(base, data), encoding="utf-8")
        figures: dict[str, dict[str, float]] = {}
        for name, extra in (("without", []), ("with", ["quant_aware=q4_0"])):
            figures |= one(name, extra, base, data, work, text, options.steps, home)
    result: dict[str, Any] = {
        f"{name}_{figure}": value for name, row in figures.items() for figure, value in row.items()
    }
    aware, plain, default = figures["with"], figures["without"], figures["without_default"]
    result |= {
        "ratio_kld": aware["kld"] / plain["kld"],
        "ratio_eval_loss": aware["loss"] / plain["loss"],
        "ratio_kld_default": aware["kld"] / default["kld"],
        "ratio_eval_loss_default": aware["loss"] / default["loss"],
    }
    for key, value in result.items():
        print(f"{key:28} {value:>10.4f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def one(
    name: str,
    extra: list[str],
    base: Path,
    data: Path,
    work: Path,
    text: Path,
    steps: int,
    home: Home,
) -> dict[str, dict[str, float]]:
    """Train, merge, convert and quantise one run; its figures by name."""
    recipe = work / "recipe.yaml"
    keys = {"model": str(base), "data": str(data), "max_steps": steps, "learning_rate": 0.001}
    recipe.write_text(json.dumps({**keys, "epochs": 50.0, "seed": 1}), encoding="utf-8")
    run, merged, gguf = (work / f"{name}-{part}" for part in ("run", "merged", "gguf"))
    slipway("train", recipe, "--run-dir", run, *extra)
    slipway("merge", run, "-o", merged)
    slipway("convert", merged, "-o", gguf)
    kinds = {name: ["--no-imatrix"]} | ({f"{name}_default": []} if name == "without" else {})
    found = {}
    for kind, flags in kinds.items():
        out = work / f"{kind}-quant"
        slipway("quantize", gguf, "-t", "Q4_0", *flags, "-o", out)
        kld, loss = measure(gguf / "model.gguf", out / "Q4_0" / "model.gguf", text, home)
        found[kind] = {"kld": kld, "loss": loss}
    return found


def heldout_text(base: Path, data: Path) -> str:
    """The held-out rows as the model sees them."""
    from transformers import AutoTokenizer

    from slipway.datasets import load_dataset

    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = load_dataset(data, "heldout")
    return "".join(
        tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in row.messages], tokenize=False
        )
        for row in rows
    )


if __name__ == "__main__":
    main()
