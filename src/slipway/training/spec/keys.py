"""The keys of a recipe: what they mean, their defaults and limits. One model for each component."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from slipway.datasets.source import DataSource

Stage = Literal["pt", "sft", "dpo", "kto", "rm", "rloo", "grpo"]
Method = Literal["lora", "full", "freeze", "oft"]
Schedule = Literal[
    "cosine",
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine_with_min_lr",
    "polynomial",
    "inverse_sqrt",
]
Optimizer = Literal["adamw", "adamw_8bit", "adafactor", "sgd", "galore", "apollo", "muon"]
Mix = Literal["concat", "interleave_under", "interleave_over", "interleave_once"]


# keys that change neither the plan nor, but for rounding, the weights
COSMETIC = frozenset(
    {
        "label",
        "tags",
        "report_to",
        "sample_prompts",
        "save_every_s",
        "save_every_steps",
        "keep_checkpoints",
        "pack_tokens",
    }
)


class _Keys(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LoraSpec(_Keys):
    """The adapter's size and place."""

    rank: int = Field(default=16, ge=1, le=1024, description="rank of the added matrices")
    alpha: float = Field(default=32.0, gt=0, description="the addition is scaled by alpha / rank")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout on the adapter's input")
    target: Literal["all"] | list[str] = Field(
        default="all", description="`all` linear layers, or a list such as [q_proj, v_proj]"
    )
    rslora: bool = Field(default=False, description="scale by alpha / sqrt(rank) instead")
    dora: bool = Field(default=False, description="train each row's magnitude apart (DoRA)")
    pissa: bool = Field(
        default=False, description="begin from the base's largest singular values (PiSSA)"
    )
    pissa_iter: int = Field(
        default=16, ge=-1, description="iterations of the fast SVD; -1: the exact one"
    )
    plus_ratio: float | None = Field(
        default=None, gt=0, description="B learns so many times faster than A (LoRA+)"
    )
    extra_modules: list[str] = Field(
        default_factory=list, description="other modules trained whole, such as [embed_tokens]"
    )


class OftSpec(_Keys):
    """Orthogonal fine-tuning: the base's weights are rotated block by block."""

    block_size: int = Field(default=32, ge=1, description="size of the rotated blocks")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of blocks left unrotated")
    target: Literal["all"] | list[str] = Field(
        default="all", description="`all` linear layers, or a list such as [q_proj, v_proj]"
    )


class FreezeSpec(_Keys):
    """Which part of the model is trained when the rest is frozen."""

    layers: int = Field(default=2, description="the last so many layers; negative: the first")
    modules: Literal["all"] | list[str] = Field(
        default="all", description="modules trained in those layers, such as [mlp]"
    )
    extra_modules: list[str] = Field(
        default_factory=list, description="modules outside the layers, such as [lm_head, norm]"
    )


class QuantSpec(_Keys):
    """How the frozen base is held in memory (QLoRA)."""

    bits: Literal[4, 8] | None = Field(
        default=None, description="4 or 8 bits by bitsandbytes; none: not quantised"
    )
    type: Literal["nf4", "fp4"] = Field(default="nf4", description="number format of 4 bits")
    double: bool = Field(default=True, description="quantise the scales too (4 bits)")


class PreferenceSpec(_Keys):
    """Stage dpo; `ftx` and `ref_model` are stage kto's too."""

    loss: Literal["sigmoid", "ipo", "hinge", "orpo", "simpo"] = Field(
        default="sigmoid", description="how a pair is judged"
    )
    beta: float = Field(default=0.1, gt=0, description="how far the model may leave the reference")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="chance that a pair is the wrong way round"
    )
    simpo_gamma: float = Field(default=0.5, ge=0, description="SimPO's wanted margin")
    ftx: float = Field(default=0.0, ge=0, description="weight of the chosen answer's SFT loss")
    ref_model: str | None = Field(
        default=None, description="another reference model; default: the model before training"
    )


class KtoSpec(_Keys):
    """Stage kto."""

    beta: float = Field(default=0.1, gt=0, description="how far the model may leave the reference")
    chosen_weight: float = Field(default=1.0, ge=0, description="weight of good answers")
    rejected_weight: float = Field(default=1.0, ge=0, description="weight of bad answers")


class RlSpec(_Keys):
    """Stages rloo and grpo: answers are generated, rewarded and reinforced."""

    reward_model: str | None = Field(default=None, description="run folder of stage rm")
    reward_function: str | None = Field(
        default=None, description="`FILE.py:NAME` of a function (prompts, answers) -> rewards"
    )
    num_generations: int = Field(default=4, ge=2, description="answers for each prompt")
    max_new_tokens: int = Field(default=128, ge=1, description="longest generated answer, tokens")
    temperature: float = Field(default=0.9, gt=0, description="of the generated answers")
    beta: float = Field(default=0.05, ge=0, description="weight of the KL to the reference")


