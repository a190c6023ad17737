"""What a check of a dataset found, as values that can be printed or written."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slipway.core.i18n import Text
from slipway.datasets.alike import THRESHOLDS
from slipway.datasets.model import RowProblem, Split
from slipway.datasets.personal import PersonalKind
from slipway.datasets.reasons import POINTS, Reason
from slipway.datasets.scan import RowRef
from slipway.datasets.sketches import Method
from slipway.datasets.token_tally import TokenStats

MAX_NAMED = 1000


@dataclass(frozen=True, slots=True)
class SimilarPair:
    """Two rows and how alike they are.

    Attributes:
        what: "question" (first user turns), "conversation" (all turns) or "leak".
        similarity: Jaccard index of their shingles, 0 to 1.
    """

    what: str
    left: RowRef
    right: RowRef
    similarity: float

    def as_json(self) -> dict[str, object]:
        """The pair for `--json`: rows as `file:line`."""
        return {
            "what": self.what,
            "similarity": round(self.similarity, 4),
            "left": {"id": self.left.id, "row": self.left.place, "text": self.left.head},
            "right": {"id": self.right.id, "row": self.right.place, "text": self.right.head},
        }


@dataclass(frozen=True, slots=True)
class Named:
    """How many rows something is true of, and the first of them."""

    count: int
    first: tuple[RowRef, ...]

    def as_json(self) -> dict[str, object]:
        """Count and places."""
        return {"rows": self.count, "first": [row.place for row in self.first]}


@dataclass(frozen=True, slots=True)
class WorstRow:
    """A row with few points."""

    row: RowRef
    score: int
    reasons: tuple[Reason, ...]

    def as_json(self) -> dict[str, object]:
        """Place, score, reasons and how it begins."""
        return {
            "row": self.row.place,
            "id": self.row.id,
            "score": self.score,
            "reasons": [str(reason) for reason in self.reasons],
            "text": self.row.head,
        }


@dataclass(frozen=True, slots=True)
class Quality:
    """The scores of a split.

    Attributes:
        mean, median: of the scores, 0 to 100.
        histogram: rows with 0-9, 10-19, ..., 90-100 points.
        reasons: reason -> rows that have it; the most frequent first.
        worst: rows with the fewest points, at most 20, none with 90 or more.
    """

    mean: float
    median: int
    histogram: tuple[int, ...]
    reasons: dict[Reason, Named]
    worst: tuple[WorstRow, ...]

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "mean": self.mean,
            "median": self.median,
            "histogram": [
                {"from": 10 * n, "to": 10 * n + 9 if n < 9 else 100, "rows": rows}
                for n, rows in enumerate(self.histogram)
            ],
            "reasons": {
                str(reason): {"points": POINTS[reason], **named.as_json()}
                for reason, named in self.reasons.items()
            },
            "worst": [row.as_json() for row in self.worst],
        }


@dataclass(frozen=True, slots=True)
class PersonalData:
    """Personal data of one kind: pieces found, and the rows that hold them."""

    pieces: int
    rows: Named

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return {"pieces": self.pieces, **self.rows.as_json()}


@dataclass(frozen=True, slots=True)
class SplitReport:
    """One split, but for its faults.

    Attributes:
        languages: see `scripts.Language` -> rows.
        units: words (or single Chinese, Japanese and Korean characters) per row: median, longest.
    """

    rows: int
    format: str
    languages: dict[str, int]
    units: tuple[int, int]
    quality: Quality
    personal: dict[PersonalKind, PersonalData]
    tokens: TokenStats | None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "rows": self.rows,
            "format": self.format,
            "languages": self.languages,
            "units": {"median": self.units[0], "longest": self.units[1]},
            "quality": self.quality.as_json(),
            "personal": {kind: data.as_json() for kind, data in self.personal.items()},
            "tokens": self.tokens.as_json() if self.tokens else None,
        }


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was found.

    Attributes:
        splits: what each holds.
        errors: what forbids training, in file order; the first 1,000.
        error_count: all of them.
        skipped: rows that cannot be read or break the rules.
        error_codes: how many errors have which code.
        warnings: what does not forbid training.
        near_duplicates: pairs within train at or above the thresholds, most alike first; the first
            1,000 of `near_count`.
        most_similar: per comparison ("question", "conversation", "leak") the pair most alike,
            whatever its value, so that "no near-duplicates" stands with its number.
        leaks: held-out questions (first user turn) found among train's user turns; also errors.
        method: whether every pair was compared, or those that MinHash proposed.
    """

    path: Path
    splits: dict[Split, SplitReport]
    errors: list[RowProblem]
    error_count: int
    skipped: int
    error_codes: Counter[str]
    warnings: list[Text]
    near_duplicates: list[SimilarPair]
    near_count: int
    most_similar: dict[str, SimilarPair]
    leaks: list[SimilarPair]
    leak_count: int
    method: Method
    thresholds: dict[str, float] = field(default_factory=lambda: {**THRESHOLDS})

    @property
    def ok(self) -> bool:
        """Whether the dataset can be trained on: no errors."""
        return not self.error_count

    @property
    def rows(self) -> dict[Split, int]:
        """Good rows per split."""
        return {split: report.rows for split, report in self.splits.items()}

    @property
    def formats(self) -> dict[Split, str]:
        """The recognised format of each split."""
        return {split: report.format for split, report in self.splits.items()}

    def as_json(self) -> dict[str, Any]:
        """The report as a JSON document; a stable shape."""
        return {
            "ok": self.ok,
            "path": str(self.path),
            "rows": dict(self.rows),
            "formats": dict(self.formats),
            "skipped_rows": self.skipped,
            "error_count": self.error_count,
            "error_codes": dict(self.error_codes.most_common()),
            "errors": [problem.as_json() for problem in self.errors],
            "warnings": [warning.en for warning in self.warnings],
            "near_duplicate_count": self.near_count,
            "near_duplicates": [pair.as_json() for pair in self.near_duplicates],
            "most_similar": {what: pair.as_json() for what, pair in self.most_similar.items()},
            "leak_count": self.leak_count,
            "leaks": [pair.as_json() for pair in self.leaks],
            "method": self.method,
            "thresholds": self.thresholds,
            "splits": {split: report.as_json() for split, report in self.splits.items()},
        }
