"""The card for people: table cells, and a Markdown page in English with the numbers' meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slipway.evaluation.quality.advice import advise
from slipway.evaluation.quality.model import CHART, REFERENCE, QualityCard

COLUMNS = (
    *("size", "bpw", "PPL", "KLD", "median", "99 %", "top-1", "chrF", "ROUGE-L"),
    *("pp t/s", "tg t/s", "memory", "load"),
)


def cells(row: Mapping[str, Any]) -> list[str]:
    """One row's figures, in the order of `COLUMNS`; "-" for what was not measured.

    A metric's change against the unquantised model stands behind it, with a star when it is real.
    """
    return [
        _mega(row.get("size_bytes")),
        _form(row.get("bpw"), ".2f"),
        _form(row.get("ppl"), ".3f"),
        _form(row.get("kld_mean"), ".4f") + _error(row.get("kld_error"), ".4f"),
        _form(row.get("kld_median"), ".4f"),
        _form(row.get("kld_p99"), ".3f"),
        _form(row.get("top1"), ".1%") + _error(row.get("top1_error"), ".1%"),
        _metric(row, "chrf"),
        _metric(row, "rouge_l"),
        _speeds(row.get("pp_tps")),
        _speeds(row.get("tg_tps")),
        _mega(row.get("rss_bytes")),
        _form(row.get("load_s"), ".2f") + (" s" if row.get("load_s") is not None else ""),
    ]


def page(card: QualityCard) -> str:
    """The card as a Markdown page."""
    advice = advise(card)
    rows = [(REFERENCE, card.reference), *card.by_size()]
    lines = ["# Quality card", "", advice.sentence.en.strip() + ".", ""]
    if advice.alike:
        lines += [f"Not to be told apart from it by KLD: {', '.join(advice.alike)}.", ""]
    lines += ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(cells(row)) + " |" for name, row in rows]
    lines += ["", *_legend(card), "", f"![size against quality]({CHART})", ""]
    return "\n".join(lines)


def _legend(card: QualityCard) -> list[str]:
    used, machine = card.settings, card.machine
    return [
        f"KLD in nats per token (mean ± standard error, median, 99 % quantile) and top-1 over "
        f"{used['scored_tokens']} tokens of a text of {used['text_tokens']}; chrF and ROUGE-L over "
        f"{used['answer_rows']} held-out rows, in points, with the change against the unquantised "
        "model (a star: its 95 % paired-bootstrap interval leaves out 0).",
        "",
        f"pp: reading a prompt of {_list(used['prompts'])} tokens; tg: writing 32 tokens with "
        f"{_list(used['depths'])} in the context. {machine['cpu']}, {machine['cores']} cores, "
        f"llama.cpp {machine['llama.cpp']} ({machine['variant']}), {card.measured_at}.",
    ]


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _mega(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e6:.1f} MB"


def _form(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _error(value: float | None, form: str) -> str:
    return "" if value is None else f" ± {value:{form}}"


def _metric(row: Mapping[str, Any], name: str) -> str:
    value = row.get("metrics", {}).get(name)
    change = row.get("differences", {}).get(name)
    if value is None or change is None:
        return _form(value, ".1f")
    return f"{value:.1f} ({change['value']:+.1f}{'*' if change['real'] else ''})"


def _speeds(values: Mapping[str, float] | None) -> str:
    return "-" if not values else " / ".join(f"{value:.0f}" for value in values.values())
