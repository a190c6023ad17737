"""The most bytes that torch's tensors occupy while something runs, on any device."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class AllocationPeak(TorchDispatchMode):  # type: ignore[misc]
    """Counts storages that are born while it is entered, until they die.

    A CPU keeps no such count, and the process's memory cannot be set back to look for a new peak.
    What an operation needs inside itself, without giving it out, is not seen.

    Attributes:
        peak: most bytes alive at once.
        current: bytes alive now.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.current = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def ignore(self, tensors: Any) -> None:
        """Do not count what was there before."""
        for tensor in tree_leaves(tensors):
            if _has_storage(tensor):
                self._seen.add(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ignore(args)  # inputs that were made outside
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if _has_storage(tensor) and tensor.device.type != "meta":
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        size = storage.nbytes()
        self._seen.add(storage)
        self.current += size
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.current -= size


def _has_storage(value: Any) -> bool:
    """Whether it is a tensor whose bytes torch can tell; oneDNN's reordered weights hide theirs."""
    return isinstance(value, torch.Tensor) and not value.is_mkldnn
