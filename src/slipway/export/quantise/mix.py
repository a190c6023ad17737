"""The best mixture of tensor types below a size: a whole type, and some tensors of the next one.

Sizes are known without quantising, so the search is arithmetic; DESIGN.md tells the rule.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.export.quantise.header import padded
from slipway.export.quantise.options import Options, Override
from slipway.export.quantise.plan import Plan, TensorPlan
from slipway.export.quantise.run import plan_quantize
from slipway.export.quantise.type_names import NEEDS_IMATRIX, quant_types
from slipway.export.toolchain import require_toolchain

RUNGS = (
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "Q2_K", "Q3_K_S", "Q3_K_M"),
    *("Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0"),
)
"""Whole types from the worst to the best."""

_MATRIX_BYTES = 256  # the name of a measured matrix's data set, and its padding, can be this long
_SENSITIVE = ("token_embd", "output", "attn_v", "attn_qkv", "ffn_down", "attn_output", "attn_k")
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")


@dataclass(frozen=True, slots=True)
class Target:
    """What the result must not exceed; one of the two is given.

    Attributes:
        size_bytes: of all its files together.
        bpw: bits per weight of the tensors' data.
    """

    size_bytes: int | None = None
    bpw: float | None = None

    def __str__(self) -> str:
        return f"{self.size_bytes} bytes" if self.size_bytes is not None else f"{self.bpw} bpw"

    def allows(self, plan: Plan, spare: int = 0) -> bool:
        """Whether the plan, with `spare` bytes beside it, stays below."""
        if self.size_bytes is not None:
            return plan.size_bytes + spare <= self.size_bytes
        return self.bpw is not None and plan.bpw <= self.bpw


@dataclass(frozen=True, slots=True)
class Mix:
    """What was chosen: quantise to `type` with `options`.

    Attributes:
        plan: its exact plan.
        above: the next better whole type, whose types the raised tensors have; None: none is.
        raised: the raised tensors, the most sensitive first.
    """

    type: str
    options: Options
    plan: Plan
    above: str | None
    raised: tuple[str, ...]


def find_mix(
    gguf_dir: Path,
    target: Target,
    *,
    home: Home,
    options: Options | None = None,
    calibrated: bool = False,
) -> Mix:
    """The best mixture that the target allows.

    Args:
        options: what the user decided already; tensors of its overrides are left alone.
        calibrated: whether there will be a measured matrix; allows types of one to two bits.

    Raises:
        UsageError: even the smallest type is larger than the target, or `pure` forbids a mixture.
        the errors of `plan_quantize`.
    """
    given = options or Options()
    if given.pure:
        raise UsageError(
            "quantize.contradiction",
            tr("`{first}` and `{second}` exclude each other", first="--pure", second="--target-…"),
            tr("leave one of them out"),
        )
    offered = set(quant_types(require_toolchain(home)))
    names = [n for n in RUNGS if n in offered and (calibrated or n not in NEEDS_IMATRIX)]
    found = plan_quantize(gguf_dir, names, home=home, options=given, calibrated=calibrated)
    plans = list(found.values())
    spare = _MATRIX_BYTES if calibrated else 0
    fitting = [index for index, plan in enumerate(plans) if target.allows(plan, spare)]
    if not fitting:
        raise _too_small(target, min(plans, key=lambda plan: plan.size_bytes), calibrated)
    base = plans[fitting[-1]]
    above = plans[fitting[-1] + 1] if fitting[-1] + 1 < len(plans) else None
    raised = choose_raises(base, above, given.overrides, target, spare) if above else []
    while raised:
        wanted = replace(given, overrides=given.overrides + overrides_for(raised))
        plan = next(
            iter(
                plan_quantize(
                    gguf_dir, [base.type], home=home, options=wanted, calibrated=calibrated
                ).values()
            )
        )
        if above and target.allows(plan, spare):  # the tool has the last word on its own mixture
            return Mix(base.type, wanted, plan, above.type, tuple(t.name for t in raised))
        raised.pop()
    return Mix(base.type, given, base, None, ())


def choose_raises(
    base: Plan, above: Plan, decided: Sequence[Override], target: Target, spare: int = 0
) -> list[TensorPlan]:
    """The tensors that take their larger type of `above`, the most sensitive first.

    Each is taken if what is left has room for it; a later, smaller one may still find room.

    Args:
        decided: overrides of the user; their tensors stay as they are.
    """
    better = {tensor.name: tensor for tensor in above.tensors}
    layers = 1 + max((_place(tensor.name)[0] for tensor in base.tensors), default=0)
    order = sorted(base.tensors, key=lambda tensor: sensitivity(tensor.name, layers))
    taken: list[TensorPlan] = []
    plan = base
    for tensor in order:
        new = better.get(tensor.name, tensor)
        if new.bytes <= tensor.bytes or any(o.finds(tensor.name) for o in decided):
            continue
        tensors = tuple(new if old.name == new.name else old for old in plan.tensors)
        size = plan.size_bytes + padded(new.bytes) - padded(tensor.bytes)
        trial = replace(plan, tensors=tensors, size_bytes=size)
        if target.allows(trial, spare):
            plan = trial
            taken.append(new)
    return taken


def sensitivity(tensor: str, layers: int) -> tuple[int, int, int]:
    """A key to sort by, the most sensitive first: llama.cpp's own rule for its `_M` mixtures.

    It gives more bits to the embedding and the output, to `attn_v` and `ffn_down`, and among the
    layers to the first and last eighth and every third between (`use_more_bits` in
    llama-quant.cpp).

    Args:
        layers: how many the model has.
    """
    layer, part = _place(tensor)
    kind = part.split(".")[0].removesuffix("_exps")
    rank = _SENSITIVE.index(kind) if kind in _SENSITIVE else len(_SENSITIVE)
    eighth = layers // 8
    more = layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
    return (rank, 0 if more else 1, layer)


def overrides_for(tensors: Sequence[TensorPlan]) -> tuple[Override, ...]:
    """Overrides that name exactly these tensors, one for each kind and type."""

    def kind(tensor: TensorPlan) -> tuple[str, str]:
        return _place(tensor.name)[1], tensor.type

    found = []
    for (part, type_name), group in groupby(sorted(tensors, key=kind), key=kind):
        members = [tensor.name for tensor in group]
        layers = sorted({_place(name)[0] for name in members})
        name = re.escape(part)
        if _BLOCK.fullmatch(members[0]):
            name = rf"blk\.({'|'.join(map(str, layers))})\.{name}"
        found.append(Override(f"^{name}$", type_name))
    return tuple(found)


def _place(tensor: str) -> tuple[int, str]:
    """The layer and the rest of the name; what is in no layer counts as in the first."""
    match = _BLOCK.fullmatch(tensor)
    return (int(match[1]), match[2]) if match else (0, tensor)


def _too_small(target: Target, least: Plan, calibrated: bool) -> UsageError:
    return UsageError(
        "quantize.target_too_small",
        tr(
            "no type is as small as {target}: the smallest, {type}, takes {size} bytes "
            "({bpw} bits per weight)",
            target=str(target),
            type=least.type,
            size=least.size_bytes,
            bpw=round(least.bpw, 2),
        ),
        tr("raise the target, or take a smaller model")
        if calibrated
        else tr("types of one to two bits are tried too with `--calibration-data DATASET`"),
    )
