"""The keys that LLaMA Factory takes over from transformers' Seq2SeqTrainingArguments."""

from __future__ import annotations

from slipway.core.i18n import tr
from slipway.training.llamafactory.key import Key, accepted, mapped, refused

_GENERATE = tr("answers are generated and scored by `slipway eval RUN`, not while training")
_LOGGING = tr("every step is recorded in the run's events")
_LOADER = tr("rows lie in memory-mapped files; no loader processes are needed")
_DDP = tr("how processes talk is chosen by the launcher")
_HUB = tr("nothing is uploaded while training")
_FORMAT = tr("products use `dtype`, sums of losses and trained weights fp32")
_MEMORY = tr("it changes the memory and not the result; `pack_tokens` bounds memory here")

_STEPS: list[Key] = [
    mapped("per_device_train_batch_size", "batch_rows batch_tokens", 8),
    mapped("gradient_accumulation_steps", "batch_rows batch_tokens", 1),
    mapped("learning_rate", "learning_rate", 5e-5),
    mapped("num_train_epochs", "epochs", 3.0),
    mapped("max_steps", "max_steps epochs", -1),
    mapped("lr_scheduler_type", "schedule", "linear"),
    mapped("lr_scheduler_kwargs", "min_lr_ratio"),
    mapped("warmup_ratio", "warmup_ratio", 0.0),
    mapped("warmup_steps", "warmup_steps warmup_ratio", 0),
    mapped("optim", "optimizer", "adamw_torch"),
    refused("optim_args", tr("optimisers take no further arguments here")),
    refused("optim_target_modules", tr("the optimiser steps all trained weights here")),
    mapped("weight_decay", "weight_decay", 0.0),
    mapped("adam_beta1", "adam_beta1", 0.9),
    mapped("adam_beta2", "adam_beta2", 0.999),
    mapped("adam_epsilon", "adam_epsilon", 1e-8),
    mapped("max_grad_norm", "max_grad_norm", 1.0),
    refused(
        "label_smoothing_factor", tr("the loss of sft is the plain cross-entropy here"), 0.0, (0,)
    ),
    mapped("neftune_noise_alpha", "neftune_alpha"),
    mapped("seed", "seed", 42),
    refused("data_seed", tr("one seed decides everything: `seed`")),
    *accepted(tr("equal seeds give equal runs on one machine, always"), full_determinism=False),
    *accepted(
        tr("no padding is computed, so grouping by length gains nothing"),
        "length_column_name",
        "train_sampling_strategy",
        group_by_length=False,
    ),
    *accepted(_MEMORY, "auto_find_batch_size", "torch_empty_cache_steps", use_cache=False),
    refused("dataloader_drop_last", tr("the last rows of an epoch are always learned"), False),
    *accepted(
        _LOADER,
        "dataloader_prefetch_factor",
        "dataloader_multiprocessing_context",
        "accelerator_config",
        dataloader_num_workers=0,
        dataloader_pin_memory=True,
        dataloader_persistent_workers=False,
        dataloader_in_order=True,
        remove_unused_columns=True,
    ),
    refused("label_names", tr("labels come from the data's roles")),
]
_NUMBERS: list[Key] = [
    mapped("bf16", "dtype", False),
    mapped("fp16", "dtype", False),
    *accepted(
        _FORMAT,
        "tf32",
        "half_precision_backend",
        "fp16_opt_level",
        "fp16_backend",
        bf16_full_eval=False,
        fp16_full_eval=False,
    ),
    mapped("gradient_checkpointing", "checkpointing"),
    *accepted(
        tr("activations are computed again block by block"),
        "gradient_checkpointing_kwargs",
        "activation_checkpointing",
        "activation_checkpointing_kwargs",
    ),
    mapped("torch_compile", "compile", False),
    *accepted(
        tr("how torch.compile runs is chosen here"), "torch_compile_backend", "torch_compile_mode"
    ),
    refused(
        "use_cpu",
        tr("this machine has a GPU; hide it: `CUDA_VISIBLE_DEVICES= slipway train ...`"),
        False,
    ),
    refused(
        "no_cuda",
        tr("this machine has a GPU; hide it: `CUDA_VISIBLE_DEVICES= slipway train ...`"),
        False,
    ),
]
_RUN: list[Key] = [
    mapped("output_dir", "run_dir"),
    mapped("overwrite_output_dir", "fresh", False),
    mapped("resume_from_checkpoint", "fresh"),
    mapped("do_train", "train", False),
    *accepted(tr("the eval loss is measured whenever there are eval rows"), do_eval=False),
    refused("do_predict", _GENERATE, False),
    refused("predict_with_generate", _GENERATE, False),
    *accepted(
        tr("nothing is generated while training"),
        "generation_max_length",
        "generation_num_beams",
        "generation_config",
    ),
    mapped("run_name", "label"),
    mapped("eval_strategy", "eval_every", "no"),
    mapped("evaluation_strategy", "eval_every"),
    mapped("eval_steps", "eval_every"),
    refused("eval_delay", tr("evals begin before the first step"), 0),
    *accepted(
        tr("evals measure the exact loss over all rows, whatever the batch"),
        "eval_accumulation_steps",
        "include_for_metrics",
        "sortish_sampler",
        per_device_eval_batch_size=8,
        prediction_loss_only=False,
        eval_on_start=False,
        eval_do_concat_batches=True,
        eval_use_gather_object=False,
        batch_eval_metrics=False,
    ),
    mapped("save_strategy", "save_every_steps", "steps"),
    mapped("save_steps", "save_every_steps", 500),
    mapped("save_total_limit", "keep_checkpoints"),
    *accepted(
        tr("every checkpoint can be resumed from, in safetensors and on each node alike"),
        save_only_model=False,
        save_safetensors=True,
        save_on_each_node=False,
        enable_jit_checkpoint=False,
        restore_callback_states_from_checkpoint=False,
    ),
    refused("ignore_data_skip", tr("a resumed run goes on at the exact row"), False),
    mapped("load_best_model_at_end", "keep_best", False),
    mapped("metric_for_best_model", "keep_best"),
    mapped("greater_is_better", "keep_best"),
]
_LOGS: list[Key] = [
    *accepted(
        _LOGGING,
        "logging_dir",
        "log_level",
        "log_level_replica",
        "disable_tqdm",
        "debug",
        logging_strategy="steps",
        logging_steps=500,
        logging_first_step=False,
        log_on_each_node=True,
        logging_nan_inf_filter=True,
        skip_memory_metrics=True,
    ),
    *accepted(
        _DDP,
        "ddp_backend",
        "ddp_bucket_cap_mb",
        "ddp_broadcast_buffers",
        "ddp_find_unused_parameters",
        "ddp_static_graph",
        "local_rank",
        ddp_timeout=1800,
        average_tokens_across_devices=True,
    ),
    refused("push_to_hub", _HUB, False),
    *accepted(
        _HUB,
        "hub_model_id",
        "hub_token",
        "hub_private_repo",
        "hub_revision",
        hub_strategy="every_save",
        hub_always_push=False,
    ),
]
KEYS: tuple[Key, ...] = (*_STEPS, *_NUMBERS, *_RUN, *_LOGS)
