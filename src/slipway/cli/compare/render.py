"""A comparison as columns on a terminal, or as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway.cli.compare.ask import Cell, Comparison
from slipway.cli.talk.wrap import printable
from slipway.core.i18n import tr

if TYPE_CHECKING:
    from rich.console import RenderableType

_NARROWEST = 26  # columns of a terminal that an answer needs beside others


def facts(cell: Cell) -> str:
    """One line under an answer: tokens, speed, time."""
    if cell.error is not None:
        return ""
    speed = "-" if cell.rate is None else f"{cell.rate:.1f}"
    line = tr(
        "{tokens} tokens, {speed} tokens/s, {seconds} s",
        tokens=cell.completion_tokens,
        speed=speed,
        seconds=f"{cell.completion_s:.2f}",
    )
    return f"{line}{tr(', cut')}" if cell.done_reason == "length" else str(line)


def text_of(cell: Cell) -> str:
    """The answer, or what stands in its place."""
    if cell.error is not None:
        return f"{tr('error')}: {cell.error['message']}"
    if cell.same_as is not None:
        return str(tr("(the same as [{number}])", number=cell.same_as))
    return cell.text.strip() or str(tr("(empty)"))


def _label(comparison: Comparison, number: int) -> str:
    return f"[{number + 1}] {comparison.variants[number].label}"


def on_terminal(comparison: Comparison, columns: int) -> list[RenderableType]:
    """What rich prints: for each prompt the answers side by side, or below each other."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    count = len(comparison.variants)
    beside = columns // count >= _NARROWEST
    parts: list[RenderableType] = []
    for number, prompt in enumerate(comparison.prompts):
        parts.append(Text(f"\n> {printable(prompt)}", style="bold"))
        row = comparison.row(number)
        if beside:
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
            for cell in row:
                table.add_column(Text(_label(comparison, cell.variant)), ratio=1, overflow="fold")
            table.add_row(*(Text(printable(text_of(cell))) for cell in row))
            table.add_row(*(Text(facts(cell), style="dim") for cell in row))
            parts.append(table)
            continue
        for cell in row:
            parts.append(Text(f"\n{_label(comparison, cell.variant)}", style="cyan"))
            parts.append(Text(printable(text_of(cell))))
            parts.append(Text(facts(cell), style="dim"))
    if comparison.cells:
        parts += [Text(""), _summary_table(comparison)]
    return parts


def _summary_table(comparison: Comparison) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    heads, rows = summary(comparison)
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell.replace("[", "\\[", 1) for cell in row))
    return table


def summary(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Heads and a row for each variant: answers, tokens, speed, times, over all prompts."""
    heads = [
        str(tr("variant")),
        str(tr("answers")),
        str(tr("tokens")),
        str(tr("tokens/s")),
        str(tr("first token s")),
    ]
    rows = []
    for number in range(len(comparison.variants)):
        cells = comparison.of_variant(number)
        tokens, seconds = (
            sum(c.completion_tokens for c in cells),
            sum(c.completion_s for c in cells),
        )
        firsts = [c.first_s for c in cells if c.first_s is not None]
        rows.append(
            [
                _label(comparison, number),
                f"{len(cells)}/{len(comparison.prompts)}",
                str(tokens),
                f"{tokens / seconds:.1f}" if seconds else "-",
                f"{sum(firsts) / len(firsts):.3f}" if firsts else "-",
            ]
        )
    return heads, rows


def as_markdown(comparison: Comparison) -> str:
    """A document: the variants' settings, the answers prompt by prompt, and the speeds."""
    lines = [f"# {tr('Comparison')}", "", *_settings(comparison), ""]
    for number, prompt in enumerate(comparison.prompts):
        lines += [f"## {tr('Prompt')} {number + 1}", "", *_quoted(prompt), ""]
        for cell in comparison.row(number):
            lines += [f"### {_label(comparison, cell.variant)}", "", *_fenced(text_of(cell)), ""]
            if line := facts(cell):
                lines += [f"*{line}*", ""]
    heads, rows = summary(comparison)
    lines += [f"## {tr('Speed')}", "", *_table(heads, rows)]
    return "\n".join(lines) + "\n"


def _settings(comparison: Comparison) -> list[str]:
    rows = []
    for number, variant in enumerate(comparison.variants):
        options = ", ".join(f"{name}={value}" for name, value in variant.options.items())
        system = " ".join(variant.system.split()) or str(tr("the model's own"))
        rows.append([f"[{number + 1}]", variant.model, options, system])
    return _table([str(tr("no.")), str(tr("model")), str(tr("options")), str(tr("system"))], rows)


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(heads), line(["---"] * len(heads)), *(line(row) for row in rows)]


def _quoted(text: str) -> list[str]:
    return [f"> {line}" for line in text.splitlines()]


def _fenced(text: str) -> list[str]:
    """An answer as it is: its own Markdown would break the document's."""
    fence = "```"
    while fence in text:
        fence += "`"
    return [f"{fence}text", text, fence]
