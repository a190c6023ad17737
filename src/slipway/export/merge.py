"""Merging a run's adapter into its base, with proof that the merged model is base + adapter.

The sum W + scale * B A is made in fp32 and rounded once to the base's own number format. All that
is not a changed weight (config, tokenizer, template) is copied byte for byte.

The proof: reference logits come from the base with the adapter beside it, computed in fp32; the
merged folder is loaded as anybody would load it and must give the same distribution. Rounding to
bf16 moves each weight by at most 2^-9 of its size; see `TOLERANCE_KL` for what that makes of the
output.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from slipway.core.errors import (
    InputError,
    NotFoundError,
    ProofError,
    ResourceError,
    SlipwayError,
)
from slipway.core.events import EventLog
from slipway.core.files import new_folder
from slipway.core.hardware import available_memory_bytes
from slipway.core.i18n import tr
from slipway.core.manifest import (
    FILE_NAME,
    Manifest,
    package_versions,
    read_manifest,
    require_replaceable,
    verify_files,
    write_manifest,
)
from slipway.core.paths import Home
from slipway.datasets.templates import TEMPLATE_FILE
from slipway.export.whole import refuse_reward_model, take_whole

if TYPE_CHECKING:
    from slipway.training.spec import QuantSpec

# Mean Kullback-Leibler divergence in nats per position. Rounding SmolLM2-135M's merged weights to
# bf16 gives 1e-4 after a real run and 1.5e-3 after three steps, where much of the tiny change is
# below a weight's last bit; a lost adapter or a wrong scale gives 0.1 to 3.
TOLERANCE_KL = 0.02
# The result must also be far nearer to base + adapter than the base itself is.
_MOST_LOST = 0.5
TOLERANCE_TOP1 = 0.95
_PROBE_TOKENS = 512
_PROBES = (
    ("Hello! Who are you, and what can you do for me?", "I answer questions and help with orders."),
    ("My parcel has not arrived. Order 48213.", "I am sorry. Let me look at where it is."),
    ("Name three colours and a number above ten.", "Red, green, blue, and seventeen."),
    ("我想退货，应该怎么办？", "您可以在签收后七天内申请退货。"),
    ("def area(r):", "    return 3.14159 * r * r"),
)


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Merged against base + adapter over all probe positions."""

    kl_mean: float
    max_logit_difference: float
    mean_logit_difference: float
    top1: float
    adapter_kl_mean: float
    positions: int


def merge_run(
    run_dir: Path,
    out_dir: Path,
    *,
    events: EventLog | None = None,
    tolerance: float = TOLERANCE_KL,
) -> Manifest:
    """Write base + adapter of a finished run as a model folder (manifest kind "merged").

    A run of method full or freeze holds a whole model already: that is taken over.

    Args:
        tolerance: largest mean KL divergence, in nats, between base + adapter and the result.

    Raises:
        NotFoundError: no finished run there, or its base is gone.
        UsageError: the run holds a reward model.
        ProofError: base or adapter are not those of the run, nothing would change, or the result
            is not base + adapter; nothing is left at `out_dir`.
        ConflictError: `out_dir` holds something else than an earlier merged model.
        ResourceError: the disk is full.
    """
    events = events or EventLog(None)
    run = read_manifest(run_dir, kind="run")
    refuse_reward_model(run_dir, run)
    require_replaceable(out_dir, "merged")
    base = _find_base(run)
    _require_same_parts(run_dir, run, base)
    if run.notes.get("artefact") == "model":
        return take_whole(run_dir, run, base, out_dir, events)
    with new_folder(out_dir) as folder:
        changed = _write_merged(base, run_dir / "adapter", folder, events)
        if not changed:
            raise ProofError(
                "merge.unchanged",
                tr("the adapter of {run} changes no weight of the base", run=str(run_dir)),
                tr("train longer, or with a higher `learning_rate`"),
            )
        events.emit("progress", done=2, total=3, unit="merge: proof")
        result, notes, quantised = _prove(base, run_dir, folder, tolerance)
        manifest = write_manifest(
            folder,
            "merged",
            out_dir.name,
            parents={"run": run.digest, "base": run.parents["base"]},
            versions=package_versions("torch", "transformers", "safetensors"),
            metrics={
                "changed_tensors": changed,
                "logit_difference_max": result.max_logit_difference,
                "logit_difference_mean": result.mean_logit_difference,
                "kl_mean": result.kl_mean,
                "top1_agreement": result.top1,
                "adapter_kl_mean": result.adapter_kl_mean,
                **quantised,
            },
            notes={"run": run.name, "positions": result.positions, "tolerance": tolerance, **notes},
        )
    events.emit("artefact", kind="merged", path=str(out_dir), metrics=manifest.metrics)
    return manifest


