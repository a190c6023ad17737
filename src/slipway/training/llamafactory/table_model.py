"""LLaMA Factory's keys about the model, its numbers and inference."""

from __future__ import annotations

from slipway.core.i18n import tr
from slipway.training.llamafactory.key import Key, accepted, mapped, refused

_INFERENCE = tr("it is about inference, which training does not do")
_OWN_CACHE = tr("whatever is fetched is kept in SLIPWAY_HOME")
_TOKENS = tr("tokens are taken from HF_TOKEN and MODELSCOPE_API_TOKEN, and never stored")
_SAME_RESULT = tr("it changes the speed and not the result; the fastest exact way is chosen here")
_TEXT_ONLY = tr("models and data are text here")
_NO_VISION = tr("only language models are trained here")
_TOKENIZER = tr("the tokenizer of the base is never changed here")

_MODEL: list[Key] = [
    mapped("model_name_or_path", "model"),
    mapped("adapter_name_or_path", "adapter"),
    refused("adapter_folder", tr("give the adapter's whole path in `adapter_name_or_path`")),
    *accepted(_OWN_CACHE, "cache_dir"),
    *accepted(_TOKENS, "hf_hub_token", "ms_hub_token", "om_hub_token"),
    refused(
        "model_revision",
        tr("a pulled base has one revision; `slipway pull` decides which"),
        "main",
        ("master",),
    ),
    *accepted(
        tr("fast and slow tokenizers give the same tokens; the fast one is used"),
        use_fast_tokenizer=True,
    ),
    refused("resize_vocab", _TOKENIZER, False),
    refused(
        "split_special_tokens",
        tr("a row with a special token in its text is refused, or left out with `bad_rows: skip`"),
        False,
    ),
    refused("add_tokens", _TOKENIZER),
    refused("add_special_tokens", _TOKENIZER),
    refused("new_special_tokens_config", _TOKENIZER),
    *accepted(tr("no token is added here"), init_special_tokens="noise_init"),
    *accepted(tr("models are always loaded file by file"), low_cpu_mem_usage=True),
    refused("rope_scaling", tr("the model's own positions are used, as its config says")),
    *accepted(
        tr("code that comes with a model is never run; the families of transformers are used"),
        trust_remote_code=False,
    ),
    refused("train_from_scratch", tr("training begins from the weights of a base"), False),
    refused("mixture_of_depths", tr("the model's layers are not changed here")),
    refused("moe_aux_loss_coef", tr("the router's balance loss is not added here")),
    *accepted(tr("`slipway train --dry-run` counts the trained weights"), print_param_status=False),
]
_NUMBERS: list[Key] = [
    *accepted(
        _SAME_RESULT,
        "use_unsloth",
        "use_unsloth_gc",
        "enable_liger_kernel",
        "use_liger_kernel",
        "liger_kernel_config",
        "use_v1_kernels",
        flash_attn="auto",
        use_reentrant_gc=True,
    ),
    mapped("disable_gradient_checkpointing", "checkpointing", False),
    refused("shift_attn", tr("attention is always the whole one, as at inference"), False),
    *accepted(
        tr("norms are computed in fp32 by the model's own code"),
        upcast_layernorm=False,
    ),
    refused(
        "upcast_lmhead_output",
        tr("the loss is computed in the number format of the base"),
        False,
    ),
    refused("use_kt", tr("KTransformers' experts are not used here"), False),
    mapped("quantization_bit", "quant.bits"),
    refused(
        "quantization_method",
        tr("bitsandbytes alone quantises the base for training here"),
        "bnb",
        ("bitsandbytes", "BNB"),
    ),
    mapped("quantization_type", "quant.type", "nf4"),
    mapped("double_quantization", "quant.double", True),
    refused("quantization_device_map", tr("the whole base lies on one device here"), None),
]
_INFER: list[Key] = [
    *accepted(
        _INFERENCE,
        "vllm_config",
        "sglang_config",
        "vllm_enforce_eager",
        infer_backend="huggingface",
        infer_dtype="auto",
        offload_folder="offload",
        use_kv_cache=True,
        vllm_maxlen=4096,
        vllm_gpu_util=0.7,
        vllm_max_lora_rank=32,
        sglang_maxlen=4096,
        sglang_mem_fraction=0.7,
        sglang_tp_size=-1,
        do_sample=True,
        temperature=0.95,
        top_p=0.7,
        top_k=50,
        num_beams=1,
        max_length=1024,
        max_new_tokens=1024,
        repetition_penalty=1.0,
        length_penalty=1.0,
        skip_special_tokens=True,
    ),
    *accepted(
        _TEXT_ONLY,
        "media_dir",
        "crop_to_patches",
        "image_do_pan_and_scan",
        "use_audio_in_video",
        image_max_pixels=589824,
        image_min_pixels=1024,
        video_max_pixels=65536,
        video_min_pixels=256,
        video_fps=2.0,
        video_maxlen=128,
        audio_sampling_rate=16000,
    ),
    *accepted(_NO_VISION, freeze_vision_tower=True, freeze_multi_modal_projector=True),
    refused("freeze_language_model", _NO_VISION, False),
]
_EXPORT: list[Key] = [
    refused(
        "export_dir",
        tr("this file is for an export; use `slipway merge RUN` and `slipway convert`"),
    ),
    *accepted(
        tr("it is about an export; `slipway merge`, `convert` and `quantize` do that"),
        "export_quantization_bit",
        "export_quantization_dataset",
        "export_hub_model_id",
        export_size=5,
        export_device="cpu",
        export_quantization_nsamples=128,
        export_quantization_maxlen=1024,
        export_legacy_format=False,
    ),
]
KEYS: tuple[Key, ...] = (*_MODEL, *_NUMBERS, *_INFER, *_EXPORT)
