"""The result as a page of Markdown, in English or Chinese."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from slipway.core.i18n import Language, Text, tr
from slipway.evaluation.bootstrap import Difference, Interval

Part = Text | str | tuple[Text | str, ...]
_FEW_NAMED = 10


def markdown(results: Mapping[str, Any], *, language: Language) -> str:
    """The page.

    Args:
        results: as in `results.json`.
    """
    parts = [
        *_scores(results),
        *_verdicts(results),
        *_rows(results),
        *_judge(results),
        *_choices(results),
        *_harness(results),
        *_failures(results),
        *_settings(results),
    ]
    return "\n".join(_in(part, language) for part in parts) + "\n"


def _in(part: Part, language: Language) -> str:
    if isinstance(part, tuple):
        return "".join(_in(piece, language) for piece in part)
    return part.in_language(language) if isinstance(part, Text) else part


def difference_of(name: str, raw: Mapping[str, Any]) -> Difference:
    """A difference read back from `results.json`."""
    change = Interval(raw["value"], raw["low"], raw["high"])
    return Difference(name, raw["rows"], change, raw["real"], raw["better"])


def _table(columns: Sequence[Text | str], rows: Sequence[Sequence[Text | str]]) -> Iterator[Part]:
    yield _line(columns)
    yield "|" + "---|" * len(columns)
    yield from (_line(row) for row in rows)


def _line(cells: Sequence[Text | str]) -> Part:
    pieces: list[Text | str] = ["|"]
    for cell in cells:
        plain = cell.replace("|", "\\|").replace("\n", " ") if isinstance(cell, str) else cell
        pieces += [" ", plain, " |"]
    return tuple(pieces)


def _scores(results: Mapping[str, Any]) -> Iterator[Part]:
    yield tr("# Evaluation")
    yield ""
    yield tr("Baseline: `{label}`. In brackets: 95 % interval.", label=results["baseline"])
    yield ""
    names = list(dict.fromkeys(n for m in results["models"].values() for n in m["metrics"]))
    rows = []
    for name in names:
        cells: list[Text | str] = [f"`{name}`"]
        for model in results["models"].values():
            found = model["metrics"].get(name)
            cells.append(
                f"{found['value']:.4g} [{found['low']:.4g}, {found['high']:.4g}]" if found else "-"
            )
        rows.append(cells)
    yield from _table([tr("metric"), *(f"`{label}`" for label in results["models"])], rows)
    yield ""


def _verdicts(results: Mapping[str, Any]) -> Iterator[Part]:
    for label, changes in results["differences"].items():
        if not changes:
            continue
        yield tr("## `{label}` against `{baseline}`", label=label, baseline=results["baseline"])
        yield ""
        for name, raw in changes.items():
            yield "- ", difference_of(name, raw).sentence(label, results["baseline"])
        yield ""


def _rows(results: Mapping[str, Any]) -> Iterator[Part]:
    for label, found in results["changed"].items():
        if not found:
            continue
        yield tr(
            "`{label}`, row by row ({metric}): {better} better, {worse} worse, {same} about the "
            "same. All of them: `rows/{label}.jsonl`.",
            label=label,
            metric=found["metric"],
            better=found["better"],
            worse=found["worse"],
            same=found["same"],
        )
        yield ""
        for kind, title in (("worse_rows", tr("worse")), ("better_rows", tr("better"))):
            if not found[kind]:
                continue
            cells: list[list[Text | str]] = [
                [row["id"], f"{row['from']:.4g}", f"{row['to']:.4g}"] for row in found[kind]
            ]
            yield from _table([title, tr("from"), tr("to")], cells)
            yield ""


def _judge(results: Mapping[str, Any]) -> Iterator[Part]:
    for label, found in results["judge"].items():
        yield tr("## Judged by `{judge}`: `{label}`", judge=found["judge"], label=label)
        yield ""
        rate = found["win_rate"]
        if rate:
            yield tr(
                "Win rate {rate:.1f} % (95 % interval {low:.1f} to {high:.1f}): {wins} won, "
                "{losses} lost, {ties} ties, {disagreements} where the two orders disagree.",
                rate=rate["value"],
                low=rate["low"],
                high=rate["high"],
                wins=found["wins"],
                losses=found["losses"],
                ties=found["ties"],
                disagreements=found["disagreements"],
            )
        if found["unreadable"]:
            yield tr(
                "{count} rows without a readable verdict: {rows}",
                count=len(found["unreadable"]),
                rows=_some(found["unreadable"]),
            )
        yield tr(
            "{requests} requests, {prompt} prompt tokens, {answer} answer tokens, cost {cost}.",
            requests=found["requests"],
            prompt=found["prompt_tokens"],
            answer=found["tokens"],
            cost=found["cost"] or tr("unknown"),
        )
        yield ""


def _choices(results: Mapping[str, Any]) -> Iterator[Part]:
    models = {k: m["choices"] for k, m in results["models"].items() if m["choices"]}
    if not models:
        return
    yield tr("## Multiple choice")
    yield ""
    for kind, title in (("categories", tr("category")), ("subjects", tr("subject"))):
        names = list(next(iter(models.values()))[kind])
        rows: list[list[Text | str]] = [
            [name, *(f"{m[kind][name]['accuracy']:.1f}" for m in models.values())] for name in names
        ]
        yield from _table([title, *(f"`{label}`" for label in models)], rows)
        yield ""
    for label, found in models.items():
        if found["no_answer"]:
            yield tr(
                "`{label}` named no letter for {count} questions: {rows}",
                label=label,
                count=len(found["no_answer"]),
                rows=_some(found["no_answer"]),
            )
            yield ""


def _harness(results: Mapping[str, Any]) -> Iterator[Part]:
    if not results["lm_eval"]:
        return
    yield tr("## lm-eval")
    yield ""
    rows: list[list[Text | str]] = [
        [f"`{label}`", task, name, f"{value:.4g}"]
        for label, tasks in results["lm_eval"].items()
        for task, values in tasks.items()
        for name, value in values.items()
        if isinstance(value, int | float)
    ]
    yield from _table([tr("model"), tr("task"), tr("metric"), tr("value")], rows)
    yield ""


def _failures(results: Mapping[str, Any]) -> Iterator[Part]:
    for label, model in results["models"].items():
        if model["failed"]:
            yield tr(
                "`{label}` gave no answer to {count} rows, which count as empty: {rows}",
                label=label,
                count=len(model["failed"]),
                rows=_some([row["id"] for row in model["failed"]]),
            )
            yield ""
        if model["cut"]:
            yield tr(
                "`{label}`: {count} of {all} answers were cut at max_new_tokens.",
                label=label,
                count=model["cut"],
                all=model["answered"],
            )
            yield ""
        if model["loss_cut"] or model["loss_dropped"]:
            yield tr(
                "`{label}`: for the loss {cut} rows were cut at cutoff_len, {dropped} left out: "
                "{rows}",
                label=label,
                cut=len(model["loss_cut"]),
                dropped=len(model["loss_dropped"]),
                rows=_some([*model["loss_dropped"], *model["loss_cut"]]),
            )
            yield ""
    if results["data"]["left_out"]:
        yield tr(
            "Left out, because marked as bad answers: {rows}",
            rows=_some(results["data"]["left_out"]),
        )
        yield ""


def _settings(results: Mapping[str, Any]) -> Iterator[Part]:
    yield tr("## Settings")
    yield ""
    rows: list[list[Text | str]] = [
        [f"`{label}`", str(m["path"] or m["url"]), f"`{m['digest']}`"]
        for label, m in results["models"].items()
    ]
    yield from _table([tr("model"), tr("place"), tr("digest")], rows)
    yield ""
    settings: list[list[Text | str]] = [
        [f"`{name}`", str(value)]
        for name, value in results["settings"].items()
        if value not in (None, [], "")
    ]
    yield from _table([tr("setting"), tr("value")], settings)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _FEW_NAMED
    return ", ".join(names[:_FEW_NAMED]) + (f" (+{more})" if more > 0 else "")
