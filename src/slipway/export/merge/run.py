"""Merging adapters into their base, with proof that the merged model is base + adapters.

The sum W + scale * B A is made in fp32, one tensor at a time, and rounded once to the number
format that is written. All that is not a changed weight (config, tokenizer, template) is copied
byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.core.errors import ProofError, UsageError
from slipway.core.events import EventLog
from slipway.core.files import new_folder
from slipway.core.i18n import Text, tr
from slipway.core.manifest import (
    Manifest,
    Setting,
    package_versions,
    require_replaceable,
    write_manifest,
)
from slipway.datasets.templates import TEMPLATE_FILE
from slipway.export.convert import require_space
from slipway.export.handover import inspect, template_of
from slipway.export.merge.changes import changes
from slipway.export.merge.proof import TOLERANCE_KL, check_proof, prove
from slipway.export.merge.sources import (
    Source,
    find_base,
    open_source,
    peft_base,
    refuse_gguf,
    refuse_quantised,
    require_linear,
)
from slipway.export.merge.whole import take_whole
from slipway.export.merge.write import Written, check_dtype, output_size, write_merged
from slipway.export.shards import Weights


def merge_run(
    run_dir: Path,
    out_dir: Path,
    *,
    dtype: str = "keep",
    events: EventLog | None = None,
    tolerance: float = TOLERANCE_KL,
) -> Manifest:
    """Write base + adapter of a finished run as a model folder; see `merge_adapters`."""
    return merge_adapters(
        [(run_dir, 1.0)], out_dir, dtype=dtype, events=events, tolerance=tolerance
    )


def merge_adapters(
    parts: Sequence[tuple[Path, float]],
    out_dir: Path,
    *,
    base: Path | None = None,
    dtype: str = "keep",
    proof: str = "auto",
    events: EventLog | None = None,
    say: Callable[[Text], None] = lambda text: None,
    tolerance: float = TOLERANCE_KL,
) -> Manifest:
    """Write a base and the weighted sum of its adapters as a model folder (kind "merged").

    A run of method full or freeze holds a whole model already: that is taken over.

    Args:
        parts: runs, or adapter folders in PEFT's format, each with the factor of its addition.
        base: folder of the base; a run knows its own.
        dtype: number format of the merged weights; "keep": each in that of the base's.
        proof: "logits", "layers", or "auto" for logits wherever memory allows.
        say: is told what the user should know about the merged folder.
        tolerance: largest mean KL divergence, in nats, between base + adapter and the result.

    Raises:
        NotFoundError: no finished run or adapter there, or the base is gone.
        UsageError: the base is quantised, or the adapters cannot be summed.
        InputError: an adapter is of a kind that is not applied here, or a shard is cut short.
        ProofError: base or adapter are not those of the run, nothing would change, or the result
            is not base + adapter; nothing is left at `out_dir`.
        ConflictError: `out_dir` holds something else than an earlier merged model.
        ResourceError: the disk is full.
    """
    events = events or EventLog(None)
    check_dtype(dtype)
    check_proof(proof)
    sources = [open_source(path, weight) for path, weight in parts]
    require_replaceable(out_dir, "merged")
    if base is not None:
        refuse_gguf(base)
    folder, digest = find_base(sources, base)
    refuse_quantised(folder, json.loads((folder / "config.json").read_text(encoding="utf-8")))
    if any(source.whole for source in sources):
        _require_alone(sources)
        return take_whole(sources[0], folder, out_dir, dtype, events)
    options = _Options(dtype, proof, tolerance, say)
    return _merge(sources, folder, digest, out_dir, options, events)


@dataclass(frozen=True, slots=True)
class _Options:
    dtype: str
    proof: str
    tolerance: float
    say: Callable[[Text], None]


def _merge(
    sources: list[Source],
    base: Path,
    digest: str,
    out_dir: Path,
    options: _Options,
    events: EventLog,
) -> Manifest:
    dtype = options.dtype
    adapters = [source.adapter() for source in sources]
    require_linear(sources, adapters)
    weights = Weights(base)
    require_space(out_dir, output_size(weights, dtype))
    with new_folder(out_dir) as folder:
        written = write_merged(base, weights, changes(sources, adapters), folder, dtype, events)
        warnings = _take_template(sources, folder)
        if not written.changed:
            raise _unchanged(sources)
        events.emit(
            "progress",
            done=len(weights.shards),
            total=len(weights.shards) + 2,
            unit="merge: proof",
        )
        warnings += [fault.message for fault in inspect(folder)]
        for warning in warnings:
            options.say(warning)
        proved = prove(
            base,
            folder,
            sources,
            adapters,
            tolerance=options.tolerance,
            kind=options.proof,
        )
        manifest = write_manifest(
            folder,
            "merged",
            out_dir.name,
            parents={**_parents(sources), "base": digest},
            config={"dtype": Setting(dtype, "flag" if dtype != "keep" else "default")},
            versions=package_versions("torch", "transformers", "safetensors"),
            metrics={"changed_tensors": len(written.changed), **proved.metrics},
            notes={
                **_notes(sources, written),
                **proved.notes,
                **({"warnings": [one.en for one in warnings]} if warnings else {}),
            },
        )
    events.emit("artefact", kind="merged", path=str(out_dir), metrics=manifest.metrics)
    return manifest


def _take_template(sources: Sequence[Source], folder: Path) -> list[Text]:
    """Take an adapter's chat template where the base has none; return what must be told."""
    for source in sources:
        other = source.folder / TEMPLATE_FILE
        if not other.is_file():
            continue
        own = template_of(folder)
        if own is None:
            (folder / TEMPLATE_FILE).write_bytes(other.read_bytes())
        elif own.strip() != other.read_text(encoding="utf-8").strip():
            return [
                tr(
                    "{path} is not the base's chat template; the merged model has the base's",
                    path=other,
                )
            ]
    return []


def _parents(sources: Sequence[Source]) -> dict[str, str]:
    """Lineage: "run" or "adapter", numbered from the second on."""
    found: dict[str, str] = {}
    for source in sources:
        role = "run" if source.run is not None else "adapter"
        count = sum(name.split("-")[0] == role for name in found)
        found[role if not count else f"{role}-{count + 1}"] = source.digest()
    return found


def _notes(sources: Sequence[Source], written: Written) -> dict[str, Any]:
    notes: dict[str, Any] = {}
    if sources[0].run is not None:
        notes["run"] = sources[0].run.name
    if len(sources) > 1 or sources[0].weight != 1.0:
        notes["weights"] = [[source.path.name, source.weight] for source in sources]
    named = {s.path.name: peft_base(s.folder) for s in sources if s.run is None}
    if any(named.values()):
        notes["adapter_made_on"] = named
    if written.untied:
        notes["untied"] = "lm_head.weight"
    if written.left_out:
        notes["left_out"] = written.left_out
    return notes


def _unchanged(sources: Sequence[Source]) -> ProofError:
    return ProofError(
        "merge.unchanged",
        tr(
            "the adapter of {run} changes no weight of the base",
            run=", ".join(str(source.path) for source in sources),
        ),
        tr("train longer, or with a higher `learning_rate`"),
    )


def _require_alone(sources: Sequence[Source]) -> None:
    if len(sources) > 1 or sources[0].weight != 1.0:
        path = next(source.path for source in sources if source.whole)
        raise UsageError(
            "merge.not_linear",
            tr(
                "{path} cannot be weighted or summed: {reason}",
                path=path,
                reason=tr("it trained the model's own weights and has no adapter"),
            ),
            tr("merge it alone and without a weight: `slipway merge {path}`", path=path),
        )
