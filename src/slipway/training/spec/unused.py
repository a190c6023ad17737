"""Keys of a recipe that its other keys leave without effect: told, never passed over.

In a recipe of ours such a key is a mistake, and an error. It is only told where an override on the
command line made it useless (a file with `freeze.layers`, run once with `method=lora`), and in
LLaMA Factory's files, which commonly carry keys of methods that they do not use. A value equal to
the default asks for nothing and is never told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from slipway.core.errors import UsageError
from slipway.core.i18n import Text, tr
from slipway.core.manifest import Origin, flatten
from slipway.training.spec.keys import TrainSpec


@dataclass(frozen=True, slots=True)
class Rule:
    """When keys have an effect.

    Attributes:
        keys: dotted; one that ends with a dot stands for all it begins.
        decider: the key that decides.
        used: whether they have an effect, by the value of `decider`.
        wanted: what `decider` would have to be, as one writes it.
    """

    keys: tuple[str, ...]
    decider: str
    used: Callable[[Any], bool]
    wanted: str

    def covers(self, key: str) -> bool:
        """Whether the rule is about a key."""
        return any(key == one or (one[-1] == "." and key.startswith(one)) for one in self.keys)


def _is(key: str, *values: str) -> tuple[str, Callable[[Any], bool], str]:
    shown = " / ".join(f"{key}: {value}" for value in values)
    return key, lambda value: value in values, shown


def _on(key: str) -> tuple[str, Callable[[Any], bool], str]:
    return key, bool, key


def _without(key: str) -> tuple[str, Callable[[Any], bool], str]:
    return key, lambda value: not value, ""


RULES = (
    Rule(("lora.", "quant_aware"), *_is("method", "lora")),
    Rule(("lora.pissa_iter",), *_on("lora.pissa")),
    Rule(("oft.",), *_is("method", "oft")),
    Rule(("freeze.",), *_is("method", "freeze")),
    Rule(("quant.type", "quant.double"), *_on("quant.bits")),
    Rule(("preference.ftx", "preference.ref_model"), *_is("stage", "dpo", "kto")),
    Rule(
        tuple(f"preference.{name}" for name in ("loss", "beta", "label_smoothing", "simpo_gamma")),
        *_is("stage", "dpo"),
    ),
    Rule(("preference.label_smoothing",), *_is("preference.loss", "sigmoid")),
    Rule(("preference.simpo_gamma",), *_is("preference.loss", "simpo")),
    Rule(("preference.ref_model",), *_is("preference.loss", "sigmoid", "ipo", "hinge")),
    Rule(("kto.",), *_is("stage", "kto")),
    Rule(("rl.",), *_is("stage", "rloo", "grpo")),
    Rule(("sample_prompts",), "stage", lambda value: value != "rm", "stage: sft"),
    Rule(("train_on_prompt", "mask_history"), *_is("stage", "sft")),
    Rule(("system", "thinking"), "stage", lambda value: value != "pt", "stage: sft"),
    Rule(("min_lr_ratio",), *_is("schedule", "cosine_with_min_lr", "polynomial")),
    Rule(("val_size",), *_without("eval_data")),
    Rule(("batch_tokens",), *_without("batch_rows")),
    Rule(("eval_every",), *_without("eval_each_epoch")),
    Rule(("warmup_ratio",), "warmup_steps", lambda value: value is None, ""),
)
_DEFAULTS = flatten(TrainSpec(model="", data="").model_dump())


def unused(spec: TrainSpec) -> Iterator[tuple[str, Rule]]:
    """The keys whose value is not the default and has no effect, and why."""
    values = flatten(spec.model_dump())
    for key, value in values.items():
        if value == _DEFAULTS.get(key):
            continue
        for rule in RULES:
            if rule.covers(key) and not rule.used(values[rule.decider]):
                yield key, rule
                break


def why(rule: Rule, value: Any) -> Text:
    """Why a key has no effect.

    Args:
        value: of the key that decides.
    """
    if not rule.wanted:
        return tr("`{decider}` goes before it", decider=rule.decider)
    return tr(
        "it belongs to `{wanted}`, and this is `{decider}: {value}`",
        wanted=rule.wanted,
        decider=rule.decider,
        value=value,
    )


def unused_notes(
    spec: TrainSpec, origins: Mapping[str, Origin], place: Callable[[str], Text | str]
) -> tuple[Text, ...]:
    """What to tell about keys that an override left without effect.

    Args:
        place: where a key stands.

    Raises:
        UsageError: a key that has no effect, and that no override made so.
    """
    values = flatten(spec.model_dump())
    notes = []
    for key, rule in unused(spec):
        if origins.get(key, "default") == "default":
            continue
        reason = why(rule, values[rule.decider])
        if origins.get(key) == "flag" or origins.get(rule.decider) != "flag":
            raise UsageError(
                "recipe.unused_key",
                tr("{where}: `{key}` has no effect: {why}", where=place(key), key=key, why=reason),
                tr("take it out, or change `{decider}`", decider=rule.decider),
            )
        notes.append(tr("`{key}` has no effect: {why}", key=key, why=reason))
    return tuple(notes)
