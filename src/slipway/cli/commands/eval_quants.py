"""`slipway eval --base --tuned --gguf --quant`: what quantising costs, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.core.i18n import Text, tr

if TYPE_CHECKING:
    from slipway.export import EvalResult


def evaluate_quants(
    *,
    base: Path,
    tuned: Path,
    gguf: Path,
    base_gguf: Path | None,
    quants: tuple[Path, ...],
    data: Path,
    text: Path | None,
    rows: int,
    quick: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Base, tuned and quants in one table; see `slipway.export.evaluate_models`."""
    from slipway.cli.commands.convert import resolve
    from slipway.cli.output import LiveLine, print_json
    from slipway.core.events import EventLog
    from slipway.core.paths import Home
    from slipway.export import EvalPlan, evaluate_models

    line = LiveLine()

    def show(event: dict[str, Any]) -> None:
        if event["type"] == "progress" and event.get("stage") == "eval":
            line.show(
                tr("measuring {part} ({done:.0%})", part=event["part"], done=event["fraction"])
            )

    home = Home.current()
    tuned = resolve(tuned, home)
    plan = EvalPlan(
        base=resolve(base, home),
        tuned=tuned,
        gguf=gguf if gguf.is_file() else resolve(gguf, home),
        base_gguf=base_gguf,
        quants=dict(pair for path in quants for pair in quant_folders(path)),
        heldout=data,
        text=text,
        rows=min(rows, 12) if quick else rows,
        chunks=4 if quick else 8,
        home=home,
        out_dir=output or home.artefacts / f"{tuned.resolve().name}-eval",
    )
    result = evaluate_models(plan, events=EventLog(None, show))
    line.done()
    if as_json:
        print_json({"folder": str(plan.out_dir), **result.as_json()})
        return
    print_result(result)
    print(plan.out_dir / "results.json")


def quant_folders(path: Path) -> list[tuple[str, Path]]:
    """Type and place of one quant, or of each in a folder of them."""
    from slipway.core.errors import NotFoundError
    from slipway.core.manifest import FILE_NAME, read_manifest

    if path.is_file():
        return [(path.stem, path)]
    if (path / FILE_NAME).is_file():
        return [(str(read_manifest(path, kind="quant").config["type"].value), path)]
    inside = sorted(p.parent for p in path.glob(f"*/{FILE_NAME}"))
    if not inside:
        raise NotFoundError(
            "artefact.not_found", tr("{folder} holds no finished artefact", folder=str(path))
        )
    return [pair for folder in inside for pair in quant_folders(folder)]


def print_result(result: EvalResult) -> None:
    """The table of models."""
    from slipway.cli.output import print_table, size

    columns: list[Text | str] = [
        *(tr("model"), tr("size"), "bpw", tr("eval loss"), "PPL", "KLD", tr("top-1"), "chrF"),
        *("ROUGE-L", "pp t/s", "tg t/s", tr("memory"), tr("load")),
    ]
    named: list[tuple[Text | str, dict[str, Any]]] = [
        (tr("base"), result.base),
        (tr("tuned"), {**result.tuned, **result.unquantised, **_scores(result.tuned)}),
        *result.quants.items(),
    ]

    def cell(row: dict[str, Any], key: str, form: str) -> str:
        value = row.get(key)
        return "-" if value is None else format(value, form)

    rows = [
        (
            name,
            size(row["size_bytes"]) if "size_bytes" in row else "-",
            cell(row, "bpw", ".2f"),
            cell(row, "eval_loss", ".3f"),
            cell(row, "ppl", ".2f"),
            cell(row, "kld_mean", ".5f"),
            cell(row, "top1", ".1%"),
            cell(row, "chrf", ".1f"),
            cell(row, "rouge_l", ".3f"),
            cell(row, "pp_tps", ".0f"),
            cell(row, "tg_tps", ".1f"),
            size(row["rss_bytes"]) if row.get("rss_bytes") else "-",
            cell(row, "load_s", ".2f"),
        )
        for name, row in named
    ]
    print_table(columns, rows)


def _scores(row: dict[str, Any]) -> dict[str, Any]:
    """The tuned model's scores over all its rows, not only those that the quants answered."""
    return {key: row[key] for key in ("chrf", "rouge_l", "answered_rows")}
