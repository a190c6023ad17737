"""Loading a base model for training: device, number format, threads, identity, and a proof."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from slipway.core.errors import InputError, NotFoundError, ProofError, SlipwayError
from slipway.core.hardware import probe
from slipway.core.i18n import tr
from slipway.core.manifest import describe_files, files_digest, read_manifest
from slipway.datasets import Encoded, lengths_of
from slipway.training import attention
from slipway.training.batch import batches, losses
from slipway.training.fused import fuse
from slipway.training.memory import bound_kernel_caches, give_back
from slipway.training.quantised import loading_config, take_over
from slipway.training.recompute import lighten
from slipway.training.spec import QuantSpec

# the files that make up a model folder's identity when it has no manifest
_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model")
_LOSS_TOLERANCE = 0.03


def pick_device() -> torch.device:
    """A CUDA device when torch can use one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """bf16 where matrix products in it are a hardware instruction, else fp32."""
    if dtype != "auto":
        return torch.bfloat16 if dtype == "bf16" else torch.float32
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else probe().has_bf16
    return torch.bfloat16 if fast else torch.float32


def set_threads(threads: int | None, processes: int = 1) -> None:
    """Use `threads` CPU threads, or one for each core this process may use.

    Args:
        processes: that share this machine's cores.
    """
    torch.set_num_threads(threads or max(1, probe().cores // processes))


def base_digest(folder: Path) -> str:
    """The identity of a base model by its files as they are now, not by what its manifest says.

    With a manifest, the files it lists; without one, weights, config, tokenizer and template.
    """
    try:
        names = [entry.path for entry in read_manifest(folder).files]
    except NotFoundError:
        paths = {path for pattern in _MODEL_FILES for path in folder.glob(pattern)}
        names = sorted(path.name for path in paths if path.name != "manifest.json")
    try:
        return files_digest(describe_files(folder, names))
    except OSError as error:
        raise _unreadable(folder, error) from error


def load_base(
    folder: Path, dtype: torch.dtype, device: torch.device, quant: QuantSpec | None = None
) -> Any:
    """The base model with packed attention, frozen, from local files only.

    Args:
        quant: hold its linear layers with so many bits; each is packed as soon as it is read.

    Raises:
        ResourceError: bitsandbytes is needed and not installed.
        NotFoundError: no such folder.
        InputError: the folder holds no causal language model that transformers can load.
    """
    if not folder.is_dir():
        raise NotFoundError(
            "model.not_found",
            tr("the model folder {path} does not exist", path=str(folder)),
            tr("get a base model with `slipway pull starter`"),
        )
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    packed: dict[str, Any] = {}
    if quant is not None and quant.bits:
        packed = {
            "quantization_config": loading_config(quant, dtype),
            "device_map": {"": str(device)},
        }
    bound_kernel_caches()
    attention.register()
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            attn_implementation=attention.NAME,
            local_files_only=True,
            trust_remote_code=False,
            **packed,
        )
    except Exception as error:  # transformers raises many kinds for one cause: a bad folder
        raise _unreadable(folder, error) from error
    finally:
        if bars:
            logging.enable_progress_bar()
    model.requires_grad_(False)
    if packed:
        take_over(model, dtype)
        lighten(model)
        return model.eval()
    model.to(device)
    if not fuse(model, device):
        lighten(model)
    return model.eval()


def _unreadable(folder: Path, error: Exception) -> SlipwayError:
    return InputError(
        "model.unreadable",
        tr(
            "the model in {path} cannot be loaded: {reason}",
            path=str(folder),
            reason=(str(error).strip().splitlines() or [type(error).__name__])[0],
        ),
        tr("fetch the model again with `slipway pull`"),
    )


def prove_loss(model: Any, rows: Sequence[Encoded], device: torch.device) -> float:
    """Compare the packed loss of two rows with the model's own, unpacked; return the difference.

    The rows are the shortest and the longest, so that a window too short for the data shows here.

    This catches a model family whose attention or output head does more than ours.

    Raises:
        ProofError: they differ by more than rounding.
    """
    lengths = lengths_of(rows)
    by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
    pair = [rows[number] for number in dict.fromkeys((by_length[0], by_length[-1]))]
    with torch.inference_mode():
        ours = [losses(model, b) for _, b in batches(pair, 1 << 30, device, lean=True)]
        model.set_attn_implementation("eager")
        try:
            plain = []
            for row in pair:
                ids = torch.tensor([row.input_ids], device=device)
                logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
                wanted = torch.tensor(row.labels[1:], device=device)
                plain.append(
                    torch.nn.functional.cross_entropy(logits, wanted, reduction="none")[
                        wanted != -100
                    ]
                )
        finally:
            model.set_attn_implementation(attention.NAME)
            give_back()
    difference = abs(float(torch.cat(ours).mean()) - float(torch.cat(plain).mean()))
    if not difference <= _LOSS_TOLERANCE:
        raise ProofError(
            "train.loss_differs",
            tr(
                "the loss of packed documents differs from the model's own by {difference:.4f}",
                difference=difference,
            ),
            tr("this model family cannot be trained yet; use another base"),
        )
    return difference
