"""Is a dataset fit to train on? Every fault with its place, likeness and quality with numbers.

Errors (the dataset is not ok): a row that cannot be read or breaks the rules, an id used twice, a
conversation that stands twice, a held-out question that also stands in train. Warnings: pairs that
are nearly the same, personal data, keys that are not used, no held-out split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.core.i18n import Text, tr
from slipway.datasets.alike import Alike, find_alike
from slipway.datasets.check_report import (
    MAX_NAMED,
    CheckReport,
    Named,
    PersonalData,
    Quality,
    SimilarPair,
    SplitReport,
    WorstRow,
)
from slipway.datasets.look import look_at
from slipway.datasets.model import RowProblem, Split
from slipway.datasets.opened import Problems, format_of, good_rows, open_splits
from slipway.datasets.personal import KINDS
from slipway.datasets.reasons import BIT, REASONS, Reason, reasons_of
from slipway.datasets.rule import EncodeRule
from slipway.datasets.scan import BITS, IDENT, LANGUAGE, PERSONAL, UNITS, Scan, SplitScan, mark
from slipway.datasets.score_rows import row_lines
from slipway.datasets.scripts import LANGUAGES
from slipway.datasets.shingles import numpy_module
from slipway.datasets.sketches import Comparison
from slipway.datasets.source import DataSource
from slipway.datasets.token_tally import TokenTally

if TYPE_CHECKING:
    from slipway.datasets.open import SampleStream

_WORST = 20
_NAMED_ROWS = 20
_GOOD = 90


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What else a check looks at.

    Attributes:
        tokenizer: from `load_tokenizer`; rows are then also encoded, and those counted that the
            cut-off shortens.
        cutoff_len: tokens at which training would cut a row.
        workers: processes that look at rows; 0: this one.
        stage: what is learned, see `open_samples`.
        write: called with a JSON line for each row: every bad row, then every row with its score.
        on_progress: called with the number of rows looked at.
    """

    tokenizer: Any = None
    cutoff_len: int = 1024
    workers: int = 0
    stage: str | None = None
    write: Callable[[bytes], object] | None = None
    on_progress: Callable[[int], None] | None = None


def check_dataset(dataset: Path | DataSource, options: CheckOptions | None = None) -> CheckReport:
    """Check a dataset to its end, in memory that grows by some 300 bytes for each row.

    Args:
        dataset: a folder with `train.jsonl` and perhaps `heldout.jsonl`, one file, or a source.

    Raises:
        NotFoundError: there is no dataset.
        ResourceError: the disk of temporary files is full.
    """
    options = options or CheckOptions()
    source = dataset if isinstance(dataset, DataSource) else DataSource(path=str(dataset))
    streams = open_splits(source, options.stage)
    with Scan(numpy_module()) as scan:
        problems = Problems(MAX_NAMED)
        if options.write:
            problems.tell = _writer_of(options.write)
        tallies = {
            split: _read(scan, split, stream, problems, options)
            for split, stream in streams.items()
        }
        alike = find_alike(scan)
        _mark(scan, alike, tallies)
        problems.tell = None
        _same_ids(scan, problems)
        _same_conversations(scan, alike, problems)
        leaks = _pairs(scan, "leak", alike.leaks, MAX_NAMED)
        leaked = _leaked(alike.leaks)
        problems.more("leak", len(leaked[MAX_NAMED:]))
        for pair in leaked[:MAX_NAMED]:
            problems.add(_leak_problem(_pair(scan, "leak", *pair)))
        near = _near(scan, alike)
        report = CheckReport(
            path=Path(source.path),
            splits={
                split: _split(scan, split, stream, tallies[split])
                for split, stream in streams.items()
            },
            errors=problems.first,
            error_count=problems.count,
            skipped=problems.rows,
            error_codes=problems.codes,
            warnings=_warnings(scan, streams, near[1], registered=source.info is not None),
            near_duplicates=near[0],
            near_count=near[1],
            most_similar=_most_similar(scan, alike),
            leaks=_one_each(leaks),
            leak_count=len(leaked),
            method=alike.questions.method,
        )
        if options.write:
            for line in row_lines(scan, alike):
                options.write(line)
        return report


def _writer_of(write: Callable[[bytes], object]) -> Callable[[RowProblem], None]:
    import orjson

    def tell(problem: RowProblem) -> None:
        row = {"row": f"{problem.file.name}:{problem.line}", "skipped": problem.as_json()}
        write(orjson.dumps(row) + b"\n")

    return tell


