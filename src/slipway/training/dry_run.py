"""`slipway train --dry-run`: everything that can be known before hours are spent.

The data is read and tokenised as the run would (its tokens stay in the cache for it), the model is
built without its weights, and a pack of real rows goes through a few layers of it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.datasets.model import SampleKind
from slipway.datasets.preview import Piece, pieces
from slipway.training.obeyed import require_obeyed
from slipway.training.spec import Resolved
from slipway.training.token_sets import load_tokenizer_of, require_labels, token_sets

if TYPE_CHECKING:
    from slipway.datasets import TokenSet
    from slipway.training.estimate import Estimate

PREVIEWED = 3
PAIRS_PREVIEWED = 2
_BUCKETS = 8


@dataclass(frozen=True, slots=True)
class DataReport:
    """What the rows are, as the run will see them.

    Attributes:
        kind: what the rows teach; of `preference` documents alternate chosen and rejected.
        documents: what is trained on; a row may give several.
        skipped: rows that broke the rules; `reasons` are the first.
        unread: columns that are not read -> rows that have them.
        truncated, dropped: rows that lost tokens, or all that was to learn, to the cut-off.
        histogram: (longest tokens of the bucket, documents in it), in order.
        label_tokens: tokens that are learned, of `tokens`.
        preview: the first documents; `good` says of each answer of a `feedback` set what it is.
    """

    kind: SampleKind
    documents: int
    heldout: int
    skipped: int
    reasons: tuple[str, ...]
    unread: dict[str, int]
    truncated: int
    dropped: int
    tokens: int
    label_tokens: int
    shortest: int
    median: int
    longest: int
    histogram: tuple[tuple[int, int], ...]
    preview: tuple[tuple[Piece, ...], ...]
    good: tuple[bool, ...] = ()

    @property
    def pairs(self) -> int | None:
        """Pairs of a `preference` set."""
        return self.documents // 2 if self.kind == "preference" else None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "kind": self.kind,
            "documents": self.documents,
            "pairs": self.pairs,
            "heldout_documents": self.heldout,
            "skipped_rows": self.skipped,
            "reasons": list(self.reasons),
            "unread_columns": self.unread,
            "truncated_rows": self.truncated,
            "dropped_rows": self.dropped,
            "tokens": self.tokens,
            "label_tokens": self.label_tokens,
            "lengths": {"min": self.shortest, "median": self.median, "max": self.longest},
            "histogram": [{"up_to": top, "documents": n} for top, n in self.histogram],
            "preview": [
                [{"text": piece.text, "learned": piece.learned} for piece in row]
                for row in self.preview
            ],
        }


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a run would be.

    Attributes:
        available_bytes: memory that is free now where the model would lie.
    """

    resolved: Resolved
    data: DataReport
    estimate: Estimate
    available_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the estimated peak is within what is free."""
        return self.estimate.memory.total <= self.available_bytes

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "settings": {
                key: {"value": setting.value, "origin": setting.origin}
                for key, setting in self.resolved.settings().items()
            },
            "notes": [note.en for note in self.resolved.notes],
            "data": self.data.as_json(),
            "estimate": self.estimate.as_json(),
            "available_bytes": self.available_bytes,
            "fits": self.fits,
        }


def dry_run(resolved: Resolved) -> DryRun:
    """Read the data, build the model's skeleton, and estimate.

    Raises:
        InputError, NotFoundError, UsageError: what the run itself would stop at.
    """
    import psutil

    started = time.perf_counter()
    from slipway.training.estimate.make import estimate
    from slipway.training.estimate.work import plan_work
    from slipway.training.model import pick_device

    require_obeyed(resolved.spec)
    spec, base = resolved.spec, Path(resolved.spec.model)
    tokenizer = load_tokenizer_of(spec, base)
    rows, heldout = token_sets(spec, tokenizer)
    require_labels(spec, rows)
    data = report(rows, heldout, tokenizer, spec.cutoff_len)
    process = int(psutil.Process().memory_info().rss)
    work = plan_work(spec, rows.lengths.tolist(), heldout.lengths.tolist() if heldout else [])
    found = estimate(spec, base, rows, work, process_bytes=process, started=started)
    return DryRun(resolved, data, found, _available(pick_device(), process))


def _available(device: Any, process: int) -> int:
    """Free bytes, with those that this process holds already."""
    import torch

    from slipway.core.hardware import available_memory_bytes

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory_bytes() + process


def report(rows: TokenSet, heldout: TokenSet | None, tokenizer: Any, cutoff: int) -> DataReport:
    """What a token set holds."""
    lengths = sorted(int(n) for n in rows.lengths)
    shown = range(min(2 * PAIRS_PREVIEWED if rows.kind == "preference" else PREVIEWED, len(rows)))
    return DataReport(
        kind=rows.kind,
        documents=len(rows),
        heldout=len(heldout) if heldout is not None else 0,
        skipped=int(rows.skipped.get("count", 0)) + rows.refused,
        reasons=(*(_reason(item) for item in rows.skipped.get("first", [])[:5]), *rows.reasons[:5]),
        unread=rows.unread,
        truncated=rows.truncated.count,
        dropped=rows.dropped.count,
        tokens=sum(lengths),
        label_tokens=int(rows.learned.sum()),
        shortest=lengths[0] if lengths else 0,
        median=lengths[len(lengths) // 2] if lengths else 0,
        longest=lengths[-1] if lengths else 0,
        histogram=histogram(lengths, cutoff),
        preview=tuple(pieces(rows[i].input_ids, rows[i].labels, tokenizer) for i in shown),
        good=tuple(bool(rows.desirable[i]) for i in shown) if rows.desirable is not None else (),
    )


def _reason(problem: dict[str, Any]) -> str:
    field = f" `{problem['field']}`:" if problem["field"] else ""
    return f"{problem['file']}:{problem['line']}:{field} {problem['reason']}"


def histogram(lengths: Sequence[int], cutoff: int) -> tuple[tuple[int, int], ...]:
    """Documents by length, in equal steps up to the longest (at most the cut-off)."""
    if not lengths:
        return ()
    top = min(cutoff, max(lengths))
    width = max(1, -(-top // _BUCKETS))
    counts = [0] * (-(-top // width))
    for length in lengths:
        counts[min(len(counts) - 1, (length - 1) // width)] += 1
    return tuple((min(top, (i + 1) * width), n) for i, n in enumerate(counts))
