"""LoRA as a method of training: see `slipway.training.lora` for the layers and the file format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.training import lora
from slipway.training.begun import adapter_folder
from slipway.training.lora.attach import live
from slipway.training.lora.aware import FakeType, RoundedSum
from slipway.training.methods.base import ParamGroup, Tuned
from slipway.training.spec import LoraSpec, OftSpec, TrainSpec


class AdapterTuned(Tuned):
    """A frozen base with trained layers beside it, kept as a PEFT folder.

    Args:
        begun_from: the adapter folder that is gone on with, and is in the model already.
    """

    artefact = "adapter"

    def __init__(self, model: Any, targets: list[str], *, begun_from: Path | None = None) -> None:
        super().__init__(model, targets)
        # what the model was before training, when that is not the base alone
        self._start = lora.state(model) if begun_from else None

    def groups(self) -> list[ParamGroup]:
        """Matrices, and then lengths and norms, for which weight decay does not hold."""
        every = [p for p in self.model.parameters() if p.requires_grad]
        wide, narrow = [p for p in every if p.ndim > 1], [p for p in every if p.ndim <= 1]
        groups = [ParamGroup(wide), ParamGroup(narrow, decayed=False)]
        return [group for group in groups if group.parameters]

    def state(self) -> dict[str, Tensor]:
        """What is trained, under PEFT's names, and for PiSSA what A and B began from."""
        return lora.state(self.model)

    def load_state(self, tensors: dict[str, Tensor], where: Path) -> None:
        """Put it back."""
        lora.load_state(self.model, tensors, where)

    def save(self, folder: Path, base: Path) -> list[str]:
        """Write a PEFT folder."""
        lora.save_adapter(self.model, folder, base=base.name)
        return [lora.CONFIG_FILE, lora.WEIGHTS_FILE]

    @contextmanager
    def reference(self) -> Iterator[None]:
        """The base alone, or with the adapter that training began from."""
        if self._start is None:
            with lora.switched_off(self.model):
                yield
            return
        mine = live(self.model)
        now = {name: tensor.data for name, tensor in mine.items()}
        for name, tensor in mine.items():
            tensor.data = self._start[name].to(tensor.device)
        try:
            yield
        finally:
            for name, tensor in mine.items():
                tensor.data = now[name]


class LoraTuned(AdapterTuned):
    """A frozen base with low-rank additions."""

    def __init__(
        self,
        model: Any,
        spec: LoraSpec,
        begin: Path | None = None,
        aware: FakeType | None = None,
    ) -> None:
        if begin is None:
            plain = spec.model_dump(
                include={"rank", "alpha", "dropout", "target", "rslora", "dora", "extra_modules"}
            )
            singular = spec.pissa_iter if spec.pissa else None
            targets = lora.attach(model, **plain, singular=singular)
        else:
            require_kind(begin, "LORA")
            targets = lora.load_adapter(model, begin, dropout=spec.dropout)
            _require_same(spec, begin)
        super().__init__(model, targets, begun_from=begin)
        self.spec = spec
        if aware is not None:
            for _, layer in lora.adapters(model):
                if isinstance(layer, lora.LoraLinear):
                    layer.rounding = RoundedSum(aware)

    def groups(self) -> list[ParamGroup]:
        """As of every adapter; with LoRA+ all B apart, at a rate of their own."""
        ratio = self.spec.plus_ratio
        if ratio is None:
            return super().groups()
        fast = [
            layer.lora_b for _, layer in lora.adapters(self.model)
            if isinstance(layer, lora.LoraLinear)
        ]  # fmt: skip
        taken = {id(parameter) for parameter in fast}
        slow = [
            ParamGroup([p for p in group.parameters if id(p) not in taken], decayed=group.decayed)
            for group in super().groups()
        ]
        return [*(group for group in slow if group.parameters), ParamGroup(fast, lr_ratio=ratio)]


class OftTuned(AdapterTuned):
    """A frozen base whose linear layers' inputs are rotated."""

    def __init__(self, model: Any, spec: OftSpec, begin: Path | None = None) -> None:
        if begin is None:
            shape = lora.OftShape(spec.block_size, dropout=spec.dropout)

            def layer(base: Any) -> lora.AdapterLayer:
                return lora.OftLinear(base, shape)

            targets = lora.attach_layers(model, layer, spec.target, "oft.target")
        else:
            require_kind(begin, "OFT")
            targets = lora.load_adapter(model, begin, dropout=spec.dropout)
        super().__init__(model, targets, begun_from=begin)


def require_kind(folder: Path, kind: str) -> None:
    """Refuse an adapter of another kind than the recipe's method trains.

    Raises:
        UsageError: naming both.
    """
    there = str(lora.read_config(folder).get("peft_type"))
    if there != kind:
        raise UsageError(
            "train.adapter_kind",
            tr(
                "the adapter in {path} is of kind {there}, and the method trains {kind}",
                path=folder,
                there=there,
                kind=kind,
            ),
            tr("set `method` to the adapter's kind: `lora` or `oft`"),
        )


def as_new(spec: TrainSpec) -> TrainSpec:
    """A recipe that trains a new adapter of the size of the one that `spec` goes on from."""
    if spec.adapter is None:
        return spec
    config = lora.read_config(adapter_folder(Path(spec.adapter)))
    targets = config.get("target_modules")
    lasts = (
        sorted({name.rpartition(".")[2] for name in targets})
        if isinstance(targets, list)
        else "all"
    )
    if spec.method == "oft":
        block = {"block_size": config.get("oft_block_size") or 32, "target": lasts}
        return spec.model_copy(update={"adapter": None, "oft": spec.oft.model_copy(update=block)})
    size = {
        "rank": config.get("r", 1),
        "alpha": config.get("lora_alpha", 1.0),
        "rslora": bool(config.get("use_rslora")),
        "dora": bool(config.get("use_dora")),
        "target": lasts,
        "extra_modules": config.get("modules_to_save") or [],
    }
    return spec.model_copy(update={"adapter": None, "lora": spec.lora.model_copy(update=size)})


def _require_same(spec: LoraSpec, folder: Path) -> None:
    """Refuse a recipe that wants another adapter than the one it goes on with.

    Raises:
        UsageError: naming the key; defaults want nothing.
    """
    config = lora.read_config(folder)
    there = {
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "rslora": bool(config.get("use_rslora")),
        "dora": bool(config.get("use_dora")),
        "pissa": False,
        "target": None,
        "extra_modules": None,
    }
    for key, value in there.items():
        wanted = getattr(spec, key)
        if wanted not in (
            type(spec).model_fields[key].get_default(call_default_factory=True),
            value,
        ):
            raise UsageError(
                "train.adapter_settings",
                tr(
                    "`lora.{key}: {value}`, but the adapter in {path} is gone on with as it is",
                    key=key,
                    value=wanted,
                    path=folder,
                ),
                tr("take the key out, or train a new adapter without `adapter:`"),
            )
