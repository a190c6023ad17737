"""`slipway toolchain`: llama.cpp's tools."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from slipway.core.i18n import Text, tr

if TYPE_CHECKING:
    from slipway.export.toolchain import Toolchain


@click.group(help=str(tr("Install llama.cpp's tools and test them.")))
def toolchain() -> None:
    pass


@toolchain.command(
    help=str(
        tr(
            "Use the tools in SLIPWAY_TOOLCHAIN or on PATH when they pass the self-test; else "
            "build them from source, for this processor, and test the build."
        )
    )
)
@click.option("-j", "--jobs", type=click.IntRange(1), help=str(tr("Compilers at once.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def install(jobs: int | None, as_json: bool) -> None:
    from slipway.cli.output import LiveLine, duration, note
    from slipway.core.events import EventLog
    from slipway.core.paths import Home
    from slipway.export.toolchain import install_toolchain

    line = LiveLine()

    def show(stage: str, fraction: float | None, left_s: float | None) -> None:
        text = str(_stage(stage))
        if fraction is not None:
            text += f" {fraction:4.0%}"
        if left_s is not None:
            text += f", {tr('{time} left', time=duration(left_s))}"
        line.show(text)

    home = Home.current()
    log = EventLog(home.logs / "toolchain.jsonl")
    found = install_toolchain(home, events=log, on_progress=show, jobs=jobs)
    line.done()
    if not as_json:
        note(tr("llama.cpp's tools are ready in {folder}", folder=str(found.folder)))
    _print(found, as_json)


@toolchain.command(help=str(tr("Show which tools are in use, how they were built, and why so.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def status(as_json: bool) -> None:
    from slipway.core.paths import Home
    from slipway.export.toolchain import require_toolchain

    _print(require_toolchain(Home.current()), as_json)


def _stage(stage: str) -> Text:
    stages = {
        "download": tr("fetching llama.cpp's source"),
        "extract": tr("unpacking the source"),
        "build": tr("building llama.cpp"),
        "test": tr("testing the tools"),
    }
    return stages[stage]


def _print(found: Toolchain, as_json: bool) -> None:
    from slipway.cli.output import print_json, print_table
    from slipway.export.toolchain.status import describe

    facts = describe(found)
    if as_json:
        print_json(facts)
        return
    rows = [
        (tr("folder"), facts["folder"]),
        (tr("llama.cpp"), facts["version"]),
        (tr("found as"), facts["provider"]),
        (tr("built for"), facts["variant"]),
        (tr("build settings"), " ".join(facts["flags"]) or "-"),
        (tr("why"), facts["why"] or "-"),
        (tr("programs"), ", ".join(facts["programs"])),
    ]
    print_table([tr("item"), tr("value")], rows)
