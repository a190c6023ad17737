"""A dataset in numbers: rows, turns, languages, topics and, with a tokenizer, tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError, NotFoundError
from slipway.datasets.growing import Growing
from slipway.datasets.load import dataset_digest
from slipway.datasets.model import RowProblem, Sample, Split
from slipway.datasets.open import open_samples
from slipway.datasets.opened import SPLITS
from slipway.datasets.rule import EncodeRule
from slipway.datasets.shingles import CJK_CHAR, numpy_module, units_of
from slipway.datasets.source import DataSource
from slipway.datasets.token_tally import Spread, TokenStats, TokenTally, spread

DEFAULT_CUTOFF = 1024
_MAX_TOPICS = 1000


@dataclass(frozen=True, slots=True)
class SplitStats:
    """One split in numbers.

    Attributes:
        turns: user and assistant turns.
        chars: characters of all turns, or of a text.
        words: words, and single characters of Chinese, Japanese or Korean.
        topics: the rows' own topics; beyond 1,000 of them the rest is not told apart.
        languages: "cjk", "other" and "mixed" (5 to 50 % CJK) -> rows.
        kinds: what rows teach (chat, preference, feedback, text) -> rows.
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
    kinds: dict[str, int]
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
    dataset: Path | DataSource,
    tokenizer: Any = None,
    cutoff_len: int = DEFAULT_CUTOFF,
    stage: str | None = None,
) -> DatasetStats:
    """Count a dataset, in memory that grows by some 40 bytes for each row.

    Args:
        dataset: a path, or a source.
        tokenizer: from `load_tokenizer`; without it there are no token numbers.
        cutoff_len: tokens at which training would cut a row.
        stage: what is learned, see `open_samples`.

    Raises:
        NotFoundError: there is no dataset at `path`.
        InputError: the first bad row.
    """
    source = dataset if isinstance(dataset, DataSource) else DataSource(path=str(dataset))
    splits: dict[Split, SplitStats] = {}
    digest = ""
    for split in SPLITS:
        try:
            stream = open_samples([source], split, stage=stage)
        except NotFoundError:
            if split == "train":
                raise
            continue
        splits[split] = _Count().all(stream, tokenizer, cutoff_len)
        digest = digest or stream.digest
    if source.info is None:
        digest = dataset_digest(Path(source.path).expanduser())
    return DatasetStats(Path(source.path), digest, splits)


class _Count:
    def __init__(self) -> None:
        np = numpy_module()
        self._chars, self._words = Growing(np, np.int64), Growing(np, np.int64)
        self._answers = Growing(np, np.int64)
        self._topics: Counter[str] = Counter()
        self._languages: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()
        self._turns = self._single = self._multi = self._system = 0
        self._cjk = self._letters = 0

    def all(self, samples: Iterable[Sample], tokenizer: Any, cutoff_len: int) -> SplitStats:
        """Count all samples of a split."""
        tally = TokenTally(tokenizer, EncodeRule(cutoff_len), _stop) if tokenizer else None
        for sample in tally.through(samples) if tally else samples:
            self._add(sample)
        return SplitStats(
            rows=len(self._chars),
            turns=self._turns,
            single_turn=self._single,
            multi_turn=self._multi,
            with_system=self._system,
            chars=spread(self._chars.array.tolist()),
            words=spread(self._words.array.tolist()),
            answer_chars=spread(self._answers.array.tolist()),
            topics=dict(self._topics.most_common()),
            languages=dict(self._languages.most_common()),
            kinds=dict(self._kinds.most_common()),
            cjk_share=round(self._cjk / self._letters, 4) if self._letters else 0.0,
            tokens=tally.stats() if tally else None,
        )

    def _add(self, sample: Sample) -> None:
        turns = sum(m.role != "system" for m in sample.messages)
        self._turns += turns
        self._single += turns <= 2
        self._multi += turns > 2
        self._system += bool(sample.messages) and sample.messages[0].role == "system"
        extra = [answer for answer in (sample.chosen, sample.rejected) if answer]
        said = [*sample.messages, *extra]
        text = sample.text or "\n".join(m.content for m in said)
        letters = sum(char.isalnum() for char in text)
        cjk = 0 if text.isascii() else len(CJK_CHAR.findall(text))
        self._cjk += cjk
        self._letters += letters
        share = cjk / letters if letters else 0.0
        self._languages["cjk" if share > 0.5 else "mixed" if share >= 0.05 else "other"] += 1
        self._kinds[sample.kind] += 1
        if sample.topic and (sample.topic in self._topics or len(self._topics) < _MAX_TOPICS):
            self._topics[sample.topic] += 1
        self._chars.extend([len(sample.text) + sum(len(m.content) for m in said)])
        self._words.extend([len(units_of(text))])
        self._answers.extend([sum(len(m.content) for m in said if m.role == "assistant")])


def _stop(problem: RowProblem) -> None:
    raise InputError(problem.code, problem.reason)
