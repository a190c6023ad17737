"""Log-probabilities under the reference, computed once for each row and kept in the run folder.

The reference is the model before training, or `preference.ref_model`. A method that can go back to
the model before training (LoRA: adapter off) is asked for them when a row is first met; for others
they must be known before the first step, because afterwards that model is gone.

The file holds one fp64 per row, NaN where nothing is known. A resumed run reads what it wrote, so
its losses are bit for bit those of an uninterrupted one.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from slipway.core.errors import ConflictError
from slipway.core.files import write_bytes
from slipway.core.i18n import tr
from slipway.datasets import Encoded
from slipway.training.batch import answer_logps, group_batches
from slipway.training.methods import Tuned

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AT_ONCE = 64  # rows that are read and packed together
_TELL_EVERY_S = 5.0


class ReferenceModel(Protocol):
    """Who answers what the reference would say.

    Attributes:
        at_hand: it can be asked at any time and at no cost besides the forward pass.
    """

    at_hand: bool

    def entered(self) -> AbstractContextManager[Any]:
        """The model, in evaluation mode, while entered."""


class Before:
    """The model before training."""

    def __init__(self, tuned: Tuned) -> None:
        self._tuned = tuned
        self.at_hand = tuned.reference() is not None
        self._first = self._fingerprint()

    def _fingerprint(self) -> tuple[float, float]:
        """Of two trained tensors; every step of an optimiser changes them."""
        first, last = self._tuned.parameters[0], self._tuned.parameters[-1]
        return float(first.detach().double().sum()), float(last.detach().double().sum())

    @contextmanager
    def entered(self) -> Iterator[Any]:
        """See `ReferenceModel`.

        Raises:
            ConflictError: the weights were trained on, and the method cannot go back.
        """
        back = self._tuned.reference()
        if back is None and self._fingerprint() != self._first:
            raise ConflictError(
                "run.reference_lost",
                tr("the run's record of its reference model is gone, and so is that model"),
                tr("start anew with `--fresh`"),
            )
        model, training = self._tuned.model, self._tuned.model.training
        model.eval()
        try:
            with self._tuned.computing():
                if back is None:
                    yield model
                else:
                    with back:
                        yield model
        finally:
            model.train(training)


class Other:
    """Another model, loaded when it is asked and given up afterwards."""

    at_hand = False

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load

    @contextmanager
    def entered(self) -> Iterator[Any]:
        """See `ReferenceModel`."""
        model = self._load()
        try:
            yield model
        finally:
            del model
            gc.collect()


def known_values(path: Path | None, count: int) -> NDArray[Any]:
    """`count` fp64 values that live in a file, or in memory without one; NaN where unknown.

    Raises:
        ResourceError: the disk is full.
    """
    import numpy as np

    if path is None or not count:
        return np.full(count, np.nan)
    if not path.is_file() or path.stat().st_size != 8 * count:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, np.full(count, np.nan, dtype="<f8").tobytes())
    return np.memmap(path, "<f8", mode="r+")


@contextmanager
def reading(tuned: Tuned) -> Iterator[None]:
    """While entered the model is only read: no dropout, no noise, no gradient."""
    model, training = tuned.model, tuned.model.training
    model.eval()
    try:
        with torch.inference_mode(), tuned.computing():
            yield
    finally:
        model.train(training)


def logps_of(
    model: Any,
    rows: Sequence[Encoded],
    pack_tokens: int,
    device: torch.device,
    stop: Callable[[], None],
) -> Tensor:
    """The sum of the log-probabilities of each row's labels: [rows], fp64, on the CPU.

    Without gradient, and in whatever mode the model is.
    """
    found = torch.zeros(len(rows), dtype=torch.float64)
    groups = [(row,) for row in rows]
    with torch.inference_mode():
        for members, batch in group_batches(groups, pack_tokens, device, lean=True):
            stop()
            sums, _ = answer_logps(model, batch)
            found[members] = sums.double().cpu()
    return found


class Reference:
    """What the reference says of the answers of some rows.

    Args:
        rows: anything with a length that gives a row by its number.
        path: where it is kept; None: in memory.
        tell: gets (rows done, rows to do) now and then.
    """

    def __init__(
        self,
        model: ReferenceModel,
        rows: Sequence[Encoded],
        path: Path | None,
        pack_tokens: int,
        device: torch.device,
        tell: Callable[[int, int], None],
    ) -> None:
        self.model, self._rows, self._pack_tokens = model, rows, pack_tokens
        self._device, self._tell = device, tell
        self._known = known_values(path, len(rows))

    def missing(self, numbers: Sequence[int]) -> list[int]:
        """Those of the rows that are not known yet."""
        import numpy as np

        wanted = np.asarray(numbers, dtype=np.int64)
        return [int(n) for n in wanted[np.isnan(self._known[wanted])]]

    def fill(self, numbers: Sequence[int], stop: Callable[[], None]) -> None:
        """Ask the reference for what is missing.

        Raises:
            ConflictError: it is gone.
        """
        if missing := self.missing(numbers):
            with self.model.entered() as model, torch.inference_mode():
                self.fill_from(model, missing, stop)

    def fill_from(self, model: Any, numbers: Sequence[int], stop: Callable[[], None]) -> None:
        """Ask a model that is there already."""
        told = time.monotonic()
        for start in range(0, len(numbers), _AT_ONCE):
            part = list(numbers[start : start + _AT_ONCE])
            rows = [self._rows[number] for number in part]
            found = logps_of(model, rows, self._pack_tokens, self._device, stop)
            self._known[part] = found.numpy()
            if time.monotonic() - told > _TELL_EVERY_S:
                told = time.monotonic()
                self._tell(start + len(part), len(numbers))

    def of(self, numbers: Sequence[int], stop: Callable[[], None]) -> Tensor:
        """The sums of the answers' log-probabilities: [numbers], fp64, on the CPU."""
        import numpy as np

        self.fill(numbers, stop)
        return torch.from_numpy(np.array(self._known[list(numbers)], dtype=np.float64))
