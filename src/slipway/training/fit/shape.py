"""The shape of a decoder-only model, and how many weights it has: pure functions of its config.

Families: Llama and Qwen2 (grouped-query attention, gated MLP), Qwen3 (norms on queries and keys,
free head width), Qwen2/Qwen3 MoE (experts, Qwen2 with a shared one), DeepSeek V2 and V3 (latent
attention: low-rank queries, keys and values; experts behind a few dense layers). The counts are
those of the published checkpoints without DeepSeek's extra prediction layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slipway.core.errors import InputError
from slipway.core.i18n import tr

_BIASED = ("qwen2", "qwen2_moe")
_QK_NORMS = ("qwen3", "qwen3_moe")
_LATENT = ("deepseek_v2", "deepseek_v3")
_PLAIN = ("llama", "mistral")
FAMILIES = (*_PLAIN, *_BIASED, *_QK_NORMS, *_LATENT)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes as in a config.json; 0 where the family has no such thing.

    Attributes:
        family: `model_type` of the config.
        kv_rank, q_rank: ranks of latent attention (DeepSeek); `q_rank` 0: queries are whole.
        head_dim: width of a query head; for latent attention, of its part without position.
        rope_dim, v_dim: widths of the positional part and of a value head (latent attention).
        experts, active_experts, expert_width: routed experts of each sparse layer.
        shared_width: width of the shared experts together.
        dense_layers: layers before the first sparse one.
        tied: the output head is the embedding.
    """

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    qkv_bias: bool = False
    qk_norm: bool = False
    context: int = 32768
    experts: int = 0
    active_experts: int = 0
    expert_width: int = 0
    shared_width: int = 0
    dense_layers: int = 0
    kv_rank: int = 0
    q_rank: int = 0
    rope_dim: int = 0
    v_dim: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of weights.

    Attributes:
        embedding: of the input embedding.
        head: of the output head; 0 when it is the embedding.
        linear: in linear layers of the decoder, which adapters and quantisation are for.
        linear_active: those of them that one token passes through.
        small: norms, biases, routers.
        layer_linear: linear weights of the last layer.
    """

    embedding: int
    head: int
    linear: int
    linear_active: int
    small: int
    layer_linear: int

    @property
    def total(self) -> int:
        """All weights."""
        return self.embedding + self.head + self.linear + self.small

    @property
    def active(self) -> int:
        """Weights that one token passes through."""
        return self.embedding + self.head + self.linear_active + self.small


def shape_from_config(config: Mapping[str, Any], where: str) -> ModelShape:
    """The shape that a config.json describes.

    Raises:
        InputError: the family is not one of `FAMILIES`, or a size is missing.
    """
    family = str(config.get("model_type", ""))
    if family not in FAMILIES:
        raise InputError(
            "fit.unknown_family",
            tr(
                "{path}: the model family `{name}` is not known; known: {names}",
                path=where,
                name=family,
                names=", ".join(FAMILIES),
            ),
            tr("`slipway train RECIPE --dry-run` measures any model that can be trained"),
        )
    try:
        return _shape(family, config)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            "fit.bad_config",
            tr("{path}: the size {name} is missing or no number", path=where, name=error),
            tr("fetch the model again with `slipway pull`"),
        ) from error


def _shape(family: str, config: Mapping[str, Any]) -> ModelShape:
    def size(key: str, default: int | None = None) -> int:
        value = config.get(key)
        if value is None:
            if default is None:
                raise KeyError(key)
            return default
        return int(value)

    heads, hidden = size("num_attention_heads"), size("hidden_size")
    latent = family in _LATENT
    moe = size("moe_intermediate_size", 0)
    shared = size("shared_expert_intermediate_size", 0) or size("n_shared_experts", 0) * moe
    experts = size("n_routed_experts", 0) or size("num_experts", size("num_local_experts", 0))
    sparse = family.endswith("_moe") or latent
    return ModelShape(
        family=family,
        layers=size("num_hidden_layers"),
        hidden=hidden,
        intermediate=size("intermediate_size"),
        heads=heads,
        kv_heads=size("num_key_value_heads", heads),
        head_dim=size("qk_nope_head_dim") if latent else size("head_dim", hidden // heads),
        vocab=size("vocab_size"),
        tied=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=family in _BIASED or bool(config.get("attention_bias", False)),
        qk_norm=family in _QK_NORMS,
        context=size("max_position_embeddings", 4096),
        experts=experts if sparse else 0,
        active_experts=size("num_experts_per_tok", 0) if sparse else 0,
        expert_width=moe if sparse else 0,
        shared_width=shared if sparse else 0,
        dense_layers=size("first_k_dense_replace", 0) if latent else 0,
        kv_rank=size("kv_lora_rank") if latent else 0,
        q_rank=size("q_lora_rank", 0) if latent else 0,
        rope_dim=size("qk_rope_head_dim") if latent else 0,
        v_dim=size("v_head_dim") if latent else 0,
    )


def _attention(shape: ModelShape) -> tuple[int, int]:
    """Linear and other weights of one layer's attention."""
    h, heads, width = shape.hidden, shape.heads, shape.head_dim
    if shape.kv_rank:
        key = width + shape.rope_dim
        queries = h * shape.q_rank + shape.q_rank * heads * key if shape.q_rank else h * heads * key
        down = h * (shape.kv_rank + shape.rope_dim)
        up = shape.kv_rank * heads * (width + shape.v_dim)
        return queries + down + up + heads * shape.v_dim * h, shape.q_rank + shape.kv_rank
    queries, keys = heads * width, shape.kv_heads * width
    linear = 2 * h * queries + 2 * h * keys
    other = (queries + 2 * keys if shape.qkv_bias else 0) + (2 * width if shape.qk_norm else 0)
    return linear, other


