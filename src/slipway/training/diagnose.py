"""What goes wrong in training, seen in the numbers it gives anyway: cause, and what to change.

Pure functions of values and of a short memory of the last steps; `Watch` only keeps that memory.
A finding is told as an event of type `diagnosis`, and ends the run when it cannot recover.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from slipway.core.errors import ProofError, ResourceError
from slipway.core.i18n import Text, tr
from slipway.training.diagnose_words import words

Severity = Literal["warning", "stop"]

# (stage group, method) -> the learning rates that make sense for AdamW, and why
_RATES: dict[tuple[str, str], tuple[float, float]] = {
    ("sft", "lora"): (1e-5, 2e-3),
    ("sft", "oft"): (1e-5, 2e-3),
    ("sft", "freeze"): (1e-6, 2e-4),
    ("sft", "full"): (1e-6, 1e-4),
    ("preference", "lora"): (1e-7, 5e-5),
    ("preference", "oft"): (1e-7, 5e-5),
    ("preference", "freeze"): (1e-8, 1e-5),
    ("preference", "full"): (1e-8, 1e-5),
    ("rm", "lora"): (1e-6, 5e-4),
    ("rm", "oft"): (1e-6, 5e-4),
    ("rm", "freeze"): (1e-6, 1e-4),
    ("rm", "full"): (1e-7, 5e-5),
}
_GROUPS = {"pt": "sft", "sft": "sft", "dpo": "preference", "kto": "preference", "rm": "rm"}
_ADAM = frozenset({"adamw", "adamw_8bit", "galore", "apollo"})


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    Attributes:
        code: stable name, such as `loss_exploded`.
        params: the measured values its words are made of.
    """

    code: str
    params: dict[str, Any] = field(default_factory=dict)
    severity: Severity = "warning"
    step: int | None = None

    @property
    def cause(self) -> Text:
        """What is seen, and what it comes from."""
        return words(self.code, self.params)[0]

    @property
    def remedy(self) -> Text:
        """What to change."""
        return words(self.code, self.params)[1]

    def as_event(self) -> dict[str, Any]:
        """The data of its event."""
        return {
            "code": self.code,
            "severity": self.severity,
            "step": self.step,
            "message": self.cause.en,
            "hint": self.remedy.en,
            "params": self.params,
        }

    def as_error(self) -> ProofError:
        """The error that ends the run."""
        return ProofError(f"train.{self.code}", self.cause, self.remedy)


def words_of(event: dict[str, Any]) -> tuple[Text | str, Text | str]:
    """Cause and remedy of a `diagnosis` event in the reader's language.

    Those of a newer version's codes are in English, as they stand in the event.
    """
    try:
        return words(str(event["code"]), dict(event["params"]))
    except (KeyError, TypeError, ValueError):
        return str(event.get("message", "")), str(event.get("hint", ""))


def rate_range(stage: str, method: str) -> tuple[float, float] | None:
    """The learning rates that make sense; None where we know of no rule (rloo, grpo)."""
    group = _GROUPS.get(stage)
    return _RATES.get((group, method)) if group else None


def check_rate(rate: float, *, stage: str, method: str, optimizer: str = "adamw") -> Finding | None:
    """Whether a learning rate is out of the range of its stage and method."""
    limits = rate_range(stage, method) if optimizer in _ADAM else None
    if limits is None or limits[0] * 0.999 <= rate <= limits[1] * 1.001:
        return None
    code = "rate_too_high" if rate > limits[1] else "rate_too_low"
    return Finding(
        code,
        {"rate": rate, "low": limits[0], "high": limits[1], "stage": stage, "method": method},
    )


def check_trainable(weights: int, *, method: str) -> Finding | None:
    """Whether anything is trained at all."""
    if weights > 0:
        return None
    return Finding("nothing_trained", {"method": method}, "stop")


def check_truncation(truncated: int, rows: int, cutoff: int, longest: int) -> Finding | None:
    """Whether most rows are cut: from half of them on the answers' ends are not learned.

    Args:
        longest: tokens of the longest row before it was cut.
    """
    if rows == 0 or truncated < max(1, rows / 2):
        return None
    code = "all_truncated" if truncated >= rows else "many_truncated"
    return Finding(
        code, {"truncated": truncated, "rows": rows, "cutoff": cutoff, "longest": longest}
    )


