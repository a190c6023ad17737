"""Logits of a model that is never in memory as a whole: each weight is read when it is needed.

The model is built without weights. An embedding reads the rows of the tokens at hand, a linear
layer its weight (a large one in blocks of rows), any other module its few numbers, and all let go
of them at once. Every probe goes through in one batch, so that each weight is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.export.merge.changes import linear
from slipway.export.merge.sources import Source
from slipway.export.shards import Weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from slipway.training.lora import Adapter

_BLOCK_NUMBERS = 8 << 20  # of a weight that are held in fp32 at a time


class CannotStreamError(Exception):
    """The folder's weights are not those of the model by name, such as fused experts."""


@dataclass(frozen=True, slots=True)
class Beside:
    """Adapters that compute beside the base, as in training: the reference of a merge."""

    sources: Sequence[Source] = ()
    adapters: Sequence[Adapter] = ()
    whole: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, sources: Sequence[Source], adapters: Sequence[Adapter]) -> Beside:
        """The adapters, and the weights that they replace."""
        whole = {name: t for adapter in adapters for name, t in adapter.whole.items()}
        return cls(sources, adapters, whole)

    def touches(self, name: str) -> bool:
        """Whether a layer of this name has an adapter."""
        return any(name in adapter.layers for adapter in self.adapters)

    def output(self, name: str, base: Any, x: Tensor) -> Tensor:
        """What base and adapters compute of [rows, in]."""
        if len(self.adapters) == 1 and self.sources[0].weight == 1.0:
            made: Tensor = self.adapters[0].on(base, name)(x)
            return made
        y: Tensor = base(x)
        for source, adapter in zip(self.sources, self.adapters, strict=True):
            if name in adapter.layers:
                tensors, scale = adapter.layers[name], adapter.shape(name).scale
                inner = x @ tensors["lora_A.weight"].float().t()
                y = y + source.weight * scale * (inner @ tensors["lora_B.weight"].float().t())
        return y


def streamed_logits(
    folder: Path, probes: Sequence[Sequence[int]], beside: Beside | None = None
) -> Tensor:
    """Logits at every probe position, in the probes' order: [positions, vocabulary], fp32.

    Raises:
        CannotStreamError: a parameter of the model is no tensor of the folder.
    """
    import torch

    width = max(len(ids) for ids in probes)
    # causal attention: what is padded on the right changes nothing to its left
    ids = torch.zeros(len(probes), width, dtype=torch.long)
    real = torch.zeros(len(probes), width, dtype=torch.bool)
    for number, probe in enumerate(probes):
        ids[number, : len(probe)] = torch.tensor(list(probe))
        real[number, : len(probe)] = True
    model = _Model(folder, beside or Beside(), real)
    with torch.inference_mode(), _quiet():
        logits: Tensor = model.model(input_ids=ids, use_cache=False).logits
    return logits.reshape(-1, logits.shape[-1]).float()


class _Model:
    """A model of `transformers` whose modules fetch their weights."""

    def __init__(self, folder: Path, beside: Beside, real: Tensor) -> None:
        import torch
        from accelerate import init_empty_weights
        from transformers import AutoConfig, AutoModelForCausalLM

        self.weights, self.beside, self.real = Weights(folder), beside, real
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        with init_empty_weights(include_buffers=False), _quiet():
            self.model = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation="eager"
            ).eval()
        embedding = self.model.get_input_embeddings()
        self.head = self.model.get_output_embeddings()
        self.alias: dict[str, str] = {}
        names = {module: name for name, module in self.model.named_modules()}
        head = f"{names[self.head]}.weight" if self.head is not None else ""
        if head and not self._has(head) and getattr(config, "tie_word_embeddings", False):
            self.alias[head] = f"{names[embedding]}.weight"
        for module, name in names.items():
            self._fetch_in(module, name)

    def _has(self, name: str) -> bool:
        return name in self.weights or name in self.beside.whole

    def _name(self, name: str) -> str:
        name = self.alias.get(name, name)
        if not self._has(name):
            raise CannotStreamError(name)
        return name

    def _read(self, name: str) -> Tensor:
        name = self._name(name)
        if name in self.beside.whole:
            return self.beside.whole[name].float()
        return self.weights.tensor(name).float()

    def _rows(self, name: str, begin: int, end: int) -> Tensor:
        name = self._name(name)
        if name in self.beside.whole:
            return self.beside.whole[name][begin:end].float()
        return self.weights.rows(name, begin, end).float()

    def _fetch_in(self, module: Any, name: str) -> None:
        import torch

        own = [n for n, p in module.named_parameters(recurse=False) if p is not None]
        for one in own:
            self._name(f"{name}.{one}")
        kept = module._non_persistent_buffers_set
        for one, buffer in module.named_buffers(recurse=False):
            if one not in kept and buffer is not None:
                buffer.copy_(self._read(f"{name}.{one}"))
        if type(module) is torch.nn.Embedding:
            module.forward = self._embedding(f"{name}.weight")
        elif type(module) is torch.nn.Linear:
            module.forward = self._linear(module, name)
        elif own:
            module.register_forward_pre_hook(self._load(name, own))
            module.register_forward_hook(_drop(own))

    def _embedding(self, name: str) -> Callable[[Tensor], Tensor]:
        def forward(ids: Tensor) -> Tensor:
            import torch

            used, place = torch.unique(ids, return_inverse=True)
            rows = torch.cat([self._rows(name, int(i), int(i) + 1) for i in used])
            return rows[place]

        return forward

    def _linear(self, module: Any, name: str) -> Callable[[Tensor], Tensor]:
        bias = None if module.bias is None else f"{name}.bias"
        outputs, inputs = module.out_features, module.in_features
        is_head = module is self.head

        def forward(x: Tensor) -> Tensor:
            import torch

            rows = x[self.real] if is_head else x.reshape(-1, inputs)
            added = None if bias is None else self._read(bias)
            if self.beside.touches(name):
                base = linear(self._read(f"{name}.weight"), added)
                y = self.beside.output(name, base, rows)
            else:
                step = max(1, _BLOCK_NUMBERS // inputs)
                y = rows.new_empty(len(rows), outputs)
                for begin in range(0, outputs, step):
                    end = min(begin + step, outputs)
                    weight = self._rows(f"{name}.weight", begin, end)
                    torch.mm(rows, weight.t(), out=y[:, begin:end])
                y = y if added is None else y + added
            return y[None] if is_head else y.view(*x.shape[:-1], outputs)

        return forward

    def _load(self, name: str, own: Sequence[str]) -> Callable[..., None]:
        def before(module: Any, _: Any) -> None:
            import torch

            for one in own:
                tensor = self._read(f"{name}.{one}")
                module._parameters[one] = torch.nn.Parameter(tensor, requires_grad=False)

        return before


def _drop(own: Sequence[str]) -> Callable[..., None]:
    def after(module: Any, _: Any, __: Any) -> None:
        import torch

        for one in own:
            empty = torch.empty_like(module._parameters[one], device="meta")
            module._parameters[one] = torch.nn.Parameter(empty, requires_grad=False)

    return after


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what transformers says about attention and configs, which is no news here."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
