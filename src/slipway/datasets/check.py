"""Is a dataset fit to train on? Every fault with its place, and likeness shown with numbers.

Errors (the dataset is not ok): a row that cannot be read or breaks the rules, an id used twice, a
conversation that stands twice, a held-out question that also stands in train. Warnings: pairs that
are nearly the same, keys that are not used, no held-out split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slipway.core.i18n import Text, tr
from slipway.datasets.load import Loaded, read_file, read_registered
from slipway.datasets.model import RowProblem, Sample, Split
from slipway.datasets.rows import split_files
from slipway.datasets.similarity import Comparison, Likeness, Method, between, normalise, within

QUESTION_THRESHOLD = 0.8
CONVERSATION_THRESHOLD = 0.85


@dataclass(frozen=True, slots=True)
class SimilarPair:
    """Two rows and how alike they are.

    Attributes:
        what: "question" (first user turns) or "conversation" (all turns).
        similarity: Jaccard index of their shingles, 0 to 1.
        left_text, right_text: the questions.
    """

    what: str
    left: Sample
    right: Sample
    similarity: float
    left_text: str
    right_text: str

    def as_json(self) -> dict[str, object]:
        """The pair for `--json`: rows as `file:line`."""
        return {
            "what": self.what,
            "similarity": round(self.similarity, 4),
            "left": {"id": self.left.id, "row": _place(self.left), "text": self.left_text},
            "right": {"id": self.right.id, "row": _place(self.right), "text": self.right_text},
        }


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was found.

    Attributes:
        rows: good rows per split.
        formats: split -> recognised format.
        errors: every fault, in file order.
        warnings: what does not forbid training.
        near_duplicates: pairs within train at or above the thresholds, most alike first.
        most_similar: per comparison ("question", "conversation", "leak") the pair most alike,
            whatever its value, so that "no near-duplicates" stands with its number.
        leaks: held-out questions (first user turn) found among train's user turns; also errors.
        method: whether every pair was compared, or those that MinHash proposed.
    """

    path: Path
    rows: dict[Split, int]
    formats: dict[Split, str]
    errors: list[RowProblem]
    warnings: list[Text]
    near_duplicates: list[SimilarPair]
    most_similar: dict[str, SimilarPair]
    leaks: list[SimilarPair]
    method: Method
    thresholds: dict[str, float] = field(
        default_factory=lambda: {
            "question": QUESTION_THRESHOLD,
            "conversation": CONVERSATION_THRESHOLD,
            "leak": QUESTION_THRESHOLD,
        }
    )

    @property
    def ok(self) -> bool:
        """Whether the dataset can be trained on: no errors."""
        return not self.errors

    def as_json(self) -> dict[str, Any]:
        """The report as a JSON document; a stable shape."""
        return {
            "ok": self.ok,
            "path": str(self.path),
            "rows": dict(self.rows),
            "formats": dict(self.formats),
            "errors": [problem.as_json() for problem in self.errors],
            "warnings": [warning.en for warning in self.warnings],
            "near_duplicates": [pair.as_json() for pair in self.near_duplicates],
            "most_similar": {what: pair.as_json() for what, pair in self.most_similar.items()},
            "leaks": [pair.as_json() for pair in self.leaks],
            "method": self.method,
            "thresholds": self.thresholds,
        }


def check_dataset(path: Path, info: str | None = None) -> CheckReport:
    """Check a dataset folder or file to its end.

    Args:
        path: a folder with `train.jsonl` and perhaps `heldout.jsonl`, or one file.
        info: then `path` is a name in this registry; see `datasets.registry`.

    Raises:
        NotFoundError: there is no dataset at `path`.
    """
    loaded: dict[Split, Loaded] = (
        {split: read_file(file) for split, file in split_files(path).items()}
        if info is None
        else {"train": read_registered(info, str(path))}
    )
    train = loaded["train"].samples
    heldout = loaded["heldout"].samples if "heldout" in loaded else []
    errors = [problem for one in loaded.values() for problem in one.problems]
    errors += _same_ids(train, heldout) + _same_conversations([*train, *heldout])

    near, most_similar, method = _near_duplicates(train)
    leaks, closest = _leaks(heldout, train)
    if closest:
        most_similar["leak"] = closest
    errors += [_leak_problem(leak) for leak in leaks]
    return CheckReport(
        path=path,
        rows={split: len(one.samples) for split, one in loaded.items()},
        formats={split: one.format or "unknown" for split, one in loaded.items()},
        errors=errors,
        warnings=_warnings(loaded, near, registered=info is not None),
        near_duplicates=near,
        most_similar=most_similar,
        leaks=leaks,
        method=method,
    )


