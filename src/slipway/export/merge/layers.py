"""Proof of a merge layer by layer, in the memory of one layer.

Each changed weight is read back from the written folder and given random inputs; the layer of the
base with its adapter beside it, as in training, must give the same outputs but for rounding. What
was not changed must be the base's own bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.core.errors import ProofError
from slipway.core.i18n import tr
from slipway.export.merge.changes import linear
from slipway.export.merge.streamed import Beside
from slipway.export.merge.write import HEAD
from slipway.export.shards import Entry, Weights

if TYPE_CHECKING:
    from torch import Tensor

_ROWS = 16
_SAMPLE_BYTES = 1 << 16
# Rounding moves each weight by at most half its last place; over random inputs the length of the
# error is then at most this part of the output's (twice: for the products' own rounding).
_ROUNDING = {"F64": 2e-6, "F32": 2e-6, "F16": 2**-10, "BF16": 2**-8}


@dataclass(frozen=True, slots=True)
class LayersProof:
    """Merged against base + adapter on random inputs of every changed layer.

    Attributes:
        layers: changed weights that were compared.
        unchanged: other weights whose bytes were compared, in samples.
        error: largest error of a layer's outputs, as a part of their length.
        lost: error over what the adapters add, both over all layers.
    """

    layers: int
    unchanged: int
    error: float
    lost: float


def prove_layers(base: Path, merged: Path, beside: Beside) -> LayersProof:
    """Compare every changed layer.

    Raises:
        ProofError: a layer of the merged model is not that of base + adapter.
    """
    import torch

    before, after = Weights(base), Weights(merged)
    generator = torch.Generator().manual_seed(0)
    names = {f"{name}.weight" for adapter in beside.adapters for name in adapter.layers}
    worst = 0.0
    errors = effects = 0.0
    with torch.inference_mode():
        for name in sorted(names):
            wanted, plain, found = _outputs(name, before, after, beside, generator)
            error = float((found - wanted).norm())
            part = error / max(float(wanted.norm()), 1e-30)
            if not part <= _ROUNDING[after.entries[_there(name, after)].dtype]:
                raise _differs(name, part)
            worst = max(worst, part)
            errors += error**2
            effects += float((wanted - plain).norm()) ** 2
        for name, tensor in beside.whole.items():
            if name in after and not tensor.to(after.tensor(name).dtype).equal(after.tensor(name)):
                raise _differs(name, 1.0)
    unchanged = _same_bytes(before, after, names | set(beside.whole))
    return LayersProof(len(names), unchanged, worst, (errors / max(effects, 1e-30)) ** 0.5)


def _there(name: str, weights: Weights) -> str:
    if name in weights or name != HEAD:
        return name
    return next(n for n in weights.entries if n.endswith("embed_tokens.weight"))


def _outputs(
    name: str, before: Weights, after: Weights, beside: Beside, generator: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Of base + adapters, of the base, and of the merged layer on the same random inputs."""
    import torch

    weight = before.tensor(_there(name, before)).float()
    x = torch.randn(_ROWS, weight.shape[1], generator=generator)
    plain = x @ weight.t()
    wanted = beside.output(name.removesuffix(".weight"), linear(weight), x)
    found = x @ after.tensor(_there(name, after)).float().t()
    return wanted, plain, found


def _same_bytes(before: Weights, after: Weights, changed: set[str]) -> int:
    """Compare the ends of all other weights; return how many there are."""
    count = 0
    for name, entry in before.entries.items():
        if name in changed:
            continue
        found = after.entries.get(name)
        if found is None or found.shape != entry.shape:
            raise _differs(name, 1.0)
        count += 1
        if found.dtype == entry.dtype and list(_ends(entry)) != list(_ends(found)):
            raise _differs(name, 1.0)
    return count


def _ends(entry: Entry) -> Iterator[bytes]:
    size = min(_SAMPLE_BYTES, entry.end - entry.begin)
    with entry.path.open("rb") as file:
        for at in (entry.begin, entry.end - size):
            file.seek(at)
            yield file.read(size)


def _differs(name: str, part: float) -> ProofError:
    return ProofError(
        "merge.differs",
        tr(
            "the merged model is not base + adapter: `{tensor}` is off by {part:.1%}",
            tensor=name,
            part=part,
        ),
        tr("nothing was written; please report this with the run's manifest.json"),
    )
