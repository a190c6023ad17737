"""Settings of a mixture of experts that llama.cpp computes in one way only, or guesses.

The converter says nothing where a config asks for the other way, and the model then answers a
little wrong. Each case was found by comparing logits with `transformers` on small random models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slipway.core.i18n import tr
from slipway.export.fault import Fault

# architecture -> whether llama.cpp lets the chosen experts' weights sum to one
_NORMALISED = {"qwen3_moe": True, "qwen2_moe": False}


def routing_fault(folder: Path, config: dict[str, Any]) -> Fault | None:
    """What of the config's routing llama.cpp would compute otherwise; None if nothing."""
    family = config.get("model_type")
    if family in _NORMALISED:
        return _other_sum(folder, config, _NORMALISED[family])
    if family == "deepseek_v3" and not config.get("scoring_func"):
        return Fault(
            "model.no_scoring_func",
            tr(
                "`scoring_func` is missing in {path}: llama.cpp would choose experts by softmax, "
                "transformers chooses them by sigmoid",
                path=folder / "config.json",
            ),
            tr('add `"scoring_func": "sigmoid"` there'),
            fatal=True,
        )
    grouped = config.get("topk_method") == "group_limited_greedy"
    if family == "deepseek_v2" and grouped and (config.get("n_group") or 1) > 1:
        return Fault(
            "model.expert_groups",
            tr(
                "{folder} chooses groups of experts by their best one, llama.cpp by their best "
                "two: answers differ a little",
                folder=folder,
            ),
            tr("measure it before you serve it: `slipway eval`"),
            fatal=False,
        )
    return None


def _other_sum(folder: Path, config: dict[str, Any], normalised: bool) -> Fault | None:
    """`transformers` takes a missing key as false."""
    told = bool(config.get("norm_topk_prob", False))
    if told == normalised:
        return None
    return Fault(
        "model.expert_weights",
        tr(
            "`norm_topk_prob` in {path} is {told}, but llama.cpp computes this architecture as "
            "if it were {other}",
            path=folder / "config.json",
            told=str(told).lower(),
            other=str(normalised).lower(),
        ),
        tr("correct it if the model was trained otherwise; else llama.cpp cannot run this model"),
        fatal=True,
    )
