"""`slipway demo`: the whole path once."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from slipway.cli.output import duration, note, print_json
from slipway.cli.stage_screen import Screen
from slipway.core.i18n import current_language, tr


@click.command(
    help=str(
        tr(
            "The whole path once: fine-tune, quantise, deploy, put behind a key. "
            "A killed demo continues where it was; what has not changed is not done again."
        )
    )
)
@click.option("--quick", is_flag=True, help=str(tr("A shorter training and evaluation.")))
@click.option("--fresh", is_flag=True, help=str(tr("Do all again but downloads and builds.")))
@click.option("--base", metavar="NAME", help=str(tr("Base model, as for `slipway pull`.")))
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="DIR", help=str(tr("Dataset folder."))
)
@click.option(
    "--report", type=click.Path(path_type=Path), metavar="DIR", help=str(tr("Report folder."))
)
@click.option(
    "--train-minutes",
    type=click.FloatRange(0.1, 6.0),
    help=str(tr("Minutes for training on a CPU (at most 6).")),
)
@click.option("--max-steps", type=click.IntRange(1), help=str(tr("Upper limit of training steps.")))
@click.option("--no-chat", is_flag=True, help=str(tr("Do not open the chat at the end.")))
@click.option("--stop", is_flag=True, help=str(tr("Stop daemon and gateway at the end.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def demo(
    quick: bool,
    fresh: bool,
    base: str | None,
    data: Path | None,
    report: Path | None,
    train_minutes: float | None,
    max_steps: int | None,
    no_chat: bool,
    stop: bool,
    as_json: bool,
) -> None:
    from slipway.demo import DemoOptions, run_demo

    options = DemoOptions(
        base=base,
        data=data,
        report=report,
        quick=quick,
        fresh=fresh,
        train_budget_s=60 * train_minutes if train_minutes else 0.0,
        max_steps=max_steps,
        keep_services=not stop,
        language=current_language(),
    )
    screen = Screen()
    began = time.monotonic()
    try:
        _, records, folder = run_demo(
            options, say=screen.say, observer=screen.stage, listeners=(screen.event,)
        )
    except KeyboardInterrupt:
        screen.say(tr("stopped; the same command goes on from here"))
        raise
    seconds = time.monotonic() - began
    gateway = next(r.outputs for r in records if r.name == "gateway")
    if as_json:
        print_json({"report": str(folder), "seconds": round(seconds, 1), "url": gateway["url"]})
        return
    print((folder / "report.md").read_text(encoding="utf-8").split("\n## ")[0])
    print_summary(folder, seconds, gateway, running=not stop)
    if not (stop or no_chat) and sys.stdin.isatty() and sys.stdout.isatty():
        from slipway.cli.main import cli

        note(tr("you are talking to your model through the gateway; `/bye` ends the chat"))
        cli.main(["chat"], prog_name="slipway", standalone_mode=False)


def print_summary(folder: Path, seconds: float, gateway: dict[str, Any], *, running: bool) -> None:
    """The table, the report's path, and the exact commands to go on."""
    import json

    from slipway.client import load_profile
    from slipway.core.paths import Home
    from slipway.demo.report.write import number
    from slipway.demo.serve_stages import KEY_MARK

    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    print(f"{'':<12}{'loss':>8}{'chrF':>8}{'ROUGE-L':>9}{'MB':>8}{'KLD':>10}{'tok/s':>8}")
    rows = [("base", report["base"]), ("tuned", report["tuned"])]
    rows += [("tuned GGUF", report["unquantised"]), *report["quants"].items()]
    for name, row in rows:
        cells = (
            f"{number(row.get('eval_loss'), 3):>8}{number(row.get('chrf'), 1):>8}"
            f"{number(row.get('rouge_l'), 3):>9}"
        )
        megabytes = row["size_bytes"] / 1e6 if "size_bytes" in row else None
        cells += f"{number(megabytes, 1):>8}{number(row.get('kld_mean'), 5):>10}"
        print(f"{name:<12}{cells}{number(row.get('tg_tps'), 0):>8}")
    print()
    print(tr("report: {path}", path=str(folder / "report.html")))
    print(tr("time: {time}", time=duration(seconds)))
    if not running:
        return
    print(tr("\ngo on with:"))
    print(f"  slipway chat --model {gateway['model']}")
    print(f"  {gateway['curl'].replace(KEY_MARK, load_profile(Home.current()).key)}")
    print(tr("  open {url}/ in a browser and paste the key", url=gateway["url"]))
    print("  slipway down")
