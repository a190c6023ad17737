"""The proof of a merge: the written folder computes what base and adapter compute.

By logits on probe texts wherever that is possible: one layer at a time (`streamed`), or with the
model in memory where its weights are named otherwise in files. A model of the second kind that
does not fit into memory is proved layer by layer on random inputs (`layers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import yaml

from slipway.core.errors import ProofError, ResourceError, UsageError
from slipway.core.hardware import available_memory_bytes
from slipway.core.i18n import tr
from slipway.export.merge.layers import prove_layers
from slipway.export.merge.probes import probe_tokens, probes
from slipway.export.merge.sources import Source
from slipway.export.merge.streamed import Beside, CannotStreamError, streamed_logits
from slipway.export.shards import Weights

if TYPE_CHECKING:
    from torch import Tensor

    from slipway.training.lora import Adapter
    from slipway.training.spec import QuantSpec

Proof = Literal["auto", "logits", "layers"]
# Mean Kullback-Leibler divergence in nats per position. Rounding SmolLM2-135M's merged weights to
# bf16 gives 1e-4 after a real run and 1.5e-3 after three steps, where much of the tiny change is
# below a weight's last bit; a lost adapter or a wrong scale gives 0.1 to 3.
TOLERANCE_KL = 0.02
TOLERANCE_TOP1 = 0.95
# The result must also be far nearer to base + adapter than the base itself is.
_MOST_LOST = 0.5
_ROWS = 64


@dataclass(frozen=True, slots=True)
class Proved:
    """What was found, for the manifest: numbers, and notes on how."""

    metrics: dict[str, float]
    notes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Merged against base + adapter over all probe positions."""

    kl_mean: float
    max_logit_difference: float
    mean_logit_difference: float
    top1: float
    adapter_kl_mean: float
    positions: int


def check_proof(proof: str) -> None:
    """Refuse an unknown kind of proof.

    Raises:
        UsageError: it is none of `Proof`.
    """
    if proof not in get_args(Proof):
        raise UsageError(
            "merge.unknown_proof",
            tr("unknown proof `{name}`", name=proof),
            tr("use one of {names}", names=", ".join(get_args(Proof))),
        )


def prove(
    base: Path,
    merged: Path,
    sources: Sequence[Source],
    adapters: Sequence[Adapter],
    *,
    tolerance: float,
    kind: str,
) -> Proved:
    """Prove the folder `merged` by the best means that memory allows.

    Raises:
        ProofError: it is not base + adapters.
        ResourceError: logits were asked for, and the model does not fit into memory.
    """
    from slipway.training.model import set_threads

    set_threads(None)
    beside = Beside.of(sources, adapters)
    if kind != "layers":
        made = _by_logits(base, merged, beside, tolerance, required=kind == "logits")
        if made is not None:
            return made
    found = prove_layers(base, merged, beside)
    if found.lost > _MOST_LOST and not beside.whole:
        raise _effect_lost(found.lost)
    metrics = {
        "layers_proved": found.layers,
        "weights_unchanged": found.unchanged,
        "layer_error_max": found.error,
        "layer_effect_lost": found.lost,
    }
    return Proved(metrics, {"proof": "layers"})


def _by_logits(
    base: Path, merged: Path, beside: Beside, tolerance: float, *, required: bool
) -> Proved | None:
    run_dir = next((source.path for source in beside.sources if source.run is not None), None)
    from slipway.training.memory import give_back

    size = _vocabulary(merged)
    texts = probes(merged, run_dir, probe_tokens(size))
    try:
        logits = []
        for folder, more in ((base, None), (base, beside), (merged, None)):
            logits.append(streamed_logits(folder, texts, more))
            give_back()  # what was read of the weights
        notes = {"proof": "logits, one layer at a time", "proof_dtype": "float32"}
    except CannotStreamError as error:
        dtype = _loadable(Weights(base).count, required)
        if dtype is None:
            return None
        logits = [
            _loaded_logits(base, None, texts, dtype),
            _loaded_logits(base, beside, texts, dtype),
            _loaded_logits(merged, None, texts, dtype),
        ]
        notes = {
            "proof": "logits, model in memory",
            "proof_dtype": str(dtype).removeprefix("torch."),
            "not_streamed": str(error),
        }
    plain, wanted, found = logits
    result = _compare(wanted, found, plain)
    _require_same(result, tolerance)
    metrics = {
        "logit_difference_max": result.max_logit_difference,
        "logit_difference_mean": result.mean_logit_difference,
        "kl_mean": result.kl_mean,
        "top1_agreement": result.top1,
        "adapter_kl_mean": result.adapter_kl_mean,
    }
    if run_dir is not None and len(beside.sources) == 1:
        metrics |= _quantised_kl(base, run_dir, texts, found)
    return Proved(metrics, {**notes, "positions": result.positions, "tolerance": tolerance})


def model_logits(
    folder: Path, texts: list[list[int]], beside: Beside | None = None
) -> Tensor | None:
    """Logits of a model, with adapters beside it, at every position; None if memory is too small.

    One layer at a time where the folder's weights are those of the model by name.
    """
    try:
        return streamed_logits(folder, texts, beside)
    except CannotStreamError:
        dtype = _loadable(Weights(folder).count, required=False)
    return None if dtype is None else _loaded_logits(folder, beside, texts, dtype)