def _mlp(shape: ModelShape, layer: int) -> tuple[int, int, int]:
    """Linear, active linear, and other weights of one layer's MLP."""
    h = shape.hidden
    if not shape.experts or layer < shape.dense_layers:
        dense = 3 * h * shape.intermediate
        return dense, dense, 0
    shared = 3 * h * shape.shared_width
    expert = 3 * h * shape.expert_width
    router = shape.experts * h
    if shape.family == "qwen2_moe":
        router += h  # the gate of the shared expert
    if shape.family == "deepseek_v3":
        router += shape.experts  # the bias that balances the experts
    return shared + shape.experts * expert, shared + shape.active_experts * expert, router


def count(shape: ModelShape) -> Counts:
    """How many weights a model of this shape has, by their role."""
    attention, other = _attention(shape)
    linear = active = last = 0
    small = shape.hidden  # the last norm
    for layer in range(shape.layers):
        mlp, mlp_active, routing = _mlp(shape, layer)
        last = attention + mlp
        linear += last
        active += attention + mlp_active
        small += other + routing + 2 * shape.hidden
    embedding = shape.vocab * shape.hidden
    return Counts(embedding, 0 if shape.tied else embedding, linear, active, small, last)


def adapter_weights(shape: ModelShape, rank: int) -> int:
    """Weights of a LoRA of this rank on every linear layer (experts: on the shared ones only)."""
    h, heads, width = shape.hidden, shape.heads, shape.head_dim
    if shape.kv_rank:
        key = width + shape.rope_dim
        pairs = [(heads * shape.v_dim, h), (h, shape.kv_rank + shape.rope_dim)]
        pairs.append((shape.kv_rank, heads * (width + shape.v_dim)))
        pairs += (
            [(h, shape.q_rank), (shape.q_rank, heads * key)] if shape.q_rank else [(h, heads * key)]
        )
    else:
        queries, keys = heads * width, shape.kv_heads * width
        pairs = [(h, queries), (queries, h), (h, keys), (h, keys)]
    attention = sum(a + b for a, b in pairs)
    dense = 3 * (h + shape.intermediate)
    shared = 3 * (h + shape.shared_width) if shape.shared_width else 0
    layers = [
        dense if not shape.experts or layer < shape.dense_layers else shared
        for layer in range(shape.layers)
    ]
    return rank * sum(attention + mlp for mlp in layers)
