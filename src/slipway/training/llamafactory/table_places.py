"""LLaMA Factory's keys about other devices, other machines and other programs."""

from __future__ import annotations

from slipway.core.i18n import tr
from slipway.training.llamafactory.key import Key, accepted, mapped, refused

_SWANLAB = tr("SwanLab takes it from its own login or environment; remove the key")
_TRACKIO = tr("trackio gets no metrics here")
_PROFILER = tr("torch's profiler is not run here")
_MEGATRON = tr("Megatron and HyperParallel are not used here")

KEYS: tuple[Key, ...] = (
    mapped("report_to", "report_to", "none"),
    mapped("use_swanlab", "report_to", False),
    refused("swanlab_project", _SWANLAB, "llamafactory"),
    refused("swanlab_workspace", _SWANLAB),
    refused("swanlab_run_name", _SWANLAB),
    refused("swanlab_mode", _SWANLAB, "cloud"),
    refused("swanlab_api_key", _SWANLAB),
    refused("swanlab_logdir", _SWANLAB),
    refused("swanlab_lark_webhook_url", _SWANLAB),
    refused("swanlab_lark_secret", _SWANLAB),
    *accepted(_TRACKIO, "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
    *accepted(_TRACKIO, project="huggingface"),
    mapped("deepspeed", "deepspeed"),
    mapped("fsdp", "fsdp"),
    refused("fsdp_config", tr("give accelerate's FSDP file as `fsdp`")),
    refused("parallelism_config", tr("give accelerate's FSDP file as `fsdp`")),
    refused(
        "ray_num_workers",
        tr("write `slipway train FILE --launcher ray` and take the key out"),
        1,
    ),
    refused("ray_init_kwargs", tr("Ray is set up by RAY_ADDRESS and its own environment")),
    *accepted(
        tr("torchrun and Ray tell the processes where the first one is"),
        "master_addr",
        "master_port",
    ),
    refused("enable_torch_profiler", _PROFILER, False),
    refused("profile_modules", _PROFILER),
    *accepted(
        _PROFILER,
        "profiler_output_dir",
        "profiler_wait_steps",
        "profiler_warmup_steps",
        "profiler_active_steps",
        "profiler_repeat",
        "profiler_record_shapes",
        "profiler_profile_memory",
        "profiler_with_stack",
    ),
    refused("use_hyper_parallel", _MEGATRON, False),
    refused("use_mca", _MEGATRON, False),
)
