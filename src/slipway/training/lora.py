"""LoRA on frozen linear layers: y = W x + scale * B (A x), with A and B trained in fp32.

Saved in PEFT's format (https://huggingface.co/docs/peft, `adapter_config.json` and
`adapter_model.safetensors`), so that PEFT, llama.cpp's converter and others can load it. The method
is Hu et al. 2021, "LoRA" (arXiv 2106.09685): A is drawn as `nn.Linear` draws its weight, B is zero.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slipway.core.errors import InputError, UsageError, nearest
from slipway.core.files import write_bytes, write_json
from slipway.core.i18n import tr
from slipway.training.frozen import FrozenProduct

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."


class _LoraProduct(torch.autograd.Function):  # type: ignore[misc]
    """x [tokens, in] -> [tokens, out]; one pass fewer over the outputs than autograd would make."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, base: FrozenProduct, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        # scale goes into B: it is the smallest tensor here
        a_low, b_low = a.to(x.dtype), (b * scale).to(x.dtype)
        inner = x @ a_low.t()
        y = base.forward(x)
        y.addmm_(inner, b_low.t())
        ctx.save_for_backward(x, a_low, b_low, inner)
        ctx.base, ctx.scale = base, scale
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, a_low, b_low, inner = ctx.saved_tensors
        grad = grads[0]
        grad_inner = grad @ b_low
        grad_a = (grad_inner.t() @ x).float()
        grad_b = (grad.t() @ inner).float().mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = ctx.base.backward(grad)
            grad_x.addmm_(grad_inner, a_low)
        return grad_x, None, grad_a, grad_b, None


class LoraLinear(nn.Module):  # type: ignore[misc]
    """A frozen `nn.Linear` with a trained low-rank addition."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.base = base
        self.scale = alpha / rank
        self.dropout = dropout
        self.off = False
        self._frozen: FrozenProduct | None = None  # made at first use: packing costs memory
        device = base.weight.device
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features, device=device))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out] in x's dtype."""
        rows = x.reshape(-1, x.shape[-1])
        if self.off:
            y = self._product().forward(rows)
        elif self.dropout and self.training:
            dropped = nn.functional.dropout(rows, self.dropout)
            inner = dropped @ self.lora_a.to(x.dtype).t()
            y = self.base(rows) + inner @ (self.lora_b * self.scale).to(x.dtype).t()
        else:
            y = _LoraProduct.apply(rows, self._product(), self.lora_a, self.lora_b, self.scale)
        return y.view(*x.shape[:-1], y.shape[-1])

    def _product(self) -> FrozenProduct:
        if self._frozen is None:
            self._frozen = FrozenProduct(self.base)
        return self._frozen


def linear_names(model: nn.Module) -> list[str]:
    """Names of the linear layers inside the decoder, without the output head."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]


def attach(
    model: nn.Module, *, rank: int, alpha: float, dropout: float, target: str | Sequence[str]
) -> list[str]:
    """Freeze the model and put an adapter on each targeted linear layer; return their last names.

    Args:
        target: "all", or last parts of layer names such as `q_proj`.

    Raises:
        UsageError: a target matches no layer.
    """
    model.requires_grad_(False)
    names = linear_names(model)
    kinds = sorted({name.rpartition(".")[2] for name in names})
    wanted = kinds if target == "all" else [target] if isinstance(target, str) else list(target)
    for kind in wanted:
        if kind not in kinds:
            raise UsageError(
                "train.no_such_target",
                tr("`lora.target`: the model has no linear layer `{name}`", name=kind),
                tr("did you mean {names}?", names=", ".join(nearest(kind, kinds) or kinds)),
            )
    for name in names:
        parent, _, last = name.rpartition(".")
        if last in wanted:
            owner = model.get_submodule(parent)
            setattr(owner, last, LoraLinear(getattr(owner, last), rank, alpha, dropout))
    return wanted


def adapters(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Every adapted layer with its name in the base model."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """While entered, the model computes as if no adapter were attached. Without gradient."""
    layers = [layer for _, layer in adapters(model)]
    for layer in layers:
        layer.off = True
    try:
        yield
    finally:
        for layer in layers:
            layer.off = False


def state(model: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors under PEFT's names, fp32, on the CPU."""
    tensors = {}
    for name, module in adapters(model):
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = module.lora_a.detach().cpu().clone()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = module.lora_b.detach().cpu().clone()
    return tensors


def load_state(model: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Copy tensors under PEFT's names into the attached adapters.

    Raises:
        InputError: a tensor is missing, left over, or has another shape than the model's.
    """
    rest = dict(tensors)
    for name, module in adapters(model):
        for side, parameter in (("A", module.lora_a), ("B", module.lora_b)):
            key = f"{_PREFIX}{name}.lora_{side}.weight"
            tensor = rest.pop(key, None)
            if tensor is None or tensor.shape != parameter.shape:
                raise _mismatch(where, key)
            with torch.no_grad():
                parameter.copy_(tensor)
    if rest:
        raise _mismatch(where, next(iter(rest)))


def _mismatch(where: Path, key: str) -> InputError:
    return InputError(
        "adapter.mismatch",
        tr("the adapter in {path} does not fit this base: `{tensor}`", path=where, tensor=key),
        tr("use the base that the adapter was trained on"),
    )


def save_adapter(model: nn.Module, folder: Path, *, base: str, settings: dict[str, Any]) -> None:
    """Write the adapter as a PEFT folder.

    Args:
        base: what PEFT shall record as the base model's name or path.
        settings: rank, alpha, dropout, target (list of layer names).
    """
    from safetensors.torch import save

    # through memory, so that a full disk is an OSError
    write_bytes(folder / WEIGHTS_FILE, save(state(model), metadata={"format": "pt"}))
    write_json(
        folder / CONFIG_FILE,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": settings["rank"],
            "lora_alpha": settings["alpha"],
            "lora_dropout": settings["dropout"],
            "target_modules": sorted(settings["target"]),
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "use_rslora": False,
            "use_dora": False,
        },
    )


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and tensors of a PEFT folder.

    Raises:
        InputError: the folder is incomplete, or uses a LoRA variant Slipway does not apply.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            "adapter.unreadable",
            tr("cannot read the adapter in {path}: {reason}", path=str(folder), reason=error),
        ) from error
    _require_plain(config, folder)
    return config, tensors


def load_adapter(model: nn.Module, folder: Path) -> None:
    """Attach the adapter of a PEFT folder to a plain base model.

    Raises:
        InputError: see `read_adapter`; or it does not fit the model.
    """
    config, tensors = read_adapter(folder)
    targets = config["target_modules"]
    last_names = [targets] if isinstance(targets, str) else [t.rpartition(".")[2] for t in targets]
    try:
        attach(model, rank=config["r"], alpha=config["lora_alpha"], dropout=0.0, target=last_names)
    except UsageError as error:
        raise _mismatch(folder, str(targets)) from error
    load_state(model, tensors, folder)


def _require_plain(config: dict[str, Any], folder: Path) -> None:
    variants = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save")
    found = [name for name in variants if config.get(name)]
    if config.get("bias", "none") != "none":
        found.append("bias")
    if config.get("peft_type") != "LORA" or found:
        raise InputError(
            "adapter.unsupported",
            tr(
                "the adapter in {path} is not plain LoRA ({names})",
                path=folder,
                names=", ".join(found) or config.get("peft_type"),
            ),
        )
