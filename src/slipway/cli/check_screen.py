"""How the check of a dataset is shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slipway.core.i18n import Text, tr

if TYPE_CHECKING:
    from slipway.datasets import CheckReport, SimilarPair, SplitReport, TokenStats

SHOWN_PAIRS = 20
SHOWN_ERRORS = 100
SHOWN_ROWS = 5
BAR_WIDTH = 40


def show_check(report: CheckReport, rows_file: Path | None = None) -> None:
    """Print a report; its verdict comes last."""
    for problem in report.errors[:SHOWN_ERRORS]:
        field = f" `{problem.field}`" if problem.field else ""
        print(f"{problem.place}:{field} {problem.reason}")
    if report.error_count > SHOWN_ERRORS:
        print(
            tr(
                "... and {count} more; all of them are named by --rows FILE",
                count=report.error_count - SHOWN_ERRORS,
            )
        )
    for warning in report.warnings:
        print(f"{tr('warning')}: {warning}")
    for pair in report.near_duplicates[:SHOWN_PAIRS]:
        _print_pair(tr("nearly the same"), pair)
    for name, split in report.splits.items():
        _print_split(name, split)
    _print_likeness(report)
    rows = ", ".join(f"{split} {count}" for split, count in report.rows.items())
    print(tr("good rows: {rows}", rows=rows))
    if report.skipped:
        print(tr("rows left out: {count}", count=report.skipped))
    if rows_file:
        print(tr("every row with its score: {file}", file=rows_file))
    print(
        tr("ok: no errors") if report.ok else tr("not ok: {count} errors", count=report.error_count)
    )


def _print_likeness(report: CheckReport) -> None:
    names: dict[str, Text] = {
        "question": tr("most similar questions in train"),
        "conversation": tr("most similar conversations in train"),
        "leak": tr("held-out question nearest to train"),
    }
    for what, pair in report.most_similar.items():
        limit = report.thresholds[what]
        _print_pair(tr("{what} (limit {limit})", what=names[what], limit=limit), pair)
    if report.method == "minhash":
        print(tr("too many rows to compare every pair: MinHash proposed the pairs"))


def _print_pair(title: Text, pair: SimilarPair) -> None:
    print(f"{title}: {pair.similarity:.2f}")
    for row in (pair.left, pair.right):
        print(f"  {row.place}  {short(row.head)}")


def short(text: str, width: int = 90) -> str:
    """One line of a text."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _print_split(name: str, split: SplitReport) -> None:
    from slipway.datasets.reasons import POINTS, in_words

    if not split.rows:
        return
    quality = split.quality
    print()
    languages = ", ".join(
        f"{lang} {rows / split.rows:.0%}" for lang, rows in split.languages.items()
    )
    print(
        tr(
            "{split}: {rows} rows, format {format}, languages: {languages}; words per row: half at "
            "most {median}, longest {longest}",
            split=name,
            rows=f"{split.rows:,}",
            format=split.format,
            languages=languages,
            median=split.units[0],
            longest=split.units[1],
        )
    )
    print(tr("quality: mean {mean}, median {median}", mean=quality.mean, median=quality.median))
    most = max(quality.histogram)
    for tens, rows in enumerate(quality.histogram):
        if rows:
            top = 10 * tens + 9 if tens < 9 else 100
            print(f"  {10 * tens:>3}–{top:<3} {rows:>8} {'█' * round(BAR_WIDTH * rows / most)}")
    for reason, named in quality.reasons.items():
        print(
            f"  −{POINTS[reason]:<3} {named.count:>8}  {in_words(reason)}: {_places(named.first)}"
        )
    for kind, data in split.personal.items():
        print(
            tr(
                "personal data, {kind}: {pieces} pieces in {rows} rows: {places}",
                kind=kind,
                pieces=data.pieces,
                rows=data.rows.count,
                places=_places(data.rows.first),
            )
        )
    if quality.worst:
        print(tr("worst rows:"))
    for worst in quality.worst[:SHOWN_ROWS]:
        reasons = ", ".join(worst.reasons)
        print(f"  {worst.score:>3}  {worst.row.place}  [{reasons}]  {short(worst.row.head, 60)}")
    if split.tokens:
        print_tokens(name, split.tokens)


def _places(rows: object) -> str:
    assert isinstance(rows, tuple)
    named = ", ".join(row.place for row in rows[:SHOWN_ROWS])
    return named + (", …" if len(rows) > SHOWN_ROWS else "")


def print_tokens(split_name: str, tokens: TokenStats) -> None:
    """The histogram of tokens and the rows that the cut-off shortens."""
    print(tr("tokens per row ({split}):", split=split_name))
    most = max((count for _, _, count in tokens.histogram), default=1)
    filled = [n for n, (_, _, count) in enumerate(tokens.histogram) if count]
    for start, end, count in tokens.histogram[min(filled, default=0) :]:
        bar = "█" * round(BAR_WIDTH * count / most)
        over = " ✂" if end > tokens.cutoff_len else ""
        print(f"  {start:>6}–{end - 1:<6} {count:>5} {bar}{over}")
    for row in tokens.over_cutoff[:SHOWN_PAIRS]:
        print(
            tr(
                "  {file}:{line} has {tokens} tokens, over the cut-off of {cutoff}",
                file=row.file,
                line=row.line,
                tokens=row.tokens,
                cutoff=tokens.cutoff_len,
            )
        )
    if tokens.over_count > SHOWN_PAIRS:
        print(tr("  ... and {count} more", count=tokens.over_count - SHOWN_PAIRS))
    if tokens.dropped_count:
        print(tr("rows with nothing left to learn: {count}", count=tokens.dropped_count))