def _read(
    scan: Scan, split: Split, stream: SampleStream, problems: Problems, options: CheckOptions
) -> TokenTally | None:
    samples = good_rows(stream, problems)
    tally = None
    if options.tokenizer is not None:
        rule = EncodeRule(options.cutoff_len)
        tally = TokenTally(options.tokenizer, rule, lambda one: problems.row((one,)))
        samples = tally.through(samples)
    scan.splits[split] = SplitScan(len(scan), len(scan))
    for batch in look_at(samples, options.workers):
        scan.add(split, batch)
        if options.on_progress:
            options.on_progress(len(scan))
    return tally


def _mark(scan: Scan, alike: Alike, tallies: dict[Split, TokenTally | None]) -> None:
    """Add the reasons that only the whole dataset tells."""
    np = scan.np
    for split, tally in tallies.items():
        if tally:
            start = scan.splits[split].start
            gone = tally.dropped_rows.array
            mark(
                scan, np.setdiff1d(tally.truncated_rows.array, gone) + start, BIT[Reason.TRUNCATED]
            )
            mark(scan, gone + start, BIT[Reason.DROPPED])
            mark(scan, tally.refused_rows.array + start, BIT[Reason.NOT_ENCODED])
    mark(scan, np.flatnonzero(alike.first != np.arange(len(scan))), BIT[Reason.DUPLICATE])
    later = np.unique(alike.conversations.right)
    mark(scan, later, BIT[Reason.NEAR_DUPLICATE])
    known = BIT[Reason.DUPLICATE] | BIT[Reason.NEAR_DUPLICATE]
    asked = np.unique(alike.questions.right)
    mark(
        scan,
        asked[(scan.column(BITS)[asked] & np.uint64(known)) == 0],
        BIT[Reason.NEAR_QUESTION],
    )
    mark(scan, np.unique(alike.leaks.left), BIT[Reason.LEAK])


def _same_ids(scan: Scan, problems: Problems) -> None:
    """Ids of held-out rows that rows of train have."""
    np = scan.np
    train, heldout = scan.splits["train"], scan.splits.get("heldout")
    if heldout is None:
        return
    idents = scan.column(IDENT)
    mine, theirs = idents[heldout.start : heldout.end], idents[train.start : train.end]
    _, at, of = np.intersect1d(mine, theirs, return_indices=True)
    for n in np.argsort(at):
        row, other = scan.row(int(heldout.start + at[n])), scan.row(int(train.start + of[n]))
        reason = tr("the id `{id}` was used in {row}", id=row.id, row=other.place)
        problems.add(RowProblem(row.file, row.line, "id", "duplicate_id", reason))


def _same_conversations(scan: Scan, alike: Alike, problems: Problems) -> None:
    np = scan.np
    again = np.flatnonzero(alike.first != np.arange(len(scan)))
    problems.more("duplicate_row", len(again[MAX_NAMED:]))
    for number in again[:MAX_NAMED]:
        row, first = scan.row(int(number)), scan.row(int(alike.first[number]))
        reason = tr("the same conversation as {row}", row=first.place)
        problems.add(RowProblem(row.file, row.line, "", "duplicate_row", reason))


def _near(scan: Scan, alike: Alike) -> tuple[list[SimilarPair], int]:
    """Pairs of rows alike in question or conversation, each once; and how many there are."""
    np = scan.np
    both = (alike.questions, alike.conversations)
    keys = [c.left.astype(np.uint64) << np.uint64(32) | c.right.astype(np.uint64) for c in both]
    count = len(np.union1d(*keys))
    pairs: dict[tuple[int, int], SimilarPair] = {}
    for found in alike.questions.pairs(MAX_NAMED):
        pairs[found.left, found.right] = _pair(
            scan, "question", found.left, found.right, found.similarity
        )
    for found in alike.conversations.pairs(MAX_NAMED):
        key = (found.left, found.right)
        if key not in pairs:
            pairs[key] = _pair(scan, "conversation", *key, found.similarity)
    return sorted(pairs.values(), key=lambda pair: -pair.similarity)[:MAX_NAMED], count


def _pair(scan: Scan, what: str, left: int, right: int, similarity: float) -> SimilarPair:
    return SimilarPair(what, scan.row(left), scan.row(right), similarity)


def _pairs(scan: Scan, what: str, found: Comparison, limit: int) -> list[SimilarPair]:
    return [_pair(scan, what, p.left, p.right, p.similarity) for p in found.pairs(limit)]


