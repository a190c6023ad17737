"""What each method costs beside plain LoRA: time of a step, and bytes of weights and optimiser.

Two layers of Qwen2.5-0.5B's shape with made-up numbers, packs of 256 tokens in fp32; methods take
turns, so that another program's bursts hit all alike. Prints a table; `--json FILE` writes
`ratio_seconds_<method>` (seconds over LoRA's) and `ratio_weights_<method>`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config

from slipway.datasets import Encoded
from slipway.training import TrainSpec
from slipway.training.batch import batches, losses
from slipway.training.estimate.skeleton import build, weight_bytes
from slipway.training.methods import attach, make_optimizer
from slipway.training.methods.optimizer import state_bytes
from slipway.training.quantised import make_up

TOKENS = 256
METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"lora": {"dora": True}},
    "pissa": {"lora": {"pissa": True, "pissa_iter": 2}},
    "oft": {"method": "oft"},
    "qlora_8": {"quant": {"bits": 8}},
    "qlora_4": {"quant": {"bits": 4}},
    "full": {"method": "full"},
    "full_muon": {"method": "full", "optimizer": "muon"},
    "full_galore": {"method": "full", "optimizer": "galore"},
    "full_adamw_8bit": {"method": "full", "optimizer": "adamw_8bit"},
}


class Method:
    """A method on a model of its own."""

    def __init__(self, settings: dict[str, Any], batch: Any) -> None:
        spec = TrainSpec.model_validate({"model": "m", "data": "d", **settings})
        config = Qwen2Config(
            vocab_size=8_000,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=2,
            num_attention_heads=14,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
        self.model, self.batch = build(config, torch.float32, torch.device("cpu")), batch
        if spec.quant.bits:
            make_up(self.model, spec.quant)
        tuned = attach(self.model, spec, torch.float32)
        self.optimizer = make_optimizer(spec, tuned)
        self.weights, self.state = weight_bytes(self.model), state_bytes(spec, tuned)
        self.model.train()
        self.seconds: list[float] = []

    def step(self) -> None:
        """One step, timed."""
        start = time.perf_counter()
        losses(self.model, self.batch, 1e-3).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.seconds.append(time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [Encoded(str(n), [(7 * n + 5 * i) % 2000 for i in range(128)], [1] * 128)
            for n in range(TOKENS // 128)]  # fmt: skip
    ((_, batch),) = batches(rows, TOKENS, torch.device("cpu"))
    torch.manual_seed(0)
    found = {name: Method(settings, batch) for name, settings in METHODS.items()}
    for _ in range(options.steps + 1):
        for method in found.values():
            method.step()
    base = found["lora"]
    usual = statistics.median(base.seconds[1:])
    print(f"{'method':<17}{'s/step':>8}{'x lora':>8}{'weights MB':>12}{'optimiser MB':>14}")
    ratios = {}
    for name, method in found.items():
        seconds = statistics.median(method.seconds[1:])  # the first makes what is made once
        ratios[f"ratio_seconds_{name}"] = round(seconds / usual, 3)
        ratios[f"ratio_weights_{name}"] = round(method.weights / base.weights, 3)
        print(
            f"{name:<17}{seconds:>8.3f}{seconds / usual:>8.2f}"
            f"{method.weights / 1e6:>12.1f}{method.state / 1e6:>14.1f}"
        )
    if options.json:
        options.json.write_text(json.dumps(ratios, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
