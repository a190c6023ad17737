"""The combinations that LLaMA Factory refuses, refused here with both keys named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slipway.core.i18n import Text, tr
from slipway.training.llamafactory.values import Values


@dataclass(frozen=True, slots=True)
class Rule:
    """A combination that is refused: the keys that are named, when it holds, and why."""

    keys: tuple[str, ...]
    broken: Callable[[Values], bool]
    why: Text


def _rule(keys: str, broken: Callable[[Values], bool], why: Text) -> Rule:
    return Rule(tuple(keys.split()), broken, why)


def _method(v: Values) -> str:
    return v.text("finetuning_type")


def _stage(v: Values) -> str:
    return v.text("stage")


def _zero3(v: Values) -> bool:
    return v.has("deepspeed") and "z3" in v.text("deepspeed")


_SFT_ONLY = tr("this is only for stage sft")
_LORA_ONLY = tr("this is only for finetuning_type lora")
_TOO_MANY = tr("one of them at most")

RULES: tuple[Rule, ...] = (
    _rule(
        "adapter_name_or_path finetuning_type",
        lambda v: v.has("adapter_name_or_path") and _method(v) != "lora",
        tr("an adapter can be gone on with only by finetuning_type lora"),
    ),
    _rule(
        "quantization_bit finetuning_type",
        lambda v: v.has("quantization_bit") and _method(v) not in ("lora", "oft"),
        tr("a quantised base can be trained only by lora or oft"),
    ),
    _rule(
        "quantization_bit resize_vocab",
        lambda v: v.has("quantization_bit") and v.flag("resize_vocab"),
        tr("the vocabulary of a quantised base cannot be resized"),
    ),
    _rule(
        "quantization_bit create_new_adapter",
        lambda v: v.has("quantization_bit") and v.flag("create_new_adapter"),
        tr("no adapter can be merged into a quantised base"),
    ),
    _rule(
        "quantization_bit adapter_name_or_path",
        lambda v: v.has("quantization_bit") and len(v.names("adapter_name_or_path")) > 1,
        tr("a quantised base takes one adapter"),
    ),
    _rule(
        "pissa_init quantization_bit",
        lambda v: v.flag("pissa_init") and v.has("quantization_bit"),
        tr("PiSSA needs the weights of an unquantised base"),
    ),
    _rule(
        "pissa_init stage",
        lambda v: v.flag("pissa_init") and (_stage(v) in ("ppo", "kto") or v.has("ref_model")),
        tr("PiSSA changes the base, which is the reference of this stage"),
    ),
    _rule(
        "pissa_init deepspeed",
        lambda v: v.flag("pissa_init") and _zero3(v),
        tr("PiSSA needs whole weights, which ZeRO-3 splits"),
    ),
    *(
        _rule(
            f"{key} finetuning_type",
            lambda v, key=key: bool(v.asks(key)) and _method(v) != "lora",  # type: ignore[misc]
            _LORA_ONLY,
        )
        for key in ("loraplus_lr_ratio", "pissa_init", "use_dora", "use_rslora")
    ),
    _rule(
        "predict_with_generate stage",
        lambda v: v.flag("predict_with_generate") and _stage(v) != "sft",
        _SFT_ONLY,
    ),
    _rule(
        "predict_with_generate compute_accuracy",
        lambda v: v.flag("predict_with_generate") and v.flag("compute_accuracy"),
        _TOO_MANY,
    ),
    _rule(
        "predict_with_generate deepspeed",
        lambda v: v.flag("predict_with_generate") and _zero3(v),
        tr("nothing is generated under ZeRO-3"),
    ),
    _rule(
        "do_predict predict_with_generate",
        lambda v: v.flag("do_predict") and not v.flag("predict_with_generate"),
        tr("do_predict needs predict_with_generate"),
    ),
    *(
        _rule(
            f"{key} stage",
            lambda v, key=key: v.flag(key) and _stage(v) != "sft",  # type: ignore[misc]
            _SFT_ONLY,
        )
        for key in ("neat_packing", "train_on_prompt", "mask_history")
    ),
    _rule(
        "train_on_prompt mask_history",
        lambda v: v.flag("train_on_prompt") and v.flag("mask_history"),
        _TOO_MANY,
    ),
    _rule(
        "streaming max_steps",
        lambda v: v.flag("streaming") and v.whole("max_steps") <= 0,
        tr("a stream has no known length; give max_steps"),
    ),
    _rule(
        "streaming val_size",
        lambda v: v.flag("streaming") and 0 < v.number("val_size") < 1,
        tr("of a stream only a number of rows can be kept, no part"),
    ),
    _rule(
        "streaming max_samples",
        lambda v: v.flag("streaming") and v.has("max_samples"),
        tr("max_samples is not for streams"),
    ),
    _rule(
        "val_size eval_dataset",
        lambda v: v.number("val_size") > 0 and v.has("eval_dataset"),
        _TOO_MANY,
    ),
    _rule(
        "interleave_probs mix_strategy",
        lambda v: v.has("interleave_probs") and v.text("mix_strategy") == "concat",
        tr("probabilities are for the interleaving strategies"),
    ),
    _rule(
        "interleave_probs dataset",
        lambda v: (
            v.has("interleave_probs")
            and len(v.names("interleave_probs")) != len(v.names("dataset"))
        ),
        tr("one probability for each dataset"),
    ),
    _rule(
        "load_best_model_at_end stage",
        lambda v: v.flag("load_best_model_at_end") and _stage(v) in ("rm", "ppo"),
        tr("the best model cannot be kept in this stage"),
    ),
    _rule(
        "dpo_label_smoothing pref_loss",
        lambda v: v.number("dpo_label_smoothing") > 0 and v.text("pref_loss") != "sigmoid",
        tr("smoothing is for the sigmoid loss"),
    ),
    _rule("bf16 fp16", lambda v: v.flag("bf16") and v.flag("fp16"), _TOO_MANY),
    _rule(
        "use_galore use_apollo use_muon",
        lambda v: sum(v.flag(key) for key in ("use_galore", "use_apollo", "use_muon")) > 1,
        _TOO_MANY,
    ),
    _rule(
        "use_galore finetuning_type",
        lambda v: v.flag("use_galore") and _method(v) == "lora",
        tr("it is for weights trained whole, not for adapters"),
    ),
    _rule(
        "use_apollo finetuning_type",
        lambda v: v.flag("use_apollo") and _method(v) == "lora",
        tr("it is for weights trained whole, not for adapters"),
    ),
)


def check_conflicts(values: Values, rules: Sequence[Rule] = RULES) -> None:
    """Refuse the first combination that LLaMA Factory refuses.

    Raises:
        UsageError: naming the keys.
    """
    for rule in rules:
        if rule.broken(values):
            raise values.conflict(rule.keys, rule.why)
