"""The processes that train one run together: each computes a part of every step.

Started by `slipway train --processes N`, torchrun, accelerate or Ray, which all say by the same
environment variables (RANK, WORLD_SIZE, ...) who is who. Each process holds the whole model. The
units of a step are dealt out; gradients are added up, weighted by what each process counted, so
that the step is the one a single process would have taken with the same units.

The process of rank 0 is the chief: it alone writes, tells and decides. What it decides by a clock
or by a file is shared before anybody acts on it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.training.objectives.base import EvalResult, StepSums
from slipway.training.sharding.split import is_part

T = TypeVar("T")
_BUCKET = 1 << 24  # numbers that are added up at once


class World:
    """One process among `size`, or the only one.

    Attributes:
        rank: 0 for the chief.
        local_size: processes on this machine.
        in_step: the model is split over the processes, so that all compute as many packs, and
            objectives divide by what all counted.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1
    ) -> None:
        self.rank, self.size, self.in_step = rank, size, False
        self.local_rank, self.local_size = local_rank, local_size

    @property
    def is_chief(self) -> bool:
        """Whether this process writes and tells."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def one_first(self) -> Iterator[None]:
        """One process of each machine does the block's work; then the others find it done."""
        if self.local_rank:
            self.barrier()
        yield
        if not self.local_rank:
            self.barrier()

    def share(self, value: T) -> T:
        """The chief's value, on all."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Everybody's value, by rank."""
        if self.size == 1:
            return [value]
        boxes: list[Any] = [None] * self.size
        dist.all_gather_object(boxes, value)
        return boxes

    def sum(self, *values: float) -> list[float]:
        """Each value, added up over all."""
        if self.size == 1:
            return list(values)
        box = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(box)
        return [float(value) for value in box]

    def most(self, value: int) -> int:
        """The largest of everybody's values."""
        return max(self.gather(value))

    def agreeing(self, stop: Callable[[], None]) -> Callable[[], None]:
        """`stop`, raised on all when it is raised on one; every process must call it as often."""
        if self.size == 1:
            return stop

        def agreed() -> None:
            asked: BaseException | None = None
            try:
                stop()
            except KeyboardInterrupt as error:
                asked = error
            (total,) = self.sum(float(asked is not None))
            if total:
                raise asked or KeyboardInterrupt

        return agreed

    def part(self, units: Sequence[T]) -> Sequence[T]:
        """This process's share of a step's units."""
        return units if self.size == 1 else units[self.rank :: self.size]

    def same(self, parameters: Sequence[Any]) -> None:
        """Give everybody the chief's trained weights."""
        if self.size > 1:
            for parameter in parameters:
                dist.broadcast(parameter.data, src=0)

    def combine(self, sums: StepSums, parameters: Sequence[Any]) -> StepSums:
        """Make everybody's gradients and sums those of the whole step."""
        if self.size == 1:
            return sums
        names = sorted({name for found in self.gather(tuple(sums.extra)) for name in found})
        mine = [sums.extra.get(name, 0.0) * sums.weight for name in names]
        weight, tokens, loss, *extra = self.sum(
            sums.weight, sums.tokens, sums.loss * sums.weight, *mine
        )
        if not weight:
            return sums
        # what lies in parts has been added up on the way, and by whole counts
        ours = [parameter for parameter in parameters if not is_part(parameter)]
        for bucket in _buckets(ours):
            for parameter in bucket:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            flat = torch.cat([parameter.grad.reshape(-1) for parameter in bucket])
            if not self.in_step:
                flat.mul_(sums.weight / weight)
            dist.all_reduce(flat)
            at = 0
            for parameter in bucket:
                parameter.grad.copy_(flat[at : at + parameter.numel()].view_as(parameter))
                at += parameter.numel()
        means = {name: value / weight for name, value in zip(names, extra, strict=True)}
        return StepSums(loss / weight, int(tokens), means, weight)

    def combine_eval(self, result: EvalResult | None) -> EvalResult | None:
        """The eval of all held-out units from everybody's part of them.

        Whole numbers are counts and are added up; other numbers are means.
        """
        if self.size == 1 or self.in_step:  # in step, everybody has measured all
            return result
        parts = [part for part in self.gather(result) if part is not None and part.weight]
        if not parts:
            return None
        weight = sum(part.weight for part in parts)

        def mean(values: Sequence[float]) -> float:
            each = zip(values, parts, strict=True)
            return sum(value * part.weight for value, part in each) / weight

        loss = mean([part.loss for part in parts])
        extra: dict[str, Any] = {}
        for name, first in parts[0].extra.items():
            values = [part.extra.get(name, 0) for part in parts]
            extra[name] = sum(values) if isinstance(first, int) else round(mean(values), 6)
        if "perplexity" in extra:
            extra["perplexity"] = round(math.exp(min(loss, 700.0)), 4)
        return replace(parts[0], loss=loss, extra=extra, weight=weight)


def _buckets(parameters: Sequence[Any]) -> Iterator[list[Any]]:
    """Parameters of one type, together at most `_BUCKET` numbers (or one larger parameter)."""
    bucket: list[Any] = []
    numbers = 0
    for parameter in parameters:
        other = bucket and bucket[0].dtype != parameter.dtype
        if bucket and (other or numbers + parameter.numel() > _BUCKET):
            yield bucket
            bucket, numbers = [], 0
        bucket.append(parameter)
        numbers += parameter.numel()
    if bucket:
        yield bucket


@contextmanager
def joined() -> Iterator[World]:
    """The world that the environment speaks of; left again at the end of the block.

    Raises:
        UsageError: the environment names a world and not this process's place in it.
    """
    size = int(os.environ.get("WORLD_SIZE", "1") or 1)
    if size == 1:
        yield World()
        return
    try:
        rank = int(os.environ["RANK"])
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", str(size)))
    except (KeyError, ValueError) as error:
        raise UsageError(
            "train.bad_world",
            tr("WORLD_SIZE is {size}, and RANK is not a number", size=size),
            tr("start with `slipway train ... --processes N`, torchrun or accelerate"),
        ) from error
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local_rank)
    mine = not dist.is_initialized()
    if mine:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        yield World(rank, size, local_rank, local_size)
    finally:
        if mine:
            dist.destroy_process_group()
