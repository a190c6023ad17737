"""`slipway toolchain`: llama.cpp's tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from slipway.cli.commands.toolchain_build import build, test
from slipway.cli.commands.toolchain_run import exec_tool, path_of
from slipway.core.i18n import Text, tr

if TYPE_CHECKING:
    from slipway.export.toolchain import Toolchain


@click.group(help=str(tr("Install llama.cpp's tools, test them, run them.")))
def toolchain() -> None:
    pass


toolchain.add_command(build)
toolchain.add_command(test)
toolchain.add_command(path_of)
toolchain.add_command(exec_tool)


@toolchain.command(
    help=str(
        tr(
            "Use the tools in SLIPWAY_TOOLCHAIN or on PATH when they pass the self-test; else "
            "build them from source, for this processor, and test the build."
        )
    )
)
@click.option("-j", "--jobs", type=click.IntRange(1), help=str(tr("Compilers at once.")))
@click.option(
    "--from-archive",
    metavar="FILE|URL",
    help=str(tr("Install an official prebuilt archive (zip, tar.gz) instead.")),
)
@click.option(
    "--sha256", metavar="HEX", help=str(tr("The archive's digest; needed for an address."))
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def install(jobs: int | None, from_archive: str | None, sha256: str | None, as_json: bool) -> None:
    from slipway.cli.commands.toolchain_build import StageLine
    from slipway.cli.output import note
    from slipway.core.errors import UsageError
    from slipway.core.events import EventLog
    from slipway.core.paths import Home
    from slipway.export.toolchain import install_toolchain

    if sha256 and not from_archive:
        raise UsageError(
            "cli.usage",
            tr("`--sha256` is the digest of an archive"),
            tr("name it too: `--from-archive FILE|URL`"),
        )
    home = Home.current()
    line = StageLine()
    if from_archive:
        from slipway.export.toolchain.archive import install_archive

        found = install_archive(home, from_archive, sha256=sha256, on_progress=line.show)
    else:
        log = EventLog(home.logs / "toolchain.jsonl")
        found = install_toolchain(home, events=log, on_progress=line.show, jobs=jobs, recheck=True)
    line.done()
    if not as_json:
        note(tr("llama.cpp's tools are ready in {folder}", folder=str(found.folder)))
    show_toolchain(found, as_json)


@toolchain.command(help=str(tr("Show which tools are in use, how they were built, and why so.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def status(as_json: bool) -> None:
    from slipway.core.paths import Home
    from slipway.export.toolchain import find_toolchain, require_toolchain

    home = Home.current()
    show_toolchain(find_toolchain(home) or require_toolchain(home), as_json)


@toolchain.command("list", help=str(tr("List the toolchains that are installed, best first.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def list_toolchains(as_json: bool) -> None:
    from slipway.cli.output import note, print_json, print_table, size
    from slipway.core.paths import Home
    from slipway.export.toolchain.status import installed_rows

    rows = installed_rows(Home.current())
    if as_json:
        print_json({"toolchains": rows})
        return
    if not rows:
        note(tr("none is installed; `slipway toolchain install` installs one"))
        return
    print_table(
        [tr("name"), tr("version"), tr("built for"), tr("state"), tr("size"), tr("in use")],
        [
            (
                row["name"],
                row["version"],
                row["variant"],
                state_text(row["state"]),
                size(row["bytes"]),
                _use_mark(row),
            )
            for row in rows
        ],
    )


def _use_mark(row: dict[str, Any]) -> Text | str:
    if row["in_use"]:
        return tr("yes, chosen") if row["pinned"] else tr("yes, the best")
    return tr("chosen, but it fails here") if row["pinned"] else ""


@toolchain.command(
    help=str(tr("Use the toolchain NAME from now on; `auto` uses the best there is."))
)
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def use(name: str, as_json: bool) -> None:
    from slipway.cli.output import note
    from slipway.core.paths import Home
    from slipway.export.toolchain import require_toolchain
    from slipway.export.toolchain.find import named_install, pin

    home = Home.current()
    pin(home, None if name == "auto" else named_install(home, name).name)
    found = require_toolchain(home)
    if not as_json:
        note(tr("in use: {folder}", folder=str(found.folder)))
        if name not in ("auto", found.folder.name):
            note(
                tr("`{name}` was chosen, but it fails here or another place comes first", name=name)
            )
    show_toolchain(found, as_json)


@toolchain.command(help=str(tr("Remove the toolchain NAME from the home.")))
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def rm(name: str, as_json: bool) -> None:
    from slipway.cli.output import note, print_json
    from slipway.core.paths import Home
    from slipway.export.toolchain.find import all_installed
    from slipway.export.toolchain.remove import remove_toolchain

    home = Home.current()
    freed = remove_toolchain(home, name)
    left = [item.name for item in all_installed(home)]
    if as_json:
        print_json({"removed": name, "bytes": freed, "left": left})
        return
    from slipway.cli.output import size

    note(tr("removed {name} ({size})", name=name, size=size(freed)))
    if not left:
        note(tr("none is installed; `slipway toolchain install` installs one"))


def state_text(state: str) -> Text:
    """The state of a toolchain for people."""
    return {
        "tested": tr("tested here"),
        "other_cpu": tr("tested on another processor"),
        "failed": tr("fails here"),
    }[state]


def show_toolchain(found: Toolchain, as_json: bool) -> None:
    """Print what is known of a toolchain."""
    from slipway.cli.output import print_json, print_table
    from slipway.core.paths import Home
    from slipway.export.toolchain.gpu import choose, look
    from slipway.export.toolchain.status import describe

    facts = describe(found, Home.current())
    if as_json:
        print_json(facts)
        return
    pinned = facts["pinned"]
    gpu = "; ".join(
        f"{choice.gpu}: {tr('built in') if choice.use else tr('left out')}, {choice.why}"
        for choice in choose(look())
    )
    rows = [
        (tr("folder"), facts["folder"]),
        (tr("llama.cpp"), facts["version"]),
        (tr("found as"), facts["provider"]),
        (tr("built for"), facts["variant"]),
        (tr("state"), state_text(facts["state"])),
        (tr("build settings"), " ".join(facts["flags"]) or "-"),
        (tr("why"), _why(facts)),
        (tr("CPU features used"), " ".join(facts["features_used"]) or "-"),
        (tr("CPU features not used"), " ".join(facts["features_missed"]) or "-"),
        (tr("GPU backends a build would have"), gpu),
        (tr("programs"), ", ".join(facts["programs"])),
        (tr("converters"), ", ".join(facts["converters"])),
        (tr("made from"), facts["source"] or "-"),
        (tr("pinned release"), f"{pinned['version']}, {pinned['archive']} "
                               f"sha256:{pinned['sha256']}"),
    ]  # fmt: skip
    print_table([tr("item"), tr("value")], rows)
    for variant, failures in facts["rejected"].items():
        for name, why in failures.items():
            print(f"{tr('rejected')}: {variant}, {name}: {why}")


def _why(facts: dict[str, Any]) -> Text | str:
    if facts["rejected"]:
        return tr("faster variants failed: {names}", names=", ".join(facts["rejected"]))
    if facts["provider"] == "prebuilt" or facts["variant"] == "prebuilt":
        return tr("installed from an archive by the user")
    if facts["seconds"] is not None:
        return tr("the fastest variant, and it passed its self-test")
    return "-"