def check_memory(used: int, total: int, *, pack_tokens: int, fixed: int = 0) -> Finding | None:
    """Whether the machine's memory is about to run out.

    Args:
        used: bytes of this process.
        total: bytes of the machine (or of the container, or of the device).
        fixed: bytes that do not shrink with `pack_tokens`: weights, optimiser.
    """
    if total <= 0 or used < 0.92 * total:
        return None
    return Finding(
        "memory_tight",
        {
            "used": used,
            "total": total,
            "pack_tokens": pack_tokens,
            "better": smaller_pack(pack_tokens, used, round(0.75 * total), fixed),
        },
    )


def smaller_pack(pack_tokens: int, used: int, wanted: int, fixed: int) -> int:
    """The `pack_tokens` at which a process needs `wanted` bytes, if all but `fixed` scales.

    At most half of what it was, rounded down to a multiple of 64, and at least 64.
    """
    variable = max(1, used - fixed)
    scaled = pack_tokens * max(0, wanted - fixed) / variable
    return max(64, int(min(scaled, pack_tokens / 2)) // 64 * 64)


def asked_bytes(message: str) -> int | None:
    """The bytes that an allocator could not give, by its message; None when it does not say."""
    found = _ASKED.search(message)
    if not found:
        return None
    return int(float(found[1]) * _UNITS[found[2].lower()])


_ASKED = re.compile(r"ried to allocate ([\d.]+) (bytes|[KMGT]iB)", re.IGNORECASE)
_UNITS = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def out_of_memory(
    message: str,
    *,
    used: int,
    limit: int,
    fixed: int,
    pack_tokens: int,
    offers: Collection[str] = (),
) -> ResourceError:
    """The error of a step that did not fit, with what to change and by how much.

    Args:
        message: the allocator's.
        used: bytes in use when it happened.
        limit: bytes there are.
        fixed: bytes in use before the first step: weights and what else does not shrink.
        offers: keys that could still be set: `checkpointing`, `quant.bits`.
    """
    asked = asked_bytes(message) or 0
    numbers = {"used": used / 1e9, "asked": asked / 1e9, "limit": limit / 1e9, "n": pack_tokens}
    words = tr(
        "there is not enough memory for {n} tokens at once: {used:.2f} GB are in use and "
        "{asked:.2f} GB more were asked for, of {limit:.2f} GB",
        **numbers,
    )
    if fixed > 0.85 * limit or pack_tokens <= 64:
        hint = (
            tr("the model alone takes {fixed:.2f} GB: set quant.bits=4", fixed=fixed / 1e9)
            if "quant.bits" in offers
            else tr(
                "the model alone takes {fixed:.2f} GB; `slipway fit` says what fits here",
                fixed=fixed / 1e9,
            )
        )
        return ResourceError("train.out_of_memory", words, hint)
    better = smaller_pack(pack_tokens, used + asked, round(0.9 * limit), fixed)
    hint = (
        tr("run it again with `pack_tokens={n}`, or with `checkpointing=on`", n=better)
        if "checkpointing" in offers
        else tr("run it again with `pack_tokens={n}`", n=better)
    )
    return ResourceError("train.out_of_memory", words, hint)


def was_killed_for_memory(used: int | None, total: int) -> Finding | None:
    """Of a run whose process vanished without a word: whether memory was the likely reason."""
    if not used or total <= 0 or used < 0.8 * total:
        return None
    return Finding("probably_killed", {"used": used, "total": total})


@dataclass(slots=True)
class Watch:
    """Looks at each metric of a run and tells what is wrong, each thing once.

    Attributes:
        stage: of the recipe; a preference loss may rightly come near zero.
        evals: eval losses from the first on.
    """

    stage: str = "sft"
    max_grad_norm: float = 1.0
    first: list[float] = field(default_factory=list)
    level: float | None = None
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_LAST))
    norms: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    speeds: list[float] = field(default_factory=list)
    evals: list[float] = field(default_factory=list)
    told: set[str] = field(default_factory=set)
    steps: int = 0

    def observe(self, event: dict[str, Any]) -> list[Finding]:
        """What an event shows that was not told before."""
        if event.get("type") == "diagnosis":
            self.told.add(str(event.get("code")))
            return []
        if event.get("type") != "metric":
            return []
        step = int(event.get("step", 0))
        found = self._eval(event) if event.get("kind") == "eval" else self._step(event)
        new = [finding for finding in found if finding.code not in self.told]
        self.told.update(finding.code for finding in new)
        return [Finding(f.code, f.params, f.severity, step) for f in new]

    def _eval(self, event: dict[str, Any]) -> list[Finding]:
        self.evals.append(float(event["loss"]))
        found = eval_rises(self.evals)
        return [found] if found else []

    def _step(self, event: dict[str, Any]) -> list[Finding]:
        loss, norm = float(event["loss"]), float(event.get("grad_norm", 0.0))
        self.steps += 1
        if len(self.first) < _FIRST:
            self.first.append(loss)
        self.recent.append(loss)
        if len(self.recent) >= 5:
            level = median(list(self.recent)[-5:])
            self.level = level if self.level is None else min(self.level, level)
        found = [
            loss_is_zero(self.recent, self.stage),
            loss_explodes(self.level, self.recent, self.stage),
            gradient_explodes(self.norms, norm, self.max_grad_norm),
            loss_stands_still(
                self.first, self.recent, self.steps, int(event.get("total_steps") or 0), self.stage
            ),
        ]
        self.norms.append(norm)
        if event.get("tokens_per_s"):
            self.speeds.append(float(event["tokens_per_s"]))
            found.append(speed_collapses(self.speeds))
            del self.speeds[:-_SPEEDS]
        return [finding for finding in found if finding]


