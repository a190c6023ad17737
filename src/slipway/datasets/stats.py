"""A dataset in numbers: rows, turns, languages, topics and, with a tokenizer, tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from slipway.datasets.encode import EncodedSet, LongRow, encode_all
from slipway.datasets.load import dataset_digest, load_dataset
from slipway.datasets.model import Sample, Split
from slipway.datasets.rows import split_files
from slipway.datasets.similarity import cjk_share, normalise

DEFAULT_CUTOFF = 1024
_BINS = 12


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
        learned_share: learned tokens over all tokens, after the cut-off.
        over_cutoff: rows longer than the cut-off, each with its place.
        dropped: those of them in which nothing to learn is left.
        histogram: [from, to) in tokens and the number of rows.
    """

    cutoff_len: int
    per_row: Spread
    learned: int
    learned_share: float
    over_cutoff: list[LongRow]
    dropped: list[LongRow]
    histogram: list[tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class SplitStats:
    """One split in numbers.

    Attributes:
        turns: user and assistant turns.
        chars: characters of all turns.
        words: words, and single characters of Chinese, Japanese or Korean.
        languages: "cjk", "other" and "mixed" (5 to 50 % CJK) -> rows.
        cjk_share: of all letters.
    """

    rows: int
    turns: int
    single_turn: int
    multi_turn: int
    with_system: int
    chars: Spread
    words: Spread
    answer_chars: Spread
    topics: dict[str, int]
    languages: dict[str, int]
    cjk_share: float
    tokens: TokenStats | None = None


@dataclass(frozen=True, slots=True)
class DatasetStats:
    """A dataset in numbers, per split."""

    path: Path
    digest: str
    splits: dict[Split, SplitStats] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The numbers as a JSON document; a stable shape."""
        return {**asdict(self), "path": str(self.path)}


def dataset_stats(
    path: Path, tokenizer: Any = None, cutoff_len: int = DEFAULT_CUTOFF
) -> DatasetStats:
    """Count a dataset.

    Args:
        tokenizer: from `load_tokenizer`; without it there are no token numbers.
        cutoff_len: tokens at which training would cut a row.

    Raises:
        NotFoundError: there is no dataset at `path`.
        InputError: the first bad row.
    """
    stats = DatasetStats(path, dataset_digest(path))
    for split in split_files(path):
        samples = load_dataset(path, split)
        stats.splits[split] = _count(samples, tokenizer, cutoff_len)
    return stats


def _count(samples: Sequence[Sample], tokenizer: Any, cutoff_len: int) -> SplitStats:
    turns = [sum(m.role != "system" for m in sample.messages) for sample in samples]
    texts = ["\n".join(m.content for m in sample.messages) for sample in samples]
    answers = [
        sum(len(m.content) for m in sample.messages if m.role == "assistant") for sample in samples
    ]
    return SplitStats(
        rows=len(samples),
        turns=sum(turns),
        single_turn=sum(n <= 2 for n in turns),
        multi_turn=sum(n > 2 for n in turns),
        with_system=sum(sample.messages[0].role == "system" for sample in samples),
        chars=spread([sum(len(m.content) for m in sample.messages) for sample in samples]),
        words=spread([len(normalise(text).split()) for text in texts]),
        answer_chars=spread(answers),
        topics=dict(Counter(s.topic for s in samples if s.topic).most_common()),
        languages=dict(Counter(_language(text) for text in texts).most_common()),
        cjk_share=round(cjk_share("".join(texts)), 4),
        tokens=_tokens(samples, tokenizer, cutoff_len) if tokenizer is not None else None,
    )


def _language(text: str) -> str:
    share = cjk_share(text)
    return "cjk" if share > 0.5 else "mixed" if share >= 0.05 else "other"


def _tokens(samples: Sequence[Sample], tokenizer: Any, cutoff_len: int) -> TokenStats:
    encoded: EncodedSet = encode_all(samples, tokenizer, cutoff_len)
    long = [*encoded.truncated, *encoded.dropped]
    whole = {row.id: len(row.input_ids) for row in encoded.rows}
    whole.update({row.id: row.tokens for row in long})
    lengths = list(whole.values())
    return TokenStats(
        cutoff_len=cutoff_len,
        per_row=spread(lengths),
        learned=encoded.learned,
        learned_share=round(encoded.learned / encoded.tokens, 4) if encoded.tokens else 0.0,
        over_cutoff=[row for row in long if row.tokens > cutoff_len],
        dropped=encoded.dropped,
        histogram=histogram(lengths),
    )


def spread(values: Sequence[int]) -> Spread:
    """Total, mean, percentiles and maximum; zeros when there are no values."""
    if not values:
        return Spread(0, 0.0, 0, 0, 0)
    ordered = sorted(values)

    def rank(percent: int) -> int:
        return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]

    mean = round(sum(ordered) / len(ordered), 2)
    return Spread(sum(ordered), mean, rank(50), rank(95), ordered[-1])


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
