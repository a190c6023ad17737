"""Stage kto: good answers become likelier than the reference has them, bad ones less likely.

Kahneman-Tversky optimisation (Ethayarajh 2024, (8)), with u = log p(answer) - log p_ref(answer):

    good answers  chosen_weight   (1 - s(b (u - z)))
    bad answers   rejected_weight (1 - s(b (z - u)))

averaged over the rows of a step. z is the step's estimate of the KL divergence from the reference:
the mean of u over mismatched answers, at least 0 and without gradient. The mismatched answer of a
row is the next row's; that does not change from epoch to epoch, so its reference is asked once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from slipway.datasets import Encoded, TokenSet, lengths_of
from slipway.datasets.encoded import IGNORE
from slipway.training.batch import answer_logps, group_batches
from slipway.training.methods import Tuned
from slipway.training.objectives.base import EvalResult, Setting, StepSums
from slipway.training.objectives.reference import Reference, ReferenceModel, logps_of, reading
from slipway.training.spec import KtoSpec

_AT_ONCE = 128  # rows of an eval that are read and packed together
_SUMS = 8


class Mismatched(Sequence[Encoded]):
    """Each row's prompt with the next row's answer, cut to the longest row."""

    def __init__(self, rows: Sequence[Encoded]) -> None:
        self._rows = rows
        self._longest = max(lengths_of(rows), default=0)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        row, other = self._rows[index], self._rows[(index + 1) % len(self._rows)]
        prompt = row.input_ids[: _answer_at(row)]
        answer = other.input_ids[_answer_at(other) :]
        ids = [*prompt, *answer][: self._longest]
        labels = [IGNORE] * len(prompt) + other.labels[_answer_at(other) :]
        return Encoded(f"{row.id}~{other.id}", ids, labels[: self._longest])


def _answer_at(row: Encoded) -> int:
    """Where the answer begins."""
    return next(at for at, label in enumerate(row.labels) if label != IGNORE)


class Feedback:
    """Mean loss over the marked answers of a step.

    Args:
        ftx: weight of the good answers' own loss: the mean over them of their mean cross-entropy.
        lean: see `to_batch`; not where every document shall be disturbed on its own (dropout).
    """

    collective = True

    def __init__(
        self,
        tuned: Tuned,
        rows: Sequence[Encoded],
        heldout: Sequence[Encoded],
        spec: KtoSpec,
        ftx: float,
        pack_tokens: int,
        *,
        lean: bool,
        model: ReferenceModel,
        setting: Setting,
    ) -> None:
        self._tuned, self._spec, self._ftx, self._lean = tuned, spec, ftx, lean
        self._pack_tokens, self._setting = pack_tokens, setting
        self._device = next(tuned.model.parameters()).device
        self.lengths = lengths_of(rows)
        self.has_heldout = bool(len(heldout))
        self._model = model
        self._parts = {
            name: _Part(name, some, model, pack_tokens, self._device, setting)
            for name, some in (("train", rows), ("heldout", heldout))
        }

    def prepare(self, numbers: Iterable[int]) -> None:
        """Ask a reference that is not at hand later on."""
        if self._model.at_hand:
            return
        heldout = self._parts["heldout"]
        wanted = [
            (reference, missing)
            for part, some in (
                (self._parts["train"], list(numbers)),
                (heldout, list(range(len(heldout.rows)))),
            )
            for reference in (part.reference, part.mixed_reference)
            if (missing := reference.missing(some))
        ]
        if not wanted:
            return
        with self._model.entered() as model, torch.inference_mode():
            for reference, missing in wanted:
                reference.fill_from(model, missing, self._setting.stop)

    def gradients(self, numbers: Sequence[int], stop: Callable[[], None]) -> StepSums:
        """See `Objective`: the mean over the answers."""
        part = self._parts["train"]
        held = part.reference.of(numbers, stop)
        drift, good, rows = self._drift(part, numbers, stop)
        tally = torch.zeros(_SUMS, dtype=torch.float64)
        tokens = 0
        groups = [(part.rows[i],) for i in numbers]
        marks = part.good[list(numbers)]
        for members, batch in group_batches(
            groups, self._pack_tokens, self._device, lean=self._lean
        ):
            stop()
            tokens += batch.tokens
            with self._tuned.computing():
                logps, counts = answer_logps(self._tuned.model, batch)
            loss, sums = self._judge(logps, counts, held[members], marks[members], drift)
            if self._ftx and good:
                # the mean over the good answers of all processes, as a part of this one's mean
                own = torch.where(marks[members].to(loss.device), -logps / counts, 0.0)
                loss = loss + self._ftx * own * (rows / good)
            (loss.sum() / len(numbers)).backward()
            sums[0] = float(loss.detach().double().sum())
            tally += sums
        found = self._told(tally, drift)
        mean = float(tally[0]) / max(1, len(numbers))
        return StepSums(mean, tokens, found, float(len(numbers)))

    def evaluate(self, stop: Callable[[], None]) -> EvalResult | None:
        """See `Objective`."""
        part = self._parts["heldout"]
        numbers = list(range(len(part.rows)))
        held = part.reference.of(numbers, stop)
        drift, good, rows = self._drift(part, numbers, stop)
        if not rows:
            return None
        tally = torch.zeros(_SUMS, dtype=torch.float64)
        with reading(self._tuned):
            for start in range(0, len(numbers), _AT_ONCE):
                some = numbers[start : start + _AT_ONCE]
                groups = [(part.rows[i],) for i in some]
                packs = group_batches(groups, self._pack_tokens, self._device, lean=True)
                for members, batch in packs:
                    stop()
                    logps, counts = answer_logps(self._tuned.model, batch)
                    at = [some[member] for member in members]
                    loss, sums = self._judge(logps, counts, held[at], part.good[at], drift)
                    if self._ftx and good:
                        own = torch.where(part.good[at].to(loss.device), -logps / counts, 0.0)
                        loss = loss + self._ftx * own * (rows / good)
                    sums[0] = float(loss.double().sum())
                    tally += sums
        told = {name: round(value, 6) for name, value in self._told(tally, drift).items()}
        mean = float(tally[0]) / max(1, len(numbers))
        return EvalResult(mean, {**told, "rows": len(numbers)}, float(len(numbers)))

    def _drift(
        self, part: _Part, numbers: Sequence[int], stop: Callable[[], None]
    ) -> tuple[float, float, float]:
        """z of some rows; and how many of them are good, and how many there are, of all processes.

        Without dropout and noise, so that z is the same however the rows fall into packs.
        """
        held = part.mixed_reference.of(numbers, stop)
        rows = [part.mixed[i] for i in numbers]
        with reading(self._tuned):
            now = logps_of(self._tuned.model, rows, self._pack_tokens, self._device, stop)
        good = float(part.good[list(numbers)].sum())
        above, count, good = self._setting.sum(float((now - held).sum()), float(len(rows)), good)
        return max(0.0, above / max(1.0, count)), good, count

    def _judge(
        self, logps: Tensor, counts: Tensor, held: Tensor, good: Tensor, drift: float
    ) -> tuple[Tensor, Tensor]:
        """The loss of each answer, and sums for what is told; the first of them is left open."""
        spec = self._spec
        held, good = held.to(logps.device, logps.dtype), good.to(logps.device)
        reward = spec.beta * (logps - held)
        beyond = reward - spec.beta * drift
        loss = torch.where(
            good,
            spec.chosen_weight * (1 - torch.sigmoid(beyond)),
            spec.rejected_weight * (1 - torch.sigmoid(-beyond)),
        )
        reward, logps = reward.detach().double(), logps.detach().double()
        right = torch.where(good, beyond > 0, beyond < 0)
        zero = torch.zeros((), dtype=torch.float64, device=loss.device)
        sums = [zero, right.double().sum()]
        for some in (good, ~good):
            sums += [some.double().sum(), reward[some].sum(), logps[some].sum()]
        return loss, torch.stack(sums).cpu()

    def _told(self, tally: Tensor, drift: float) -> dict[str, float]:
        """What is told beside the loss, of all processes together."""
        right, good, up, up_logps, bad, down, down_logps = self._setting.sum(*tally[1:].tolist())
        told = {"accuracy": right / max(1.0, good + bad), "kl": drift}
        if good:
            told |= {"reward_chosen": up / good, "logps_chosen": up_logps / good}
        if bad:
            told |= {"reward_rejected": down / bad, "logps_rejected": down_logps / bad}
        if good and bad:
            told["margin"] = up / good - down / bad
        return told


class _Part:
    """Rows, which of them are good, and what the reference says of them."""

    def __init__(
        self,
        name: str,
        rows: Sequence[Encoded],
        model: ReferenceModel,
        pack_tokens: int,
        device: torch.device,
        setting: Setting,
    ) -> None:
        self.rows, self.mixed = rows, Mismatched(rows)
        marks = rows.desirable if isinstance(rows, TokenSet) else None
        self.good = torch.tensor([] if marks is None else marks.tolist(), dtype=torch.bool)

        def reference(some: Sequence[Encoded], kept: str) -> Reference:
            path = setting.folder / f"{kept}.f64" if setting.folder else None
            return Reference(model, some, path, pack_tokens, device, setting.tell)

        self.reference = reference(rows, name)
        self.mixed_reference = reference(self.mixed, f"{name}-mismatched")
