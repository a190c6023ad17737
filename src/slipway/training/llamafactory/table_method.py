"""LLaMA Factory's keys about stages, methods and preference."""

from __future__ import annotations

from slipway.core.i18n import tr
from slipway.training.llamafactory.key import Key, accepted, mapped, refused

_PPO = tr("it is about stage ppo, which is not run here")
_LOSS = tr("the loss of sft is the plain cross-entropy here")
_GALORE = tr("GaLore runs with LLaMA Factory's defaults here")
_APOLLO = tr("APOLLO's own package forbids commercial use; `use_galore` is offered")

_LORA: list[Key] = [
    mapped("lora_rank", "lora.rank", 8),
    mapped("lora_alpha", "lora.alpha"),
    mapped("lora_dropout", "lora.dropout", 0.0),
    mapped("lora_target", "lora.target", "all"),
    mapped("additional_target", "lora.extra_modules"),
    mapped("loraplus_lr_ratio", "lora.plus_ratio"),
    *accepted(tr("embeddings get no adapter here"), loraplus_lr_embedding=1e-6),
    mapped("use_rslora", "lora.rslora", False),
    mapped("use_dora", "lora.dora", False),
    mapped("pissa_init", "lora.pissa", False),
    mapped("pissa_iter", "lora.pissa_iter", 16),
    *accepted(
        tr("a PiSSA adapter is always saved as one that fits the unchanged base"),
        pissa_convert=False,
    ),
    refused(
        "create_new_adapter",
        tr("merge the first adapter with `slipway merge`, then train on the result"),
        False,
    ),
]
_OTHER_METHODS: list[Key] = [
    refused("oft_rank", tr("blocks of OFT are given by their size: `oft_block_size`"), 0),
    mapped("oft_block_size", "oft.block_size", 32),
    mapped("oft_target", "oft.target", "all"),
    mapped("module_dropout", "oft.dropout", 0.0),
    mapped("freeze_trainable_layers", "freeze.layers", 2),
    mapped("freeze_trainable_modules", "freeze.modules", "all"),
    mapped("freeze_extra_modules", "freeze.extra_modules"),
    refused("use_llama_pro", tr("the model's layers are not changed here"), False),
]
_PREFERENCE: list[Key] = [
    mapped("pref_beta", "preference.beta kto.beta", 0.1),
    mapped("pref_ftx", "preference.ftx", 0.0),
    mapped("pref_loss", "preference.loss", "sigmoid"),
    refused("pref_bco_weight", tr("the BCO loss is not added here"), 0.0, (0,)),
    mapped("dpo_label_smoothing", "preference.label_smoothing", 0.0),
    mapped("kto_chosen_weight", "kto.chosen_weight", 1.0),
    mapped("kto_rejected_weight", "kto.rejected_weight", 1.0),
    mapped("simpo_gamma", "preference.simpo_gamma", 0.5),
    refused("ld_alpha", tr("LD-DPO is not implemented here")),
    mapped("ref_model", "preference.ref_model"),
    refused("ref_model_adapters", tr("give a merged model as `ref_model`")),
    refused("ref_model_quantization_bit", tr("the reference is held as the base is")),
    *accepted(
        _PPO,
        "reward_model",
        "reward_model_adapters",
        "reward_model_quantization_bit",
        "ppo_score_norm",
        "ppo_whiten_rewards",
        reward_model_type="lora",
        ppo_buffer_size=1,
        ppo_epochs=4,
        ppo_target=6.0,
    ),
]
_OPTIMISERS: list[Key] = [
    mapped("use_galore", "optimizer", False),
    refused("galore_target", _GALORE, "all"),
    refused("galore_rank", _GALORE, 16),
    refused("galore_update_interval", _GALORE, 200),
    refused("galore_scale", _GALORE, 2.0),
    refused("galore_proj_type", _GALORE, "std"),
    refused("galore_layerwise", _GALORE, False),
    refused("use_apollo", _APOLLO, False),
    refused("apollo_target", _APOLLO, "all"),
    refused("apollo_rank", _APOLLO, 16),
    refused("apollo_update_interval", _APOLLO, 200),
    refused("apollo_scale", _APOLLO, 32.0),
    refused("apollo_proj", _APOLLO, "random"),
    refused("apollo_proj_type", _APOLLO, "std"),
    refused("apollo_scale_type", _APOLLO, "channel"),
    refused("apollo_layerwise", _APOLLO, False),
    refused("apollo_scale_front", _APOLLO, False),
    mapped("use_muon", "optimizer", False),
    refused("use_badam", tr("BAdam is not offered here; GaLore is"), False),
    *accepted(
        tr("it is about BAdam, which is not used"),
        "badam_start_block",
        badam_mode="layer",
        badam_switch_mode="ascending",
        badam_switch_interval=50,
        badam_update_ratio=0.05,
        badam_mask_mode="adjacent",
        badam_verbose=0,
    ),
    refused("use_adam_mini", tr("Adam-mini is not offered here; adamw_8bit is"), False),
]
_STAGE: list[Key] = [
    mapped("stage", "stage", "sft"),
    mapped("finetuning_type", "method", "lora"),
    refused("use_dft_loss", _LOSS, False),
    refused("use_asft_loss", _LOSS, False),
    *accepted(tr("it is about the ASFT loss, which is not used"), asft_alpha=0.1),
    refused("use_eaft_loss", _LOSS, False),
    *accepted(tr("it is about the EAFT loss, which is not used"), eaft_alpha=1.0),
    refused("fp8", tr("training in fp8 is not offered here"), False),
    *accepted(
        tr("it is about fp8, which is not used"),
        fp8_backend="auto",
        fp8_enable_fsdp_float8_all_gather=False,
    ),
    mapped("pure_bf16", "dtype", False),
    mapped("early_stopping_steps", "early_stopping"),
    refused(
        "compute_accuracy",
        tr("the accuracy of single tokens is not measured; `slipway eval` scores answers"),
        False,
    ),
    refused("disable_shuffling", tr("rows are shuffled in each epoch"), False),
    *accepted(tr("the loss curve is always drawn"), plot_loss=False),
    *accepted(
        tr("only real tokens are counted, always"),
        include_effective_tokens_per_second=False,
        include_num_input_tokens_seen=False,
    ),
]
KEYS: tuple[Key, ...] = (*_STAGE, *_LORA, *_OTHER_METHODS, *_PREFERENCE, *_OPTIMISERS)
