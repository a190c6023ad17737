"""What a worker is asked to load: a pure function of the model, the options and the machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from slipway.engine.settings import CacheType, EngineSettings
from slipway.store import GgufHeader, ModelManifest
from slipway.store.describe import header_of
from slipway.store.manifests import TEMPLATE
from slipway.store.template_kind import is_go_template

Mode = Literal["generate", "embed"]

MAX_ADAPTERS = 16
"""Adapters that one worker holds at once."""

_MIN_CONTEXT = 4
_KV_SHARE = 0.25
_UBATCH = 512  # llama-server's default
_PROCESS_BYTES = 64 << 20  # the program itself, its buffers for HTTP and sampling
_CACHE_BYTES: dict[CacheType, float] = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
"""Bytes of one value in the key-value cache: bytes of a block by values of a block."""
assert set(_CACHE_BYTES) == set(get_args(CacheType))


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model takes in memory, foreseen from its header.

    Attributes:
        weights_bytes: the file, adapters included.
        kv_bytes_per_token: keys and values of one token in all layers; 0 when unknown.
        compute_bytes: activations of one batch, logits, and the process itself.
    """

    weights_bytes: int = 0
    kv_bytes_per_token: float = 0.0
    compute_bytes: int = 0


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
        adapters: GGUF adapters that are in memory; each request says which of them count.
        cache_type: of keys and values; None is the engine's f16.
        projector: a GGUF that turns pictures into embeddings, or None.
        footprint: what it takes, foreseen.
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
    cache_type: CacheType | None = None
    projector: Path | None = None
    footprint: Footprint = Footprint()

    @property
    def key(self) -> tuple[Path, Path | None, Mode, tuple[Path, ...]]:
        """What makes two specs the same model: they share a worker when it satisfies both.

        Only a request that generates can say which adapters count.
        """
        always = () if self.mode == "generate" else self.adapters
        return (self.gguf, self.template, self.mode, always)

    @property
    def memory_bytes(self) -> int:
        """Memory that a worker loaded like this will take: weights, caches, compute buffers."""
        need = self.footprint
        cache = need.kv_bytes_per_token * self.num_ctx * self.slots
        return need.weights_bytes + int(cache) + need.compute_bytes

    def satisfies(self, wanted: LoadSpec) -> bool:
        """Whether a worker loaded like this can serve `wanted` without loading again.

        A larger context serves a smaller one, more adapters serve fewer; an option that `wanted`
        leaves open fits anything.
        """
        if not set(wanted.adapters) <= set(self.adapters):
            return False
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


def merged(wanted: LoadSpec, others: Iterable[LoadSpec]) -> LoadSpec:
    """One spec of the same model that serves `wanted`, and of `others` as much as goes together.

    The largest context, and all adapters up to `MAX_ADAPTERS`. A load option that differs stays as
    `wanted` has it.
    """
    spec = wanted
    for other in others:
        if other.key != spec.key:
            continue
        if other.num_ctx > spec.num_ctx:
            spec = replace(spec, num_ctx=other.num_ctx, slots=other.slots)
        more = tuple(path for path in other.adapters if path not in spec.adapters)
        if more and len(spec.adapters) + len(more) <= MAX_ADAPTERS:
            sizes = sum(path.stat().st_size for path in more if path.is_file())
            need = spec.footprint
            need = replace(need, weights_bytes=need.weights_bytes + sizes)
            spec = replace(spec, adapters=spec.adapters + more, footprint=need)
    return spec


def foresee(
    header: GgufHeader, weights_bytes: int, cache_type: CacheType | None, batch: int = _UBATCH
) -> Footprint:
    """What a model takes in memory, from its header.

    The compute buffer is reserved for one whole batch of logits and for the widest activations; its
    size was compared with what llama.cpp reports for Llama, Qwen2 and BERT models.
    """
    vocabulary = next((t.shape[-1] for t in header.tensors if t.name == "token_embd.weight"), 0)
    pooled = header.get("pooling_type") is not None
    logits = 0 if pooled else batch * vocabulary * 4
    width = header.embedding_length + header.integer("feed_forward_length")
    return Footprint(
        weights_bytes,
        kv_bytes_per_token(header, cache_type),
        logits + batch * width * 8 + _PROCESS_BYTES,
    )


def _pooling(header: GgufHeader) -> str | None:
    """What a worker that embeds is told; a reranker's must be named for it to score pairs."""
    if header.is_reranker:
        return "rank"
    return "mean" if header.get("pooling_type") is None else None


def kv_bytes_per_token(header: GgufHeader, cache_type: CacheType | None = None) -> float:
    """Bytes of key-value cache that one token of context takes; 0 when unknown.

    layers * (key width + value width) * key-value heads * bytes of a value.
    """
    heads = header.integer("attention.head_count")
    if not heads:
        return 0
    kv_heads = header.integer("attention.head_count_kv") or heads
    width = header.embedding_length // heads
    key = header.integer("attention.key_length") or width
    value = header.integer("attention.value_length") or width
    size = _CACHE_BYTES[cache_type or "f16"]
    return header.integer("block_count") * kv_heads * (key + value) * size


def fitting_slots(wanted: int, num_ctx: int, kv_per_token: float, free_bytes: int) -> int:
    """The largest number of slots, up to `wanted`, whose caches fit a quarter of free memory."""
    if not kv_per_token:
        return wanted
    return max(1, min(wanted, int(free_bytes * _KV_SHARE / (kv_per_token * num_ctx))))


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
    templates = () if is_go_template(model.template) else model.of_type(TEMPLATE)
    cache_type = settings.kv_cache_type if mode == "generate" else None
    files = [model.gguf_path, *model.adapter_paths]
    if model.projector_path and mode == "generate":
        files.append(model.projector_path)
    weights = sum(path.stat().st_size for path in files)
    batch = num_ctx if mode != "generate" else _UBATCH
    need = foresee(header, weights, cache_type, batch)
    parallel = int(options.get("num_parallel") or settings.parallel)
    return LoadSpec(
        gguf=model.gguf_path,
        template=model.store.path(templates[-1].digest) if templates else None,
        mode=mode,
        num_ctx=num_ctx,
        slots=fitting_slots(parallel, num_ctx, need.kv_bytes_per_token, free_bytes),
        pooling=_pooling(header) if mode == "embed" else None,
        num_batch=options.get("num_batch"),
        num_gpu=None if options.get("num_gpu", -1) < 0 else options["num_gpu"],
        main_gpu=options.get("main_gpu"),
        num_thread=options.get("num_thread") or None,
        use_mmap=options.get("use_mmap"),
        adapters=model.adapter_paths,
        cache_type=cache_type,
        projector=model.projector_path if mode == "generate" else None,
        footprint=need,
    )
