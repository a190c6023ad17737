"""Fused kernels on CUDA for what lies between the matrix products: norms, MLP gates, rotary.

They are those of the package `liger-kernel` (Hsu et al. 2024, arXiv 2410.10989), used when it is
installed. Its fused cross-entropy is left out: our head computes label rows only.
"""

from __future__ import annotations

from typing import Any

import torch


def fuse(model: Any, device: torch.device) -> bool:
    """Put the kernels on a loaded model; False where the device or the package is not there.

    A model family that the package does not know stays as it is.
    """
    if device.type != "cuda":
        return False
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance as apply
    except ImportError:
        return False
    apply(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
    return True