def _require_same(result: _Comparison, tolerance: float) -> None:
    if not (result.kl_mean <= tolerance and result.top1 >= TOLERANCE_TOP1):
        raise ProofError(
            "merge.differs",
            tr(
                "the merged model is not base + adapter: mean KL {kl:.5f} (at most {tolerance:g}), "
                "top-1 agreement {top1:.1%} (at least {least:.0%})",
                kl=result.kl_mean,
                tolerance=tolerance,
                top1=result.top1,
                least=TOLERANCE_TOP1,
            ),
            tr("nothing was written; please report this with the run's manifest.json"),
        )
    if result.kl_mean > _MOST_LOST * result.adapter_kl_mean:
        raise _effect_lost(result.kl_mean / max(result.adapter_kl_mean, 1e-12))


def _effect_lost(part: float) -> ProofError:
    return ProofError(
        "merge.effect_lost",
        tr("rounding to the base's number format loses {part:.0%} of what was trained", part=part),
        tr("train longer, or with a higher `learning_rate`"),
    )


def _vocabulary(model: Path) -> int:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(model), local_files_only=True)
    return int(getattr(config.get_text_config(), "vocab_size", 0) or 0)


def _loadable(numbers: int, required: bool) -> Any:
    """The number format in which the whole model fits into memory, the most exact one; or None.

    Raises:
        ResourceError: none, and it is required.
    """
    import torch

    free = available_memory_bytes()
    # twice: while transformers fuses what is separate in files, both are there
    for size, dtype in ((4, torch.float32), (2, torch.bfloat16)):
        if free > 2.2 * size * numbers:
            return dtype
    if not required:
        return None
    raise ResourceError(
        "merge.proof_memory",
        tr(
            "the proof by logits needs {needed} MB of memory, {free} MB are free",
            needed=int(4.4 * numbers) // 1_000_000,
            free=free // 1_000_000,
        ),
        tr("prove it layer by layer with `--proof layers`"),
    )


def _quantised_kl(
    base: Path, run_dir: Path, texts: list[list[int]], merged: Tensor
) -> dict[str, float]:
    """How far the merged model is from what was trained, where the base was held in few bits.

    The adapter is merged into the base's own weights, which are nearer to what they were before
    they were quantised; empty where nothing was quantised, or bitsandbytes is gone.
    """
    import torch

    from slipway.training.spec import QuantSpec

    recipe = yaml.safe_load((run_dir / "recipe.yaml").read_text(encoding="utf-8"))
    quant = QuantSpec.model_validate(recipe.get("quant") or {})
    if quant.bits is None:
        return {}
    try:
        trained = _loaded_logits(base, run_dir / "adapter", texts, torch.float32, quant)
    except ResourceError:
        return {}
    return {"quantised_kl_mean": _divergence(trained, merged)}


def _loaded_logits(
    folder: Path,
    beside: Beside | Path | None,
    texts: Sequence[Sequence[int]],
    dtype: Any,
    quant: QuantSpec | None = None,
) -> Tensor:
    """Logits at every probe position, of a model that is in memory: [positions, vocabulary]."""
    import torch

    from slipway.training.lora import load_adapter
    from slipway.training.model import load_base

    model = load_base(folder, dtype, torch.device("cpu"), quant)
    if isinstance(beside, Path):
        load_adapter(model, beside)
    elif beside is not None and len(beside.sources) == 1 and beside.sources[0].weight == 1.0:
        load_adapter(model, beside.sources[0].folder)
    elif beside is not None:
        _add_beside(model, beside)
    model.eval()
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        return torch.cat(
            [
                model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].float()
                for ids in texts
            ]
        )


def _add_beside(model: Any, beside: Beside) -> None:
    """Let several weighted adapters add to the outputs of the model's layers."""
    for source, adapter in zip(beside.sources, beside.adapters, strict=True):
        for name, tensors in adapter.layers.items():
            scale = source.weight * adapter.shape(name).scale

            def add(_: Any, x: Any, y: Any, pair: Any = tensors, scale: float = scale) -> Any:
                inner = x[0].float() @ pair["lora_A.weight"].float().t()
                return y + (scale * (inner @ pair["lora_B.weight"].float().t())).to(y.dtype)

            model.get_submodule(name).register_forward_hook(add)


def _divergence(wanted: Tensor, found: Tensor) -> float:
    """Mean KL divergence of the second's distributions from the first's, in nats."""
    total = 0.0
    for begin in range(0, len(wanted), _ROWS):  # few rows at a time, for the copies
        logs = wanted[begin : begin + _ROWS].log_softmax(-1)
        other = found[begin : begin + _ROWS].log_softmax(-1)
        total += float((logs.exp() * (logs - other)).sum(-1).double().sum())
    return total / len(wanted)


def _compare(wanted: Tensor, found: Tensor, plain: Tensor) -> _Comparison:
    largest = total = 0.0
    for begin in range(0, len(wanted), _ROWS):
        difference = (wanted[begin : begin + _ROWS] - found[begin : begin + _ROWS]).abs()
        largest = max(largest, float(difference.max()))
        total += float(difference.mean()) * len(difference)
    return _Comparison(
        kl_mean=_divergence(wanted, found),
        max_logit_difference=largest,
        mean_logit_difference=total / len(wanted),
        top1=float((wanted.argmax(-1) == found.argmax(-1)).float().mean()),
        adapter_kl_mean=_divergence(wanted, plain),
        positions=len(wanted),
    )
