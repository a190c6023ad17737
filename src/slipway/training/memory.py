"""How much memory training uses, and what an allocator says when there is no more."""

from __future__ import annotations

import ctypes
import os
import sys

import psutil
import torch

# torch's bridge to oneDNN and oneDNN itself each keep a kernel for every shape of a product they
# have seen, 1024 by default. Packs differ in length, so nearly every step brings new shapes: on
# SmolLM2-135M that is 8 MB a step. A step needs about 100 kernels, most of them in every layer.
_KEPT_KERNELS = {"LRU_CACHE_CAPACITY": "128", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128"}


def bound_kernel_caches() -> None:
    """Keep few kernels; what the user has set stays. Works until the first product is computed."""
    for name, capacity in _KEPT_KERNELS.items():
        os.environ.setdefault(name, capacity)


def give_back() -> None:
    """Return freed memory to the system, where the C library keeps it (glibc).

    Large tensors of a finished job otherwise stay in the process, between pieces that are in use.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def memory(device: torch.device) -> int:
    """Bytes in use now: of this process on a CPU, of torch's tensors on a GPU."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def peak_memory(device: torch.device) -> int:
    """The most bytes in use so far, as `memory` counts them."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory is exhausted; torch's CPU allocator has no type."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )
