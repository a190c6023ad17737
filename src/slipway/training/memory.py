"""How much memory training uses, and what an allocator says when there is no more."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import psutil
import torch

# torch's bridge to oneDNN and oneDNN itself each keep a kernel for every shape of a product they
# have seen, 1024 by default. Packs differ in length, so nearly every step brings new shapes: on
# SmolLM2-135M that is 8 MB a step. A step needs about 100 kernels, most of them in every layer.
_KEPT_KERNELS = {"LRU_CACHE_CAPACITY": "128", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128"}
_MADV_DONTNEED = 4


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


def forget_file_pages(tensor: torch.Tensor) -> int:
    """Let go the pages of a tensor that is a window onto a file; returns the bytes.

    A weight read from safetensors is such a window, and its pages stay resident for as long as any
    other weight of the file is in use. Whoever reads it again gets the file's bytes again, without
    what was written to the tensor since.
    Nothing is done to other tensors, and nothing on other systems than Linux.
    """
    start, size = tensor.data_ptr(), tensor.nbytes
    if sys.platform != "linux" or not _is_file(start, size):
        return 0
    page = os.sysconf("SC_PAGESIZE")
    first, end = -(-start // page) * page, (start + size) // page * page
    if end <= first:
        return 0
    done = ctypes.CDLL(None).madvise(
        ctypes.c_void_p(first), ctypes.c_size_t(end - first), _MADV_DONTNEED
    )
    return 0 if done else end - first


def _is_file(start: int, size: int) -> bool:
    """Whether these addresses are part of a mapped file."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    for line in lines:
        place, _, _, _, inode, *_ = line.split(maxsplit=5)
        low, high = (int(part, 16) for part in place.split("-"))
        if low <= start < high:
            return start + size <= high and inode != "0"
    return False


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
    if sys.platform == "linux" and (own := _high_water()):
        return own
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _high_water() -> int:
    """This program's own peak; `ru_maxrss` begins with that of the process that started it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory is exhausted; torch's CPU allocator has no type."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )
