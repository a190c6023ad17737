"""Model, method, stage and quantisation: from LLaMA Factory's keys to ours."""

from __future__ import annotations

from slipway.core.i18n import tr
from slipway.training.llamafactory.draft import Draft

_AS_IT_IS = tr("the adapter is gone on with as it is")


def put_method(draft: Draft) -> None:
    """Decide everything about what is trained and how."""
    values = draft.values
    draft.put("model", values.text("model_name_or_path"), "model_name_or_path")
    adapters = values.names("adapter_name_or_path")
    if len(adapters) > 1:
        raise draft.refuse(
            "adapter_name_or_path",
            tr("one adapter can be gone on with"),
            tr("merge the earlier ones into the base first with `slipway merge`"),
        )
    draft.put("adapter", adapters[0] if adapters else None, "adapter_name_or_path")
    _stage(draft)
    _lora(draft, goes_on=bool(adapters))
    draft.copy("oft_block_size", "module_dropout", "freeze_trainable_layers")
    draft.put("oft.target", _all_or_names(draft, "oft_target"), "oft_target")
    draft.put(
        "freeze.modules",
        _all_or_names(draft, "freeze_trainable_modules"),
        "freeze_trainable_modules",
    )
    draft.put("freeze.extra_modules", values.names("freeze_extra_modules"), "freeze_extra_modules")
    _preference(draft)
    draft.copy("quantization_bit", "quantization_type")
    draft.put("quant.double", values.flag("double_quantization"), "double_quantization")


def _all_or_names(draft: Draft, key: str) -> str | list[str]:
    names = draft.values.names(key)
    return "all" if names == ["all"] else names


def _stage(draft: Draft) -> None:
    stage = draft.values.text("stage")
    if stage == "ppo":
        raise draft.refuse(
            "stage",
            tr("its successors RLOO and GRPO are offered instead, which need no value model"),
            tr("write a recipe with `stage: rloo` and `rl.reward_model`; see docs/stages.md"),
        )
    draft.put("stage", stage, "stage")
    draft.put("method", draft.values.text("finetuning_type"), "finetuning_type")


# decided by the adapter that is gone on with, where there is one
_OF_THE_ADAPTER = (
    "lora_rank",
    "lora_alpha",
    "lora_target",
    "additional_target",
    "use_rslora",
    "use_dora",
    "pissa_init",
)


def _lora(draft: Draft, *, goes_on: bool) -> None:
    values = draft.values
    draft.copy("lora_dropout", "loraplus_lr_ratio", "pissa_iter")
    if goes_on:
        for key in _OF_THE_ADAPTER:
            if values.asks(key):
                draft.note(tr("`{key}` has no effect: {why}", key=key, why=_AS_IT_IS))
        return
    draft.copy("lora_rank")
    alpha = (
        values.number("lora_alpha") if values.has("lora_alpha") else 2 * values.whole("lora_rank")
    )
    draft.put("lora.alpha", alpha, "lora_alpha", "lora_rank")
    draft.put("lora.target", _all_or_names(draft, "lora_target"), "lora_target")
    draft.put("lora.extra_modules", values.names("additional_target"), "additional_target")
    for key, ours in (
        ("use_rslora", "lora.rslora"),
        ("use_dora", "lora.dora"),
        ("pissa_init", "lora.pissa"),
    ):
        draft.put(ours, values.flag(key), key)


def _preference(draft: Draft) -> None:
    values = draft.values
    loss = values.text("pref_loss")
    if loss == "kto_pair":
        raise draft.refuse(
            "pref_loss",
            tr("it was withdrawn by its authors in favour of stage kto"),
            tr("use `stage: kto` with rows that carry a kto_tag, or `pref_loss: sigmoid`"),
        )
    draft.put("preference.loss", loss, "pref_loss")
    draft.put("preference.beta", values.get("pref_beta"), "pref_beta")
    draft.put("kto.beta", values.get("pref_beta"), "pref_beta")
    draft.copy("pref_ftx", "dpo_label_smoothing", "simpo_gamma", "ref_model")
    draft.copy("kto_chosen_weight", "kto_rejected_weight")