def _find_base(run: Manifest) -> Path:
    """The base's folder as the run knew it, or a pulled base of the same digest."""
    recorded = Path(str(run.notes.get("base_path", "")))
    if recorded.is_dir() and str(recorded) != ".":
        return recorded
    bases = Home.current().bases
    for folder in sorted(bases.iterdir()) if bases.is_dir() else []:
        try:
            if read_manifest(folder).digest == run.parents["base"]:
                return folder
        except SlipwayError:
            continue
    raise NotFoundError(
        "merge.base_not_found",
        tr("the base model of the run is no longer at {path}", path=str(recorded)),
        tr("get it again with `slipway pull`"),
    )


def _require_same_parts(run_dir: Path, run: Manifest, base: Path) -> None:
    from slipway.training.model import base_digest

    damaged = verify_files(run_dir, run)
    if damaged:
        raise ProofError(
            "merge.run_changed",
            tr("{run} was changed after training: {files}", run=run_dir, files=", ".join(damaged)),
            tr("train again, or restore the files"),
        )
    if base_digest(base) != run.parents["base"]:
        raise ProofError(
            "merge.other_base",
            tr("the model in {path} is not the base that the run was trained on", path=str(base)),
            tr("get that base again with `slipway pull`, or train on this one"),
        )


def _write_merged(base: Path, adapter: Path, folder: Path, events: EventLog) -> int:
    """Write the merged weights and copy the rest; return how many tensors changed."""
    from safetensors import safe_open
    from safetensors.torch import save

    weights = sorted(base.glob("*.safetensors"))
    if not weights:
        raise InputError(
            "merge.no_safetensors",
            tr("{path} has no .safetensors weights to merge into", path=str(base)),
            tr("get that base again with `slipway pull`, or train on this one"),
        )
    for path in sorted(base.iterdir()):
        if path.is_file() and path.suffix != ".safetensors" and path.name != FILE_NAME:
            shutil.copyfile(path, folder / path.name)
    if (adapter / TEMPLATE_FILE).is_file():  # the base had none, and was trained with ours
        shutil.copyfile(adapter / TEMPLATE_FILE, folder / TEMPLATE_FILE)
    parts = _parts(adapter)
    changed = 0
    for number, shard in enumerate(weights):
        events.emit("progress", done=number, total=len(weights) + 2, unit=f"merge: {shard.name}")
        tensors = {}
        with safe_open(shard, framework="pt") as file:
            metadata = file.metadata()
            for name in file.keys():  # noqa: SIM118 - not a dict
                tensor = file.get_tensor(name)
                part = parts.pop(name, None)
                tensors[name] = tensor if part is None else _merged(part, tensor, name)
                changed += part is not None and not tensors[name].equal(tensor)
        (folder / shard.name).write_bytes(save(tensors, metadata))
    _require_taken(parts, base)
    return changed


def _parts(adapter: Path) -> dict[str, Callable[[Any], Any]]:
    """Weight name -> the function that makes the merged weight of the base's, fp32."""
    import torch

    from slipway.training.lora import read_adapter

    found = read_adapter(adapter)

    def layer(name: str) -> Callable[[Any], Any]:
        def merged(weight: Any) -> Any:
            base = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
            base.weight = torch.nn.Parameter(weight, requires_grad=False)
            return found.on(base, name).merged()

        return merged

    parts = {f"{name}.weight": layer(name) for name in found.layers}
    return parts | {name: lambda weight, t=tensor: t for name, tensor in found.whole.items()}


def _merged(part: Callable[[Any], Any], weight: Any, name: str) -> Any:
    try:
        made = part(weight)
    except InputError as error:
        raise _misfit(name) from error
    if made.shape != weight.shape:
        raise _misfit(name)
    return made.to(weight.dtype)


def _require_taken(left: Mapping[str, object], base: Path) -> None:
    """What no file of the base holds must be the other half of a tied weight.

    Raises:
        ProofError: it is not.
    """
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    tied = config.get("tie_word_embeddings", True)
    for name in left:
        if not (tied and name == "lm_head.weight"):
            raise _misfit(name)


def _misfit(name: str) -> ProofError:
    return ProofError(
        "merge.adapter_misfit",
        tr("the adapter does not fit the base: `{tensor}`", tensor=name),
        tr("merge with the base that the adapter was trained on"),
    )