_FIRST = 5
_LAST = 20
_SPEEDS = 400


def loss_is_zero(recent: deque[float], stage: str) -> Finding | None:
    """Three steps with a loss of nothing; in preference stages it may be small, but not zero."""
    last = list(recent)[-3:]
    limit = 1e-6 if stage in ("pt", "sft") else 0.0
    if stage in ("rloo", "grpo"):  # equal rewards have no loss, and that is in order
        return None
    if len(last) < 3 or any(abs(loss) > limit for loss in last):
        return None
    return Finding("loss_zero", {"loss": last[-1]}, "stop")


def loss_explodes(level: float | None, recent: deque[float], stage: str) -> Finding | None:
    """The loss is far above its best level, for five steps and not in one bad batch.

    Args:
        level: the lowest median of five steps in a row, so far.
    """
    last = list(recent)[-5:]
    if level is None or len(last) < 5 or stage not in ("pt", "sft"):
        return None
    now = min(last)
    params = {"start": round(level, 4), "now": round(now, 4)}
    if now > max(3 * level, level + 4.0):
        return Finding("loss_exploded", params, "stop")
    if now > max(1.3 * level, level + 0.5):
        return Finding("loss_rises", params)
    return None


def loss_stands_still(
    first: list[float], recent: deque[float], steps: int, total: int, stage: str
) -> Finding | None:
    """Past a third of the run (and 40 steps) the loss is where it was at the start."""
    if steps < max(40, total / 3) or len(recent) < _LAST or stage not in ("pt", "sft"):
        return None
    start, now = sum(first) / len(first), sum(recent) / len(recent)
    if now < 0.98 * start or start < 0.05 or now > 1.3 * start:
        return None
    return Finding("loss_stands_still", {"start": round(start, 4), "now": round(now, 4)})


def gradient_explodes(before: deque[float], norm: float, limit: float) -> Finding | None:
    """A gradient twenty times as long as usual, and far beyond where it is clipped."""
    if len(before) < 10 or not math.isfinite(norm):
        return None
    usual = median(before)
    if norm < 20 * usual or norm < 10 * limit:
        return None
    return Finding("gradient_exploded", {"norm": round(norm, 3), "usual": round(usual, 3)})


def speed_collapses(speeds: list[float]) -> Finding | None:
    """The last ten steps ran at less than 0.4 of the speed before."""
    if len(speeds) < 30:
        return None
    before, now = median(speeds[:-10]), median(speeds[-10:])
    if now > 0.4 * before:
        return None
    return Finding("speed_collapsed", {"before": round(before, 1), "now": round(now, 1)})


def eval_rises(evals: list[float]) -> Finding | None:
    """The two newest evals are worse than the best by more than one per cent, and rising."""
    if len(evals) < 3:
        return None
    best = min(evals)
    if not evals[-1] > evals[-2] > best + 0.01 * abs(best):  # (a reward's is below zero)
        return None
    return Finding(
        "eval_rises",
        {"best": round(best, 4), "now": round(evals[-1], 4), "evals_ago": evals[::-1].index(best)},
    )
