"""What a worker is asked to load: a pure function of the model, the options and the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slipway.engine.settings import EngineSettings
from slipway.store import GgufHeader, ModelManifest
from slipway.store.describe import header_of
from slipway.store.manifests import TEMPLATE

Mode = Literal["generate", "embed"]

_MIN_CONTEXT = 4
_KV_BYTES = 2  # f16 keys and values
_KV_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """Everything that is fixed when a model is loaded.

    Attributes:
        gguf: the weights.
        template: a file with a Jinja chat template that replaces the GGUF's own, or None.
        mode: one worker either generates or embeds.
        num_ctx: tokens of context that each slot has for itself.
        slots: requests served at once.
        pooling: how token vectors become one embedding; None is the model's own way.
        adapters: GGUF adapters that are added to the weights.
        num_batch, num_gpu, main_gpu, num_thread, use_mmap: as in Ollama; None is the engine's
            default.
    """

    gguf: Path
    template: Path | None
    mode: Mode
    num_ctx: int
    slots: int
    pooling: str | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: int | None = None
    use_mmap: bool | None = None
    adapters: tuple[Path, ...] = ()

    @property
    def key(self) -> tuple[Path, Path | None, tuple[Path, ...], Mode]:
        """What makes two specs the same model; at most one worker runs for each key."""
        return (self.gguf, self.template, self.adapters, self.mode)

    def satisfies(self, wanted: LoadSpec) -> bool:
        """Whether a worker loaded like this can serve `wanted` without loading again.

        A larger context serves a smaller one; an option that `wanted` leaves open fits anything.
        """
        mine = (self.num_batch, self.num_gpu, self.main_gpu, self.num_thread, self.use_mmap)
        theirs = (
            wanted.num_batch,
            wanted.num_gpu,
            wanted.main_gpu,
            wanted.num_thread,
            wanted.use_mmap,
        )
        return self.num_ctx >= wanted.num_ctx and all(
            want is None or want == have for want, have in zip(theirs, mine, strict=True)
        )


def kv_bytes_per_token(header: GgufHeader) -> int:
    """Bytes of key-value cache that one token of context takes, in f16; 0 when unknown.

    layers * (key width + value width) * key-value heads * 2 bytes.
    """
    heads = header.integer("attention.head_count")
    if not heads:
        return 0
    kv_heads = header.integer("attention.head_count_kv") or heads
    width = header.embedding_length // heads
    key = header.integer("attention.key_length") or width
    value = header.integer("attention.value_length") or width
    return header.integer("block_count") * kv_heads * (key + value) * _KV_BYTES


def fitting_slots(wanted: int, num_ctx: int, kv_per_token: int, free_bytes: int) -> int:
    """The largest number of slots, up to `wanted`, whose caches fit a quarter of free memory."""
    if not kv_per_token:
        return wanted
    return max(1, min(wanted, int(free_bytes * _KV_SHARE) // (kv_per_token * num_ctx)))


def load_spec(
    model: ModelManifest,
    options: Mapping[str, Any],
    settings: EngineSettings,
    *,
    mode: Mode,
    free_bytes: int,
) -> LoadSpec:
    """What to load for a request.

    Args:
        options: the merged Ollama options of model and request.
        free_bytes: memory that is available now.
    """
    header = header_of(model)
    num_ctx = max(_MIN_CONTEXT, int(options.get("num_ctx") or settings.context_length))
    if header.context_length:
        num_ctx = min(num_ctx, header.context_length)
    templates = model.of_type(TEMPLATE)
    pooled = header.get("pooling_type") is not None
    return LoadSpec(
        gguf=model.gguf_path,
        template=model.store.path(templates[-1].digest) if templates else None,
        mode=mode,
        num_ctx=num_ctx,
        slots=fitting_slots(settings.parallel, num_ctx, kv_bytes_per_token(header), free_bytes),
        pooling="mean" if mode == "embed" and not pooled else None,
        num_batch=options.get("num_batch"),
        num_gpu=None if options.get("num_gpu", -1) < 0 else options["num_gpu"],
        main_gpu=options.get("main_gpu"),
        num_thread=options.get("num_thread") or None,
        use_mmap=options.get("use_mmap"),
        adapters=model.adapter_paths,
    )
