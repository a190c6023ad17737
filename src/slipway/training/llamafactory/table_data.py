"""LLaMA Factory's keys about datasets."""

from __future__ import annotations

from slipway.core.i18n import tr
from slipway.training.llamafactory.key import Key, accepted, mapped, refused

_CACHE = tr("tokens are cached by the content of file, template and rule")

KEYS: tuple[Key, ...] = (
    mapped("dataset", "data"),
    mapped("dataset_dir", "data eval_data", "data"),
    mapped("eval_dataset", "eval_data"),
    mapped("val_size", "val_size", 0.0),
    mapped("max_samples", "max_samples"),
    mapped("mix_strategy", "mix", "concat"),
    mapped("interleave_probs", "data"),
    mapped("template", "template"),
    mapped("default_system", "system"),
    mapped("enable_thinking", "thinking", True),
    mapped("cutoff_len", "cutoff_len", 2048),
    mapped("train_on_prompt", "train_on_prompt", False),
    mapped("mask_history", "mask_history", False),
    mapped("packing", "batch_tokens batch_rows"),
    *accepted(
        tr("packed rows never see each other here, whatever the batch"),
        neat_packing=False,
    ),
    *accepted(
        tr("data is always read as a stream and shuffled whole"),
        streaming=False,
        buffer_size=16384,
    ),
    *accepted(
        _CACHE,
        "overwrite_cache",
        "tokenized_path",
        "data_shared_file_system",
        "preprocessing_num_workers",
        preprocessing_batch_size=1000,
    ),
    *accepted(tr("nothing is generated while training"), "eval_num_beams"),
    *accepted(
        tr("thoughts of earlier turns stand as the model's own template has them"),
        preserve_thinking=False,
    ),
    refused(
        "ignore_pad_token_for_loss", tr("there is no padding here that could be learned"), True
    ),
    refused(
        "eval_on_each_dataset",
        tr("all eval datasets give one eval loss; `slipway eval` compares on each"),
        False,
    ),
    refused("tool_format", tr("tools are rendered by the model's own chat template")),
)