def _leaked(leaks: Comparison) -> list[tuple[int, int, float]]:
    """For each held-out row that leaked the row of train most like it."""
    nearest: dict[int, tuple[int, int, float]] = {}
    for pair in leaks.pairs():  # most alike first
        nearest.setdefault(pair.left, (pair.left, pair.right, pair.similarity))
    return list(nearest.values())


def _one_each(leaks: list[SimilarPair]) -> list[SimilarPair]:
    nearest: dict[tuple[Path, int], SimilarPair] = {}
    for leak in leaks:
        nearest.setdefault((leak.left.file, leak.left.line), leak)
    return list(nearest.values())


def _leak_problem(leak: SimilarPair) -> RowProblem:
    reason = tr(
        "the held-out question also stands in {row} (similarity {similarity})",
        row=leak.right.place,
        similarity=f"{leak.similarity:.2f}",
    )
    return RowProblem(leak.left.file, leak.left.line, "", "leak", reason)


def _most_similar(scan: Scan, alike: Alike) -> dict[str, SimilarPair]:
    found = {
        "question": alike.questions.best,
        "conversation": alike.conversations.best,
        "leak": alike.leaks.best,
    }
    return {
        what: _pair(scan, what, best.left, best.right, best.similarity)
        for what, best in found.items()
        if best
    }


def _split(scan: Scan, split: Split, stream: SampleStream, tally: TokenTally | None) -> SplitReport:
    np = scan.np
    part = scan.splits[split]
    rows = slice(part.start, part.end)
    languages = np.bincount(scan.column(LANGUAGE)[rows].astype(np.int64), minlength=len(LANGUAGES))
    units = np.sort(scan.column(UNITS)[rows])
    personal = {}
    for number, kind in enumerate(KINDS):
        has = (scan.column(PERSONAL)[rows] >> np.uint64(number)) & np.uint64(1)
        if has.any():
            at = np.flatnonzero(has) + part.start
            personal[kind] = PersonalData(part.personal[kind], _named(scan, at))
    return SplitReport(
        rows=part.end - part.start,
        format=format_of(stream),
        languages={
            name: int(n)
            for n, name in sorted(zip(languages, LANGUAGES, strict=True), key=lambda x: -x[0])
            if n
        },
        units=(int(units[(len(units) - 1) // 2]), int(units[-1])) if len(units) else (0, 0),
        quality=_quality(scan, part),
        personal=personal,
        tokens=tally.stats() if tally else None,
    )


def _named(scan: Scan, rows: Any) -> Named:
    return Named(len(rows), tuple(scan.row(int(n)) for n in rows[:_NAMED_ROWS]))


def _quality(scan: Scan, part: SplitScan) -> Quality:
    np = scan.np
    scores = scan.scores()[part.start : part.end]
    bits = scan.column(BITS)[part.start : part.end]
    reasons = {}
    for number, reason in enumerate(REASONS):
        at = np.flatnonzero((bits >> np.uint64(number)) & np.uint64(1))
        if len(at):
            reasons[reason] = _named(scan, at + part.start)
    order = np.argsort(scores, kind="stable")
    worst = [
        WorstRow(scan.row(int(part.start + n)), int(scores[n]), tuple(reasons_of(int(bits[n]))))
        for n in order[:_WORST]
        if scores[n] < _GOOD
    ]
    return Quality(
        mean=round(float(scores.mean()), 1) if len(scores) else 0.0,
        median=int(scores[order[(len(order) - 1) // 2]]) if len(order) else 0,
        histogram=tuple(
            np.bincount(np.minimum(9, scores // 10), minlength=10).astype(int).tolist()
        ),
        reasons=dict(sorted(reasons.items(), key=lambda item: -item[1].count)),
        worst=tuple(worst),
    )


def _warnings(
    scan: Scan, streams: dict[Split, SampleStream], near: int, *, registered: bool
) -> list[Text]:
    found: list[Text] = []
    for stream in streams.values():
        name = stream.parts[0].files[0].name
        for key, count in sorted(stream.unused_keys.items()):
            found.append(
                tr(
                    "{file}: the key `{key}` is not used ({count} rows)",
                    file=name,
                    key=key,
                    count=count,
                )
            )
    if "heldout" not in streams and not registered:
        found.append(tr("there is no heldout.jsonl, so nothing is kept for the test"))
    if near:
        found.append(tr("{count} pairs of rows are nearly the same", count=near))
    personal = int((scan.column(PERSONAL) != 0).sum())
    if personal:
        found.append(
            tr("{count} rows hold personal data; mask it with `slipway data mask`", count=personal)
        )
    return found
