"""Tokens of a stream of rows, counted as they pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from slipway.core.errors import InputError
from slipway.datasets.encoded import LongRow
from slipway.datasets.growing import Growing
from slipway.datasets.model import RowProblem, Sample
from slipway.datasets.rule import EncodeRule
from slipway.datasets.shingles import numpy_module

_BINS = 12
_MAX_NAMED = 1000


@dataclass(frozen=True, slots=True)
class Spread:
    """How a quantity is spread over rows; percentiles are nearest-rank."""

    total: int
    mean: float
    p50: int
    p95: int
    max: int


@dataclass(frozen=True, slots=True)
class TokenStats:
    """Tokens by the model's tokenizer and chat template, before the cut-off.

    Attributes:
        per_row: of a row that makes several documents, the longest.
        learned_share: learned tokens over all tokens, after the cut-off.
        over_cutoff: rows longer than the cut-off, each with its place; the first 1,000.
        over_count: all of them.
        dropped: rows in which nothing to learn is left, or not in each document; the first 1,000.
        histogram: [from, to) in tokens and the number of rows.
    """

    cutoff_len: int
    per_row: Spread
    learned: int
    learned_share: float
    over_cutoff: list[LongRow]
    over_count: int
    dropped: list[LongRow]
    dropped_count: int
    histogram: list[tuple[int, int, int]]

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


class TokenTally:
    """Encodes samples on their way and counts what becomes of them.

    Args:
        rule: its `pt` gives way to what the first sample is.
        on_refused: called with a row that cannot be encoded; such rows are passed on too.
    """

    def __init__(
        self,
        tokenizer: Any,
        rule: EncodeRule,
        on_refused: Callable[[RowProblem], None],
    ) -> None:
        self._tokenizer = tokenizer
        self._rule = rule
        self._on_refused = on_refused
        self._np = numpy_module()
        self._lengths = Growing(self._np, self._np.int64)
        self._tokens = self._learned = 0
        self._over: list[LongRow] = []
        self._dropped: list[LongRow] = []
        self.truncated_rows = Growing(self._np, self._np.int64)
        self.dropped_rows = Growing(self._np, self._np.int64)
        self.refused_rows = Growing(self._np, self._np.int64)

    def through(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """The same samples, counted; numbers of rows count from 0."""
        from dataclasses import replace
        from itertools import chain, islice

        from slipway.datasets.stream import encode_batches

        rest = iter(samples)
        first = list(islice(rest, 1))
        rule = replace(self._rule, pt=bool(first) and first[0].kind == "text")
        done = encode_batches(chain(first, rest), self._tokenizer, rule)
        for number, (sample, result) in enumerate(done):
            if isinstance(result, InputError):
                self.refused_rows.extend([number])
                self._on_refused(_problem(sample, result))
                yield sample
                continue
            self._lengths.extend([result.longest])
            for row in result.rows:
                self._tokens += len(row.tokens.ids)
                self._learned += sum(end - start for start, end in row.tokens.spans)
            long = LongRow(sample.id, str(sample.file), sample.line, result.longest)
            if result.longest > rule.cutoff_len and not rule.pt:
                self.truncated_rows.extend([number])
                if len(self._over) < _MAX_NAMED:
                    self._over.append(long)
            if result.dropped:
                self.dropped_rows.extend([number])
                if len(self._dropped) < _MAX_NAMED:
                    self._dropped.append(long)
            yield sample

    def stats(self) -> TokenStats:
        """The numbers so far."""
        lengths = self._lengths.array.tolist()
        return TokenStats(
            cutoff_len=self._rule.cutoff_len,
            per_row=spread(lengths),
            learned=self._learned,
            learned_share=round(self._learned / self._tokens, 4) if self._tokens else 0.0,
            over_cutoff=self._over,
            over_count=len(self.truncated_rows),
            dropped=self._dropped,
            dropped_count=len(self.dropped_rows),
            histogram=histogram(lengths),
        )


def _problem(sample: Sample, error: InputError) -> RowProblem:
    from slipway.core.i18n import Text, tr

    reason = error.message if isinstance(error.message, Text) else tr("{text}", text=error.message)
    return RowProblem(sample.file, sample.line, "", error.code, reason)


def spread(values: Sequence[int]) -> Spread:
    """Total, mean, percentiles and maximum; zeros when there are no values."""
    if not len(values):
        return Spread(0, 0.0, 0, 0, 0)
    ordered = sorted(values)

    def rank(percent: int) -> int:
        return int(ordered[max(0, -(-percent * len(ordered) // 100) - 1)])

    total = int(sum(ordered))
    return Spread(total, round(total / len(ordered), 2), rank(50), rank(95), int(ordered[-1]))


def histogram(values: Sequence[int], bins: int = _BINS) -> list[tuple[int, int, int]]:
    """Equal bins of a round width that hold all values: (from, to, count), `to` exclusive."""
    if not values:
        return []
    wanted = max(1, max(values) / bins)
    scale = 1
    while scale * 10 <= wanted:
        scale *= 10
    width = next(scale * step for step in (1, 2, 5, 10) if scale * step >= wanted)
    counts = Counter(value // width for value in values)
    return [(i * width, (i + 1) * width, counts[i]) for i in range(max(counts) + 1)]
