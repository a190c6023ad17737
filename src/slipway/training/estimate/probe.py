"""What one pass over a pack takes on a model of a few layers: bytes and seconds."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from slipway.training.estimate.peak import AllocationPeak

_LEAST_S = 0.4  # measured at least so long
_MOST = 5  # or so often
_WARM_S = 0.3  # a first run that takes longer is counted: what is made once is little of it


@dataclass(frozen=True, slots=True)
class Cost:
    """One pass over a pack, or a line through two of them.

    Attributes:
        bytes: peak of what is allocated besides the weights, gradients of trained weights included.
        eval_bytes: the same for forward alone over a pack of an eval.
        step_s: seconds of forward and backward over `tokens` tokens.
        eval_s: seconds of forward alone.
        update_s: seconds of clipping and of the optimiser's step.
        trained: trained weights.
    """

    bytes: float
    eval_bytes: float
    step_s: float
    eval_s: float
    update_s: float
    trained: float

    def at(self, other: Cost, here: int, there: int, layers: int) -> Cost:
        """The cost with `layers` layers, on the line through this (`here`) and another one."""
        part = (layers - here) / (there - here)

        def line(a: float, b: float) -> float:
            return max(a, a + (b - a) * part)

        return Cost(
            line(self.bytes, other.bytes),
            line(self.eval_bytes, other.eval_bytes),
            line(self.step_s, other.step_s),
            line(self.eval_s, other.eval_s),
            line(self.update_s, other.update_s),
            line(self.trained, other.trained),
        )


def measure(
    model: Any,
    largest: Callable[[], object],
    typical: Callable[[], object],
    forward: Callable[[], object],
    held_out: Callable[[], object],
    optimizer: Any,
) -> Cost:
    """Take the peak of one pass over the largest pack, and the time of passes over typical ones.

    Args:
        largest, typical: forward and backward.
        forward: forward over the typical rows, without gradients.
        held_out: forward over a pack as large as those of an eval, without gradients.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    model.train()
    step_s = _median(typical, lambda: _clear(trained))
    typical()
    update_s = _median(lambda: _update(trained, optimizer), lambda: None, most=2)
    _clear(trained)
    peak = _peak(model, largest)  # after the others: what is made once is not part of a pass
    _clear(trained)
    model.eval()
    with torch.no_grad():
        eval_s = _median(forward, lambda: None)
        eval_peak = _peak(model, held_out)
    return Cost(peak, eval_peak, step_s, eval_s, update_s, sum(p.numel() for p in trained))


def _peak(model: Any, run: Callable[[], object]) -> int:
    device = next(model.parameters()).device
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return int(torch.cuda.max_memory_allocated(device) - before)
    gc.collect()
    counter = AllocationPeak()
    counter.ignore([list(model.parameters()), list(model.buffers())])
    with counter:
        run()
    return counter.peak


def _update(trained: Sequence[Any], optimizer: Any) -> None:
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()


def _clear(trained: Sequence[Any]) -> None:
    for parameter in trained:
        parameter.grad = None


def _median(run: Callable[[], object], after: Callable[[], None], most: int = _MOST) -> float:
    """The median of several runs; a short first one is left out."""
    seconds: list[float] = []
    for number in range(most + 1):
        start = time.perf_counter()
        run()
        passed = time.perf_counter() - start
        after()
        if number or passed > _WARM_S:
            seconds.append(passed)
        if sum(seconds) >= _LEAST_S:
            break
    return statistics.median(seconds)