def _prove(
    base: Path, run_dir: Path, folder: Path, tolerance: float
) -> tuple[_Comparison, dict[str, Any], dict[str, float]]:
    """Compare merged with base + adapter, refusing what is not the same model."""
    import torch

    from slipway.training.model import set_threads

    set_threads(None)
    size = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    # twice the bf16 size for fp32, and room for activations; else prove in the base's own format
    dtype = torch.float32 if available_memory_bytes() > 2.5 * size else torch.bfloat16
    probes = list(_probes(folder, run_dir))
    plain = _logits(base, None, probes, dtype)
    wanted = _logits(base, run_dir / "adapter", probes, dtype)
    found = _logits(folder, None, probes, dtype)
    result = _compare(wanted, found, plain)
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
        raise ProofError(
            "merge.effect_lost",
            tr(
                "rounding to the base's number format loses {part:.0%} of what was trained",
                part=result.kl_mean / max(result.adapter_kl_mean, 1e-12),
            ),
            tr("train longer, or with a higher `learning_rate`"),
        )
    notes = {"proof_dtype": str(dtype).removeprefix("torch.")}
    return result, notes, _quantised_kl(base, run_dir, probes, dtype, found)


def _quantised_kl(
    base: Path, run_dir: Path, probes: list[list[int]], dtype: Any, merged: Any
) -> dict[str, float]:
    """How far the merged model is from what was trained, where the base was held in few bits.

    The adapter is merged into the base's own weights, which are nearer to what they were before
    they were quantised; empty where nothing was quantised, or bitsandbytes is gone.
    """
    from slipway.training.spec import QuantSpec

    recipe = yaml.safe_load((run_dir / "recipe.yaml").read_text(encoding="utf-8"))
    quant = QuantSpec.model_validate(recipe.get("quant") or {})
    if quant.bits is None:
        return {}
    try:
        trained = _logits(base, run_dir / "adapter", probes, dtype, quant)
    except ResourceError:
        return {}
    return {"quantised_kl_mean": _divergence(trained, merged)}


def _probes(model: Path, run_dir: Path) -> Iterator[list[int]]:
    """Token ids to compare on: held-out rows of the run's data, then fixed ones, about 500."""
    from slipway.datasets import encode_all, load_dataset, load_tokenizer
    from slipway.training.spec.keys import as_sources

    tokenizer = load_tokenizer(model, chat=False)
    recipe = yaml.safe_load((run_dir / "recipe.yaml").read_text(encoding="utf-8"))
    left = _PROBE_TOKENS
    try:
        data = Path(as_sources(recipe["data"])[0].path)
        rows = encode_all(load_dataset(data, "heldout"), tokenizer, 256).rows
    except SlipwayError:  # the data may be gone by now: the fixed probes remain
        rows = []
    for row in rows[:8]:
        if left - len(row.input_ids) < _PROBE_TOKENS // 3:
            break
        left -= len(row.input_ids)
        yield row.input_ids
    for question, answer in _PROBES:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        if tokenizer.chat_template:
            text = tokenizer.apply_chat_template(turns, tokenize=False)
        else:
            text = f"{question}\n{answer}"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:left]
        left -= len(ids)
        if ids:
            yield ids


def _logits(
    folder: Path,
    adapter: Path | None,
    probes: list[list[int]],
    dtype: Any,
    quant: QuantSpec | None = None,
) -> Any:
    """Logits at every probe position: [positions, vocabulary], fp32."""
    import torch

    from slipway.training.lora import load_adapter
    from slipway.training.model import load_base

    model = load_base(folder, dtype, torch.device("cpu"), quant)
    if adapter is not None:
        load_adapter(model, adapter)
        model.eval()
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        return torch.cat(
            [
                model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
                for ids in probes
            ]
        )


def _divergence(wanted: Any, found: Any) -> float:
    """Mean KL divergence of the second's distributions from the first's, in nats."""
    logs = wanted.log_softmax(-1)
    return float((logs.exp() * (logs - found.log_softmax(-1))).sum(-1).mean())


def _compare(wanted: Any, found: Any, plain: Any) -> _Comparison:
    difference = (wanted - found).abs()
    return _Comparison(
        kl_mean=_divergence(wanted, found),
        max_logit_difference=float(difference.max()),
        mean_logit_difference=float(difference.mean()),
        top1=float((wanted.argmax(-1) == found.argmax(-1)).float().mean()),
        adapter_kl_mean=_divergence(wanted, plain),
        positions=len(wanted),
    )
