"""Stage dpo: of two answers to a prompt the chosen one becomes likelier than the rejected one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from slipway.datasets import Encoded, lengths_of
from slipway.training.batch import answer_logps, group_batches
from slipway.training.methods import Tuned
from slipway.training.objectives.base import EvalResult, StepSums
from slipway.training.objectives.preference_losses import Judged, judge
from slipway.training.objectives.reference import Reference, ReferenceModel, reading
from slipway.training.objectives.units import rows_of, unit_lengths
from slipway.training.spec import PreferenceSpec

_AT_ONCE = 128  # pairs of an eval that are read and packed together


class Preference:
    """Mean loss over the pairs of a step. The two rows of a pair are always in one pack.

    So one pass gives loss and gradient: the weight of a pair's gradient follows from its own two
    log-probabilities, and however the pairs fall into packs their sum is the same.

    Args:
        rows, heldout: row 2i is the chosen answer of pair i, row 2i + 1 the rejected one.
        model: the reference; None for a loss without one.
        folder: where the reference's answers are kept; None: in memory.
        tell: gets (rows done, rows to do) while the reference is asked for long.
    """

    collective = False

    def __init__(
        self,
        tuned: Tuned,
        rows: Sequence[Encoded],
        heldout: Sequence[Encoded],
        spec: PreferenceSpec,
        pack_tokens: int,
        *,
        lean: bool,
        model: ReferenceModel | None,
        folder: Path | None,
        stop: Callable[[], None],
        tell: Callable[[int, int], None],
    ) -> None:
        self._tuned, self._rows, self._heldout, self._spec = tuned, rows, heldout, spec
        self._pack_tokens, self._lean, self._stop = pack_tokens, lean, stop
        self._device = next(tuned.model.parameters()).device
        self.lengths = unit_lengths("dpo", lengths_of(rows))
        self.has_heldout = bool(len(heldout))
        self._reference: dict[str, Reference] = {}
        if model is not None:
            for name, some in (("train", rows), ("heldout", heldout)):
                path = folder / f"{name}.f64" if folder else None
                self._reference[name] = Reference(
                    model, some, path, pack_tokens, self._device, tell
                )

    def prepare(self, numbers: Iterable[int]) -> None:
        """Ask a reference that is not at hand later on."""
        wanted = {"train": rows_of("dpo", numbers), "heldout": range(len(self._heldout))}
        missing = {
            name: found
            for name, reference in self._reference.items()
            if not reference.model.at_hand and (found := reference.missing(wanted[name]))
        }
        if not missing:
            return
        with self._reference["train"].model.entered() as model, torch.inference_mode():
            for name, rows in missing.items():
                self._reference[name].fill_from(model, rows, self._stop)

    def gradients(self, numbers: Sequence[int], stop: Callable[[], None]) -> StepSums:
        """See `Objective`: the mean over the pairs."""
        reference = self._of("train", numbers, stop)
        pairs = [(self._rows[2 * i], self._rows[2 * i + 1]) for i in numbers]
        tally = _Tally()
        tokens = 0
        packs = group_batches(pairs, self._pack_tokens, self._device, lean=self._lean)
        for members, batch in packs:
            stop()
            tokens += batch.tokens
            with self._tuned.computing():
                logps, counts = answer_logps(self._tuned.model, batch)
            judged = self._judge(logps, counts, reference, members)
            (judged.loss.sum() / len(numbers)).backward()
            tally.add(judged, logps)
        return StepSums(tally.loss, tokens, tally.means(), float(len(numbers)))

    def evaluate(self, stop: Callable[[], None]) -> EvalResult | None:
        """See `Objective`."""
        if not self.has_heldout:
            return None
        count = len(self._heldout) // 2
        reference = self._of("heldout", range(count), stop)
        tally = _Tally()
        with reading(self._tuned):
            for start in range(0, count, _AT_ONCE):
                part = range(start, min(count, start + _AT_ONCE))
                pairs = [(self._heldout[2 * i], self._heldout[2 * i + 1]) for i in part]
                packs = group_batches(pairs, self._pack_tokens, self._device, lean=True)
                for members, batch in packs:
                    stop()
                    logps, counts = answer_logps(self._tuned.model, batch)
                    members = [start + member for member in members]
                    tally.add(self._judge(logps, counts, reference, members), logps)
        rounded = {name: round(value, 6) for name, value in tally.means().items()}
        return EvalResult(tally.loss, {**rounded, "pairs": count}, float(count))

    def _of(self, name: str, pairs: Sequence[int], stop: Callable[[], None]) -> Tensor | None:
        """[pairs, 2], or None without a reference."""
        reference = self._reference.get(name)
        return None if reference is None else reference.of(rows_of("dpo", pairs), stop).view(-1, 2)

    def _judge(
        self, logps: Tensor, counts: Tensor, reference: Tensor | None, members: list[int]
    ) -> Judged:
        held = None
        if reference is not None:
            held = reference[members].to(logps.device, logps.dtype)
        return judge(logps.view(-1, 2), counts.view(-1, 2), held, self._spec)


class _Tally:
    """Sums over pairs, in fp64."""

    def __init__(self) -> None:
        self.pairs = 0
        self._loss = 0.0
        self._sums = torch.zeros(5, dtype=torch.float64)

    def add(self, judged: Judged, logps: Tensor) -> None:
        """Add the pairs of a pack; `logps` alternates chosen and rejected."""
        self.pairs += len(judged.loss)
        self._loss += float(judged.loss.detach().double().sum())
        right = judged.chosen > judged.rejected
        logps = logps.detach()
        values = (judged.chosen, judged.rejected, right, logps[::2], logps[1::2])
        self._sums += torch.stack([value.double().sum() for value in values]).cpu()

    @property
    def loss(self) -> float:
        """The mean over the pairs."""
        return self._loss / max(1, self.pairs)

    def means(self) -> dict[str, float]:
        """What is told beside the loss."""
        chosen, rejected, right, *logps = (self._sums / max(1, self.pairs)).tolist()
        return {
            "accuracy": right,
            "reward_chosen": chosen,
            "reward_rejected": rejected,
            "margin": chosen - rejected,
            "logps_chosen": logps[0],
            "logps_rejected": logps[1],
        }
