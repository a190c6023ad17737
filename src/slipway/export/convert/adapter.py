"""PEFT adapter -> GGUF adapter that llama.cpp adds to a base, by llama.cpp's own converter.

Of an adapter's config the converter takes `lora_alpha` alone, and llama.cpp scales B A by alpha
over the rank that it sees. So what else makes the scale (rsLoRA, alpha and rank patterns) is
multiplied into B beforehand, and what is no plain addition to a matrix is refused: llama.cpp would
leave it out without a word.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from slipway.core.errors import ProofError, SlipwayError, ToolError, UsageError, nearest
from slipway.core.events import EventLog
from slipway.core.files import new_folder, write_json
from slipway.core.i18n import Text, tr
from slipway.core.manifest import (
    Manifest,
    Setting,
    package_versions,
    require_replaceable,
    write_manifest,
)
from slipway.core.paths import Home
from slipway.export.convert.adapter_proof import AdapterProof, prove_adapter
from slipway.export.convert.tool import run_converter
from slipway.export.merge.sources import Source, find_base, not_linear, open_source, refuse_gguf
from slipway.export.shards import Weights
from slipway.export.toolchain import Toolchain, require_toolchain

if TYPE_CHECKING:
    from slipway.training.lora import Adapter

AdapterType = Literal["f32", "f16", "bf16"]
AdapterProofKind = Literal["auto", "logits", "weights"]
ADAPTER_NAME = "adapter.gguf"
_CONFIG, _WEIGHTS, _CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
_HEAD = "lm_head"
# the latent attention of these is computed without a look at adapters (seen by its logits)
_LATENT = frozenset({"q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"})
_NOT_ADDED = dict.fromkeys(["deepseek_v2", "deepseek_v3", "kimi_k2"], _LATENT)


@dataclass(frozen=True, slots=True)
class _Job:
    source: Source
    base: Path
    base_digest: str
    outtype: str
    proof: str
    base_gguf: Path | None
    toolchain: Toolchain
    home: Home
    log: EventLog


def convert_adapter(
    adapter: Path,
    out_dir: Path,
    *,
    base: Path | None = None,
    outtype: str = "f32",
    proof: str = "auto",
    base_gguf: Path | None = None,
    home: Home,
    events: EventLog | None = None,
) -> Manifest:
    """Convert an adapter to `out_dir/adapter.gguf` and write the manifest (kind "gguf-adapter").

    The file goes with any GGUF of the same base, of whatever precision: `llama-server --lora`, or
    `ADAPTER` in a Modelfile.

    Args:
        adapter: a finished run, or an adapter folder in PEFT's format.
        base: folder of the model that it was trained on; a run knows its own.
        outtype: number format of A and B: "f32", "f16" or "bf16".
        proof: "weights": every layer's addition is measured in the file; "logits": llama.cpp's
            logits with the adapter are compared with those of base + adapter, too; "auto": logits
            if a GGUF of the base is given or found in the home, or is quickly made.
        base_gguf: GGUF of the base, a file or an artefact's folder, for the proof by logits.
        events: receives "progress" events with `stage` ("convert", "prove") and `fraction`.

    Raises:
        NotFoundError: no finished run or adapter there, or the base is gone.
        UsageError: unknown `outtype` or `proof`, no base named, or the adapter cannot be a GGUF
            adapter (DoRA, OFT, weights trained whole, a tied output head).
        InputError: the adapter cannot be read, or the converter cannot convert it.
        ProofError: it is not the base's, changes nothing, or the file is not the adapter.
        ConflictError: `out_dir` holds something else than an earlier GGUF adapter.
        ResourceError: no toolchain, or the disk is full.
    """
    _check("outtype", outtype, get_args(AdapterType))
    _check("proof", proof, get_args(AdapterProofKind))
    source = open_source(adapter)
    require_replaceable(out_dir, "gguf-adapter")
    if source.whole:
        raise _cannot(source, tr("it trained the model's own weights and has no adapter"))
    if base is not None:
        refuse_gguf(base)
    folder, digest = find_base([source], base, command="convert")
    loaded = source.adapter()
    if reason := not_linear(loaded) or _left_out(loaded, folder):
        raise _cannot(source, reason)
    toolchain = require_toolchain(home)
    log = events or EventLog(None)
    job = _Job(source, folder, digest, outtype, proof, base_gguf, toolchain, home, log)
    return _convert(job, loaded, out_dir)


def _check(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(
            "convert.unknown_type" if option == "outtype" else "convert.unknown_proof",
            tr("`--{option}` of an adapter cannot be `{value}`", option=option, value=value),
            tr("use one of {names}", names=", ".join(nearest(value.lower(), known) or known)),
        )


def _cannot(source: Source, reason: Text) -> UsageError:
    return UsageError(
        "convert.no_plain_lora",
        tr("{path} cannot be a GGUF adapter: {reason}", path=source.path, reason=reason),
        tr("merge it instead: `slipway merge {path}`", path=source.path),
    )


def _left_out(adapter: Adapter, base: Path) -> Text | None:
    """What llama.cpp would leave out of an adapter without a word; None if nothing."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    lasts = {name.rpartition(".")[2] for name in adapter.layers}
    if found := sorted(lasts & _NOT_ADDED.get(config.get("model_type"), frozenset())):
        return tr("llama.cpp adds nothing to `{name}` of this architecture", name=found[0])
    if _HEAD not in lasts:
        return None
    head = any(name.endswith(f"{_HEAD}.weight") for name in Weights(base).entries)
    if head and not config.get("tie_word_embeddings", False):
        return None
    return tr("it adds to the output head (`lm_head`), which this base shares with its embedding")


