"""Proof that a GGUF adapter is the adapter it was made from.

In the file: every layer's addition scale * B A has the length that training gave it, whatever the
converter did to the order of rows. In llama.cpp: with base and adapter loaded, the next token's
probabilities are those of base + adapter in `transformers`, and not the base's.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.core.errors import NotFoundError, ProofError, ResourceError, SlipwayError
from slipway.core.events import EventLog
from slipway.core.i18n import tr
from slipway.core.manifest import read_manifest
from slipway.core.paths import Home
from slipway.export.convert.formats import gguf_size, native_outtype
from slipway.export.convert.model import GGUF_NAME, gguf_files
from slipway.export.convert.space import require_space
from slipway.export.convert.tool import run_converter
from slipway.export.merge.probes import probes
from slipway.export.merge.proof import model_logits
from slipway.export.merge.sources import Source
from slipway.export.merge.streamed import Beside
from slipway.export.next_tokens import divergence, next_tokens, places_of, same_tokens
from slipway.export.server import served
from slipway.export.toolchain import Toolchain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipway.training.lora import Adapter

TOLERANCE_KL = 0.02
# of the adapter's own effect: as KL grows with the square, a scale wrong by a quarter is seen
_LEAST_PART = 0.05
# largest part by which a layer's addition may be off, from rounding to the number format
_ROUNDING = {"F32": 1e-4, "F16": 2e-3, "BF16": 1e-2}
_QUICK_BYTES = 2_000_000_000
_PROBE_TOKENS = 192


@dataclass(frozen=True, slots=True)
class AdapterProof:
    """What was compared and found equal.

    Attributes:
        kind: "logits" or "weights".
        metrics: numbers for the manifest.
        notes: why there was no proof by logits, or with which GGUF.
    """

    kind: str
    metrics: dict[str, Any]
    notes: dict[str, Any] = field(default_factory=dict)


def prove_adapter(
    gguf: Path,
    source: Source,
    adapter: Adapter,
    *,
    base: Path,
    base_digest: str,
    base_gguf: Path | None,
    kind: str,
    toolchain: Toolchain,
    home: Home,
) -> AdapterProof:
    """Prove the file by its weights, and by llama.cpp's logits where `kind` says so.

    Raises:
        ProofError: the file is not the adapter.
        NotFoundError: `base_gguf` is no GGUF.
        ToolError: llama.cpp does not load base and adapter.
        ResourceError: no room for the base or its GGUF, and logits were asked for.
    """
    metrics = prove_weights(gguf, adapter)
    if kind == "weights":
        return AdapterProof("weights", metrics)
    with _base_file(base, base_digest, base_gguf, kind, toolchain, home) as file:
        if file is None:
            return AdapterProof("weights", metrics, {"no_logits": "no GGUF of the base"})
        found = prove_logits(gguf, file, source, adapter, base=base, toolchain=toolchain)
    if found is not None:
        return AdapterProof("logits", {**metrics, **found})
    if kind == "logits":
        raise ResourceError(
            "convert.no_logits",
            tr("the base in {path} does not fit into memory for the proof by logits", path=base),
            tr("prove the weights alone with `--proof weights`"),
        )
    return AdapterProof("weights", metrics, {"no_logits": "the base does not fit into memory"})


def prove_weights(gguf: Path, adapter: Adapter) -> dict[str, Any]:
    """Compare the length of every layer's addition.

    Raises:
        ProofError: a layer is missing, or has another length.
    """
    pairs, alpha, dtype = _pairs_of(gguf)
    found = sorted(_length(a, b, alpha / b.shape[-1]) for a, b in pairs)
    wanted = sorted(
        _length(pair["lora_A.weight"], pair["lora_B.weight"], adapter.shape(name).scale)
        for name, pair in adapter.layers.items()
    )
    metrics: dict[str, Any] = {
        "layers": len(wanted),
        "rank_max": max(b.shape[-1] for _, b in pairs),
    }
    if len(found) != len(wanted):
        # experts of a layer are stacked into one tensor: only the whole can be compared
        found = [sum(one**2 for one in found) ** 0.5]
        wanted = [sum(one**2 for one in wanted) ** 0.5]
    error = max(abs(f - w) / max(w, 1e-6 * wanted[-1]) for f, w in zip(found, wanted, strict=True))
    if not error <= _ROUNDING[dtype]:
        raise _differs(tr("a layer's addition is off by {part:.1%}", part=error))
    return {**metrics, "length_error_max": error}


def _pairs_of(gguf: Path) -> tuple[list[tuple[Any, Any]], float, str]:
    """(A, B) of each tensor in fp32, alpha, and the number format of the least exact tensor."""
    import numpy as np
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(gguf)
    alpha = float(reader.fields["adapter.lora.alpha"].contents())
    tensors = {}
    for one in reader.tensors:
        shape = tuple(int(n) for n in reversed(one.shape))
        tensors[one.name] = dequantize(one.data, one.tensor_type).reshape(shape).astype(np.float32)
    formats = {one.tensor_type.name for one in reader.tensors}
    dtype = next(name for name in ("BF16", "F16", "F32") if name in formats)
    names = [name.removesuffix(".lora_a") for name in tensors if name.endswith(".lora_a")]
    return [(tensors[f"{n}.lora_a"], tensors[f"{n}.lora_b"]) for n in names], alpha, dtype


def _length(a: Any, b: Any, scale: float) -> float:
    """Frobenius length of scale * B A without making the product; experts along the first axis."""
    import torch

    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    inner = (b.mT @ b) * (a @ a.mT)  # trace(XY) of symmetric matrices: the sum of their products
    return float(abs(scale) * inner.sum().clamp(min=0).sqrt())


def prove_logits(
    gguf: Path,
    base_gguf: Path,
    source: Source,
    adapter: Adapter,
    *,
    base: Path,
    toolchain: Toolchain,
    tolerance: float = TOLERANCE_KL,
) -> dict[str, Any] | None:
    """Compare llama.cpp's next-token probabilities, with adapter and without, with `transformers`'.

    A quantised base moves both; so what the base alone is off is allowed three times.

    Returns:
        kl_mean (nats, of base + adapter), base_kl_mean (of the base alone), adapter_kl_mean (how
        far the adapter moves the base), positions; None where the base does not fit into memory.

    Raises:
        ProofError: llama.cpp's model with the adapter is another one, or is the base.
    """
    run_dir = source.path if source.run is not None else None
    texts = probes(base, run_dir, _PROBE_TOKENS)
    plain = model_logits(base, texts)
    wanted = model_logits(base, texts, Beside.of([source], [adapter]))
    if plain is None or wanted is None:
        return None
    places = places_of(texts)
    with _linked(gguf) as link:
        arguments = ["-c", "1024", "-np", "1", "--no-warmup", "--lora", str(link)]
        with served(toolchain, base_gguf, arguments) as server:
            off = next_tokens(server, texts, lora_scale=0.0)
            on = next_tokens(server, texts, lora_scale=1.0)
    rows = [place.row for place in places]
    kl = divergence(wanted[rows], on)
    base_kl = divergence(plain[rows], off)
    # over the tokens that the server named, or a lost adapter would look small beside its effect
    effect = divergence(wanted[rows], same_tokens(plain[rows], on))
    if not kl <= min(tolerance, _LEAST_PART * effect) + 3 * base_kl:
        raise _differs(
            tr(
                "mean KL {kl:.1e} of llama.cpp's base + adapter; the base alone is off by "
                "{base:.1e}, and the adapter moves it by {effect:.1e}",
                kl=kl,
                base=base_kl,
                effect=effect,
            )
        )
    return {
        "kl_mean": kl,
        "base_kl_mean": base_kl,
        "adapter_kl_mean": effect,
        "positions": len(places),
    }


@contextmanager
def _linked(gguf: Path) -> Iterator[Path]:
    """The file under a name without a comma, at which llama.cpp would cut it."""
    with tempfile.TemporaryDirectory(prefix="slipway-adapter-") as folder:
        link = Path(folder) / "adapter.gguf"
        link.symlink_to(gguf.resolve())
        yield link


@contextmanager
def _base_file(
    base: Path,
    digest: str,
    given: Path | None,
    kind: str,
    toolchain: Toolchain,
    home: Home,
) -> Iterator[Path | None]:
    """A GGUF of the base: the given one, one of the home, or one made for the proof; or None."""
    found = _given(given) if given is not None else _in_home(digest, home)
    if found is not None:
        yield found
        return
    outtype = native_outtype(base)
    size = gguf_size(base, outtype)
    if kind == "auto" and size > _QUICK_BYTES:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="slipway-adapter-") as folder:
        try:
            require_space(Path(folder), size)
        except ResourceError:
            if kind == "logits":
                raise
            yield None
            return
        target = Path(folder) / "base.gguf"
        run_converter(
            toolchain,
            toolchain.converter,
            [base.resolve(), "--outfile", target, "--outtype", outtype],
            source=base,
            target=target,
            log=EventLog(None),
        )
        yield target


def _given(path: Path) -> Path:
    files = gguf_files(path) if path.is_dir() else [path]
    file = files[0] if files else path / GGUF_NAME
    if not file.is_file():
        raise NotFoundError(
            "file.not_found",
            tr("{path} does not exist", path=str(file)),
            tr("give a GGUF file, or a folder of `slipway convert` or `slipway quantize`"),
        )
    return file


def _in_home(digest: str, home: Home) -> Path | None:
    """The GGUF that `slipway convert` made of this base, if it is still there."""
    folders = sorted(home.artefacts.iterdir()) if home.artefacts.is_dir() else []
    for folder in folders:
        try:
            manifest = read_manifest(folder, kind="gguf")
        except SlipwayError:
            continue
        if manifest.parents == {"base": digest} and (files := gguf_files(folder)):
            return files[0]
    return None


def _differs(reason: Any) -> ProofError:
    return ProofError(
        "convert.adapter_differs",
        tr("the GGUF adapter is not the adapter that was trained: {reason}", reason=reason),
        tr(
            "merge it instead: of some architectures llama.cpp computes layers to which it adds "
            "no adapter"
        ),
    )