class TrainSpec(_Keys):
    """Everything that decides a training run; the keys of a recipe."""

    model: str = Field(description="folder of the base model, or its name in SLIPWAY_HOME/bases")
    adapter: str | None = Field(
        default=None, description="adapter folder or run to go on from; default: a new adapter"
    )
    stage: Stage = Field(default="sft", description="what is learned")
    method: Method = Field(default="lora", description="what is trained")
    data: str | list[str | DataSource] = Field(
        description="dataset folder or file, or a list of datasets"
    )
    eval_data: str | list[str | DataSource] | None = Field(
        default=None, description="dataset for the eval loss; default: the heldout split of `data`"
    )
    val_size: float = Field(
        default=0.0,
        ge=0,
        description="part (below 1) or number of rows kept from `data` for the eval loss",
    )
    mix: Mix = Field(default="concat", description="how several datasets are put together")
    max_samples: int | None = Field(
        default=None, ge=1, description="rows taken of each dataset; default: all"
    )
    bad_rows: Literal["stop", "skip"] = Field(
        default="stop", description="rows that break the rules: an error, or named and left out"
    )
    template: str | None = Field(
        default=None, description="name the chat template must have; default: the model's own"
    )
    system: str | None = Field(
        default=None, description="system turn for conversations that have none"
    )
    thinking: Literal["keep", "on", "off"] = Field(
        default="keep",
        description="answers without <think>: as they are, with an empty one learned, or given",
    )
    train_on_prompt: bool = Field(default=False, description="learn the prompt's tokens too")
    mask_history: bool = Field(default=False, description="learn the last answer only")
    lora: LoraSpec = Field(default_factory=lambda: LoraSpec())
    oft: OftSpec = Field(default_factory=lambda: OftSpec())
    freeze: FreezeSpec = Field(default_factory=lambda: FreezeSpec())
    quant: QuantSpec = Field(default_factory=lambda: QuantSpec())
    preference: PreferenceSpec = Field(default_factory=lambda: PreferenceSpec())
    kto: KtoSpec = Field(default_factory=lambda: KtoSpec())
    rl: RlSpec = Field(default_factory=lambda: RlSpec())
    cutoff_len: int = Field(default=1024, ge=8, description="tokens kept of each conversation")
    epochs: float = Field(default=3.0, gt=0, description="times through the data, at most")
    max_steps: int | None = Field(default=None, ge=1, description="optimiser steps, at most")
    time_budget_s: float | None = Field(
        default=None, gt=0, description="seconds for the whole run, evals and checkpoints included"
    )
    batch_tokens: int = Field(default=512, ge=1, description="tokens for each optimiser step")
    batch_rows: int | None = Field(
        default=None, ge=1, description="rows for each optimiser step, instead of `batch_tokens`"
    )
    pack_tokens: int = Field(
        default=2048, ge=1, description="tokens computed at once; smaller needs less memory"
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="peak learning rate")
    schedule: Schedule = Field(default="cosine", description="after the warm-up")
    warmup_ratio: float = Field(
        default=0.05, ge=0, lt=1, description="part of the steps that warms up"
    )
    warmup_steps: int | None = Field(
        default=None, ge=0, description="steps that warm up, instead of `warmup_ratio`"
    )
    min_lr_ratio: float = Field(
        default=0.0, ge=0, lt=1, description="last rate of cosine_with_min_lr and polynomial"
    )
    optimizer: Optimizer = Field(default="adamw", description="who makes the steps")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's weight decay")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's first beta")
    adam_beta2: float = Field(default=0.999, ge=0, lt=1, description="AdamW's second beta")
    adam_epsilon: float = Field(default=1e-8, gt=0, description="AdamW's epsilon")
    max_grad_norm: float = Field(
        default=1.0, gt=0, description="longer gradients are scaled down to it"
    )
    neftune_alpha: float | None = Field(
        default=None, gt=0, description="noise on the embeddings while training (NEFTune)"
    )
    quant_aware: Literal["q4_0", "q8_0"] | None = Field(
        default=None, description="LoRA learns under the rounding of this GGUF type"
    )
    checkpointing: Literal["auto", "on", "off"] = Field(
        default="auto", description="compute activations twice to save memory; auto: when needed"
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto", description="torch.compile; auto: where it pays, so far nowhere"
    )
    eval_every: int = Field(
        default=0, ge=0, description="steps between evals; 0: up to four in the run"
    )
    eval_each_epoch: bool = Field(
        default=False, description="evals at the end of each epoch, instead of `eval_every`"
    )
    save_every_s: float = Field(default=60.0, gt=0, description="seconds between checkpoints")
    save_every_steps: int | None = Field(
        default=None, ge=1, description="steps between checkpoints"
    )
    keep_checkpoints: int = Field(default=2, ge=1, description="newest checkpoints kept")
    keep_best: bool = Field(
        default=False, description="the result is the state with the lowest eval loss"
    )
    early_stopping: int | None = Field(
        default=None, ge=1, description="stop after so many evals without a lower eval loss"
    )
    sample_prompts: list[str] = Field(
        default_factory=list, description="questions answered at each eval, to see it learn"
    )
    report_to: list[Literal["tensorboard", "swanlab", "wandb"]] = Field(
        default_factory=list, description="other places that get the metrics"
    )
    fsdp: str | None = Field(default=None, description="FSDP config file of accelerate")
    deepspeed: str | None = Field(default=None, description="DeepSpeed config file")
    seed: int = Field(default=0, ge=0, description="of the data order, the adapter and dropout")
    threads: int | None = Field(default=None, ge=1, description="CPU threads; default: all cores")
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        default="auto", description="of the frozen base; auto: bf16 where the hardware has it"
    )
    label: str = Field(default="", description="a name for people")
    tags: list[str] = Field(default_factory=list, description="words to find the run by")

    @property
    def sources(self) -> tuple[DataSource, ...]:
        """`data` as a tuple of sources."""
        return as_sources(self.data)

    @property
    def eval_sources(self) -> tuple[DataSource, ...]:
        """`eval_data` as a tuple of sources; empty when there is none."""
        return as_sources(self.eval_data) if self.eval_data else ()


def as_sources(data: str | list[str | DataSource]) -> tuple[DataSource, ...]:
    """Whatever `data` may be, as a tuple of sources."""
    given = [data] if isinstance(data, str) else data
    return tuple(
        DataSource(path=item) if isinstance(item, str) else DataSource.model_validate(item)
        for item in given
    )