def _convert(job: _Job, loaded: Adapter, out_dir: Path) -> Manifest:
    started = time.monotonic()
    source = job.source
    with new_folder(out_dir) as folder:
        target = folder / ADAPTER_NAME
        job.log.emit("progress", stage="convert", fraction=None)
        with tempfile.TemporaryDirectory(dir=folder, prefix="plain-") as work:
            plain, rescaled = _plain_lora(source, loaded, Path(work))
            _run_script(job, plain, target)
        job.log.emit("progress", stage="prove", fraction=None)
        proof = prove_adapter(
            target,
            source,
            loaded,
            base=job.base,
            base_digest=job.base_digest,
            base_gguf=job.base_gguf,
            kind=job.proof,
            toolchain=job.toolchain,
            home=job.home,
        )
        return _describe(job, folder, proof, rescaled, time.monotonic() - started)


def _describe(
    job: _Job, folder: Path, proof: AdapterProof, rescaled: int, seconds: float
) -> Manifest:
    source = job.source
    role = "run" if source.run is not None else "adapter"
    return write_manifest(
        folder,
        "gguf-adapter",
        f"{source.path.resolve().name}-adapter",
        parents={role: source.digest(), "base": job.base_digest},
        config={
            "outtype": Setting(job.outtype, "flag"),
            "proof": Setting(job.proof, "flag"),
        },
        versions={**package_versions("torch", "transformers"), "llama.cpp": job.toolchain.version},
        metrics={
            "size_bytes": (folder / ADAPTER_NAME).stat().st_size,
            "seconds": round(seconds, 2),
            "rescaled_layers": rescaled,
            **proof.metrics,
        },
        notes={"proof": proof.kind, "base_path": str(job.base.resolve()), **proof.notes},
    )


def _plain_lora(source: Source, adapter: Adapter, work: Path) -> tuple[Path, int]:
    """The adapter's folder as the converter understands it, and how many layers were rescaled.

    Raises:
        ProofError: the adapter adds nothing to any layer.
    """
    # the converter writes the folder's name into the file
    folder = work / source.path.resolve().name
    folder.mkdir()
    config = dict(adapter.config)
    alpha = float(config["lora_alpha"]) or float(config["r"])
    factors = {}
    for name, pair in adapter.layers.items():
        rank = pair["lora_B.weight"].shape[1]
        factors[name] = adapter.shape(name).scale * rank / alpha
    if not any(f and adapter.layers[n]["lora_B.weight"].any() for n, f in factors.items()):
        raise ProofError(
            "merge.unchanged",
            tr("the adapter of {run} changes no weight of the base", run=source.path),
            tr("train longer, or with a higher `learning_rate`"),
        )
    changed = {name: factor for name, factor in factors.items() if abs(factor - 1) > 1e-9}
    if (card := source.folder / _CARD).is_file():
        shutil.copyfile(card, folder / _CARD)
    write_json(folder / _CONFIG, {**config, "lora_alpha": alpha})
    if changed:
        _write_rescaled(source, adapter, changed, folder / _WEIGHTS)
    else:
        (folder / _WEIGHTS).symlink_to((source.folder / _WEIGHTS).resolve())
    return folder, len(changed)


def _write_rescaled(
    source: Source, adapter: Adapter, factors: dict[str, float], path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    tensors: dict[str, Any] = load_file(source.folder / _WEIGHTS)
    for key in list(tensors):
        name, _, end = key.rpartition(".lora_B")
        layer = next((one for one in factors if name == one or name.endswith(f".{one}")), None)
        if end and layer is not None:
            tensors[key] = tensors[key].float() * factors[layer]
    save_file(tensors, path, metadata={"format": "pt"})


def _run_script(job: _Job, plain: Path, target: Path) -> None:
    script = job.toolchain.lora_converter
    try:
        run_converter(
            job.toolchain,
            script,
            [plain, "--base", job.base.resolve(), "--outfile", target, "--outtype", job.outtype],
            source=job.source.path,
            target=target,
            log=job.log,
        )
    except ToolError as error:
        if error.code != "tool.failed":
            raise
        raise _refused(job.source, error) from error


def _refused(source: Source, error: ToolError) -> SlipwayError:
    """The converter splits and turns some architectures' weights, which not every LoRA survives."""
    last = error.message_en.strip().splitlines()[-1]
    return ToolError(
        "convert.adapter_failed",
        tr(
            "llama.cpp's converter cannot convert the adapter {path}: {reason}",
            path=source.path,
            reason=last,
        ),
        tr("merge it instead: `slipway merge {path}`", path=source.path),
    )
