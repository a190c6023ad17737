"""How a dry run is shown: settings, data, a masked preview, memory and time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway.cli import output
from slipway.cli.fetch_line import fetch_shown
from slipway.cli.masked import masked
from slipway.core.i18n import Text, tr

if TYPE_CHECKING:
    from slipway.training import Resolved
    from slipway.training.dry_run import DataReport, DryRun
    from slipway.training.estimate import Estimate

_BAR = 30


def show_dry_run(resolved: Resolved, *, as_json: bool) -> None:
    """Make a dry run and print it."""
    from slipway.training.dry_run import dry_run

    fetch_shown([*resolved.spec.sources, *resolved.spec.eval_sources])
    found = dry_run(resolved)
    if as_json:
        output.print_json(found.as_json())
        return
    for note in resolved.notes:
        output.note(note)
    rows = [(key, s.value, s.origin) for key, s in resolved.settings().items()]
    output.print_table([tr("key"), tr("value"), tr("origin")], rows)
    _data(found.data)
    _preview(found.data)
    _estimate(found.estimate)
    _not_estimated(found)
    _verdict(found)


def _data(data: DataReport) -> None:
    print()
    print(
        tr(
            "data: {n} documents and {heldout} held out; {skipped} rows skipped, {truncated} cut, "
            "{dropped} dropped",
            n=data.documents,
            heldout=data.heldout,
            skipped=data.skipped,
            truncated=data.truncated,
            dropped=data.dropped,
        )
    )
    if data.pairs is not None:
        print(tr("pairs: {pairs}, each of a chosen and a rejected answer", pairs=data.pairs))
    for reason in data.reasons:
        print(f"  {reason}")
    if data.unread:
        names = ", ".join(f"`{name}` ({rows})" for name, rows in data.unread.items())
        print(tr("columns that are not read (rows that have them): {names}", names=names))
    print(
        tr(
            "tokens: {tokens}, of which {share:.0%} are learned; a document has {least} to {most}, "
            "half of them at most {median}",
            tokens=data.tokens,
            share=data.label_tokens / max(1, data.tokens),
            least=data.shortest,
            most=data.longest,
            median=data.median,
        )
    )
    most = max((n for _, n in data.histogram), default=1)
    for top, n in data.histogram:
        print(f"  ≤ {top:>6}  {'█' * round(_BAR * n / most):<{_BAR}} {n}")


def _preview(data: DataReport) -> None:
    for number, row in enumerate(data.preview, 1):
        print()
        print(_caption(data, number))
        print(masked(row))


def _caption(data: DataReport, number: int) -> Text:
    """What a document of the preview is; `number` counts from 1."""
    if data.pairs is not None:
        pair = (number + 1) // 2
        if number % 2:
            return tr("pair {number}, chosen (⟦judged⟧):", number=pair)
        return tr("pair {number}, rejected (⟦judged⟧):", number=pair)
    if data.good:
        if data.good[number - 1]:
            return tr("answer {number}, good (⟦judged⟧):", number=number)
        return tr("answer {number}, bad (⟦judged⟧):", number=number)
    return tr("document {number} (⟦learned⟧):", number=number)


def _estimate(found: Estimate) -> None:
    print()
    print(
        tr(
            "weights: {weights}, of which {trained} are trained ({share:.2%})",
            weights=f"{found.weights:,}",
            trained=f"{found.trained:,}",
            share=found.trained / max(1, found.weights),
        )
    )
    parts = found.memory.as_json()
    total = parts.pop("total")
    rows = [(name, output.size(value)) for name, value in parts.items() if value]
    output.print_table([tr("memory"), tr("size")], [*rows, ("total", output.size(total))])
    seconds = found.seconds
    print(
        tr(
            "time: {total} for {steps} steps of {tokens:.0f} tokens at {speed:.0f} tokens/s "
            "(before them {loading}, evals {evals}, reference {reference}, saving {saves})",
            total=output.duration(seconds.total),
            steps=found.work.steps,
            tokens=found.work.step_tokens,
            speed=found.tokens_per_s,
            loading=output.duration(seconds.preparing + seconds.loading),
            evals=output.duration(seconds.evals),
            reference=output.duration(seconds.reference),
            saves=output.duration(seconds.saves),
        )
    )


def _not_estimated(found: DryRun) -> None:
    """What the time above leaves out."""
    if found.resolved.spec.stage in ("rloo", "grpo"):
        print(tr("the time to draw answers is not in this estimate"))


def _verdict(found: DryRun) -> None:
    need, free = found.estimate.memory.total, found.available_bytes
    if found.fits:
        print(tr("it fits: {free} are free", free=output.size(free)))
        return
    print(
        tr(
            "it does NOT fit: {need} are needed and {free} are free; try a smaller `pack_tokens`, "
            "`checkpointing=on`, `quant.bits=4`, or see `slipway fit`",
            need=output.size(need),
            free=output.size(free),
        )
    )