def first_question(sample: Sample) -> str:
    """The first user turn."""
    return next((m.content for m in sample.messages if m.role == "user"), "")


def _conversation(sample: Sample) -> str:
    # a shared system prompt would make all rows look alike
    return "\n".join(m.content for m in sample.messages if m.role != "system")


def _place(sample: Sample) -> str:
    return f"{sample.file.name}:{sample.line}"


def _same_ids(train: Sequence[Sample], heldout: Sequence[Sample]) -> list[RowProblem]:
    seen = {sample.id: sample for sample in train}
    return [
        RowProblem(
            sample.file,
            sample.line,
            "id",
            "duplicate_id",
            tr("the id `{id}` was used in {row}", id=sample.id, row=_place(seen[sample.id])),
        )
        for sample in heldout
        if sample.id in seen
    ]


def _same_conversations(samples: Sequence[Sample]) -> list[RowProblem]:
    seen: dict[tuple[tuple[str, str], ...], Sample] = {}
    problems = []
    for sample in samples:
        key = tuple((m.role, normalise(m.content)) for m in sample.messages if m.role != "system")
        first = seen.setdefault(key, sample)
        if first is not sample:
            reason = tr("the same conversation as {row}", row=_place(first))
            problems.append(RowProblem(sample.file, sample.line, "", "duplicate_row", reason))
    return problems


def _near_duplicates(
    train: Sequence[Sample],
) -> tuple[list[SimilarPair], dict[str, SimilarPair], Method]:
    questions = within([first_question(sample) for sample in train], QUESTION_THRESHOLD)
    whole = within([_conversation(sample) for sample in train], CONVERSATION_THRESHOLD)
    most_similar: dict[str, SimilarPair] = {}
    pairs: dict[tuple[int, int], SimilarPair] = {}
    comparisons: dict[str, Comparison] = {"question": questions, "conversation": whole}
    for what, comparison in comparisons.items():
        if comparison.best:
            most_similar[what] = _pair(what, comparison.best, train, train)
        for found in comparison.pairs:
            pairs.setdefault((found.left, found.right), _pair(what, found, train, train))
    near = sorted(pairs.values(), key=lambda pair: -pair.similarity)
    return near, most_similar, questions.method


def _pair(
    what: str, found: Likeness, left: Sequence[Sample], right: Sequence[Sample]
) -> SimilarPair:
    a, b = left[found.left], right[found.right]
    return SimilarPair(what, a, b, found.similarity, first_question(a), first_question(b))


def _leaks(
    heldout: Sequence[Sample], train: Sequence[Sample]
) -> tuple[list[SimilarPair], SimilarPair | None]:
    """Held-out first questions against every user turn of train."""
    asked = [(sample, m.content) for sample in train for m in sample.messages if m.role == "user"]
    questions = [first_question(sample) for sample in heldout]
    compared = between(questions, [text for _, text in asked], QUESTION_THRESHOLD)

    def pair(found: Likeness) -> SimilarPair:
        sample, text = asked[found.right]
        question = questions[found.left]
        return SimilarPair("leak", heldout[found.left], sample, found.similarity, question, text)

    nearest: dict[int, Likeness] = {}
    for found in compared.pairs:  # most alike first: one leak for each held-out row
        nearest.setdefault(found.left, found)
    return [pair(found) for found in nearest.values()], pair(
        compared.best
    ) if compared.best else None


def _leak_problem(leak: SimilarPair) -> RowProblem:
    reason = tr(
        "the held-out question also stands in {row} (similarity {similarity})",
        row=_place(leak.right),
        similarity=f"{leak.similarity:.2f}",
    )
    return RowProblem(leak.left.file, leak.left.line, "", "leak", reason)


def _warnings(
    loaded: dict[Split, Loaded], near: Sequence[SimilarPair], *, registered: bool
) -> list[Text]:
    found: list[Text] = []
    for one in loaded.values():
        for key, count in sorted(one.unused_keys.items()):
            name = one.file.name
            found.append(
                tr(
                    "{file}: the key `{key}` is not used ({count} rows)",
                    file=name,
                    key=key,
                    count=count,
                )
            )
    if "heldout" not in loaded and not registered:
        found.append(tr("there is no heldout.jsonl, so nothing is kept for the test"))
    if near:
        found.append(tr("{count} pairs of rows are nearly the same", count=len(near)))
    return found
