"""`slipway toolchain build` and `test`: force a native build; run the self-test again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from slipway.core.i18n import Text, tr

if TYPE_CHECKING:
    from slipway.core.paths import Home
    from slipway.export.toolchain import Toolchain
    from slipway.export.toolchain.gpu import Gpu
    from slipway.export.toolchain.selftest import SelfTestResult


class StageLine:
    """The progress of an installation on one line."""

    def __init__(self) -> None:
        from slipway.cli.output import LiveLine

        self._line = LiveLine()

    def show(self, stage: str, fraction: float | None, left_s: float | None) -> None:
        """Show a stage, the part done (0..1) and the seconds left where they are known."""
        from slipway.cli.output import duration, note

        if stage in ("next", "none"):
            self._line.done()
            note(tr("this variant fails here; the next one is built") if stage == "next"
                 else tr("this variant fails here, and no other is left"))  # fmt: skip
            return
        text = str(_stage(stage))
        if fraction is not None:
            text += f" {fraction:4.0%}"
        if left_s is not None:
            text += f", {tr('{time} left', time=duration(left_s))}"
        self._line.show(text)

    def done(self) -> None:
        """End the line."""
        self._line.done()


def _stage(stage: str) -> Text:
    stages = {
        "download": tr("fetching llama.cpp's source"),
        "extract": tr("unpacking the source"),
        "build": tr("building llama.cpp"),
        "test": tr("testing the tools"),
    }
    return stages[stage]


@click.command(
    help=str(
        tr(
            "Build llama.cpp from source and test it, whatever is installed: the variant asked "
            "for, else the fastest that passes. Several variants lie side by side."
        )
    )
)
@click.option(
    "--variant",
    metavar="NAME",
    help=str(tr("native, native-noamx, native-avx512f, avx2, baseline; portable on ARM.")),
)
@click.option("--cuda/--no-cuda", default=None, help=str(tr("With or without CUDA (NVIDIA).")))
@click.option("--metal/--no-metal", default=None, help=str(tr("With or without Metal (Apple).")))
@click.option("--vulkan/--no-vulkan", default=None, help=str(tr("With or without Vulkan.")))
@click.option("-j", "--jobs", type=click.IntRange(1), help=str(tr("Compilers at once.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def build(
    variant: str | None,
    cuda: bool | None,
    metal: bool | None,
    vulkan: bool | None,
    jobs: int | None,
    as_json: bool,
) -> None:
    from slipway.cli.commands.toolchain import show_toolchain
    from slipway.cli.output import note
    from slipway.core.events import EventLog
    from slipway.core.paths import Home
    from slipway.export.toolchain import find_toolchain
    from slipway.export.toolchain.install import BuildWish, build_toolchain

    wishes: dict[Gpu, bool | None] = {"cuda": cuda, "metal": metal, "vulkan": vulkan}
    gpus = {gpu: wish for gpu, wish in wishes.items() if wish is not None}
    home = Home.current()
    line = StageLine()
    made = build_toolchain(
        home,
        BuildWish(variant, gpus, jobs),
        events=EventLog(home.logs / "toolchain.jsonl"),
        on_progress=line.show,
    )
    line.done()
    if not as_json:
        note(tr("llama.cpp's tools are ready in {folder}", folder=str(made.folder)))
        found = find_toolchain(home)
        if found is not None and found.folder != made.folder:
            note(
                tr(
                    "in use stays {folder}; to use the new one: `slipway toolchain use {name}`",
                    folder=str(found.folder),
                    name=made.folder.name,
                )
            )
    show_toolchain(made, as_json)


@click.command(
    help=str(
        tr(
            "Run the self-test on the tools in use, on an installed toolchain's NAME, or on a "
            "FOLDER, and show each quant type. Exits with 1 when one fails."
        )
    )
)
@click.argument("folder", required=False, metavar="[NAME|FOLDER]")
@click.option(
    "--all",
    "all_types",
    is_flag=True,
    help=str(tr("Also the types that need an importance matrix (about a minute more).")),
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def test(folder: str | None, all_types: bool, as_json: bool) -> int:
    from dataclasses import asdict

    from slipway.cli.output import LiveLine, note, print_json
    from slipway.core.errors import EXIT_FAILED
    from slipway.core.paths import Home
    from slipway.export.toolchain.selftest import self_test

    home = Home.current()
    chosen = _toolchain_at(home, folder)
    line = LiveLine()

    def show(name: str, done: int, total: int) -> None:
        line.show(tr("testing {name} ({done} of {total})", name=name, done=done + 1, total=total))

    result = self_test(chosen, show, all_types=all_types, keep_going=True)
    line.done()
    _remember(home, chosen, result)
    if as_json:
        print_json({"folder": str(chosen.folder), "version": chosen.version, **asdict(result)})
    else:
        _print_result(result)
        note(tr("tested {folder}", folder=str(chosen.folder)))
    if not result.passed and not as_json:
        note(
            tr("these tools compute wrongly or crash here; `slipway toolchain install` replaces "
               "them")
            if result.conclusive
            else tr("the test could not be run to its end")
        )  # fmt: skip
    return 0 if result.passed else EXIT_FAILED


def _toolchain_at(home: Home, folder: str | None) -> Toolchain:
    """The tools in use, an installed toolchain by its name, or a folder of llama.cpp."""
    from pathlib import Path

    from slipway.core.errors import NotFoundError
    from slipway.export.toolchain import Toolchain, find_toolchain, require_toolchain
    from slipway.export.toolchain.find import all_installed, locate, named_install

    if folder is None:
        failed = [i.toolchain for i in all_installed(home) if i.toolchain.state == "failed"]
        return find_toolchain(home) or (failed[0] if failed else require_toolchain(home))
    path = Path(folder).expanduser()
    if not path.is_dir():
        return named_install(home, folder).toolchain
    path = path.resolve()
    found = locate(path)
    if found.missing:
        raise NotFoundError(
            "toolchain.incomplete",
            tr("{file} lacks {missing}", file=str(path), missing=", ".join(found.missing)),
        )
    mine = next((i.toolchain for i in all_installed(home) if i.toolchain.folder == path), None)
    return mine or Toolchain(path, found.bin, found.source, "unknown", "configured")


def _remember(home: Home, chosen: Toolchain, result: SelfTestResult) -> None:
    from slipway.export.toolchain.checks import remember_check
    from slipway.export.toolchain.cpu import stamp_here

    if chosen.folder.parent == home.toolchains and (result.passed or result.conclusive):
        remember_check(home, chosen.folder.name, stamp_here(), result)


def _print_result(result: SelfTestResult) -> None:
    from slipway.cli.output import note, print_table

    words = {
        "passed": tr("passed"),
        "crashed": tr("crashed"),
        "wrong": tr("wrong numbers"),
        "failed": tr("failed"),
        "not_offered": tr("not offered by these tools"),
    }
    rows = [
        (
            row.name,
            words[row.status],
            "-" if row.ratio is None else f"{row.ratio:.4f}",
            f"{row.seconds:.2f}",
            row.detail[:100],
        )
        for row in result.types
    ]
    print_table(
        [tr("type"), tr("result"), tr("perplexity / as floats"), tr("seconds"), tr("what failed")],
        rows,
    )
    passed = sum(row.status == "passed" for row in result.types)
    note(
        tr(
            "{passed} of {total} types passed in {seconds} s",
            passed=passed,
            total=len(result.types),
            seconds=f"{result.seconds:.1f}",
        )
    )
