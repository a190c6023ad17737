"""`slipway toolchain path` and `exec`: llama.cpp's tools for one's own hands."""

from __future__ import annotations

import os
import sys

import click

from slipway.core.i18n import tr


@click.command("path", help=str(tr("Print the folder of the tools, or the path of one PROGRAM.")))
@click.argument("program", required=False)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def path_of(program: str | None, as_json: bool) -> None:
    from slipway.cli.output import print_json
    from slipway.core.paths import Home
    from slipway.export.toolchain import require_toolchain
    from slipway.export.toolchain.command import tool_path

    found = require_toolchain(Home.current())
    path = tool_path(found, program) if program else found.bin
    if as_json:
        print_json({"path": str(path)})
    else:
        print(path)


@click.command(
    "exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    help=str(
        tr(
            "Run one of llama.cpp's tools directly: `slipway toolchain exec llama-cli -- -m "
            "model.gguf`. Nothing is added to its output; its exit status is passed on. Without "
            "PROGRAM the tools are listed."
        )
    ),
)
@click.argument("program", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGS]...")
def exec_tool(program: str | None, arguments: tuple[str, ...]) -> None:
    from slipway.core.paths import Home
    from slipway.export.toolchain import require_toolchain
    from slipway.export.toolchain.command import tool_command, tool_names

    found = require_toolchain(Home.current())
    if program is None:
        for name in tool_names(found):
            print(name)
        return
    rest = list(arguments[1:] if arguments[:1] == ("--",) else arguments)
    command = tool_command(found, program, rest, os.environ)
    sys.stdout.flush()
    sys.stderr.flush()
    # not a child: signals, terminal and exit status are the tool's own
    os.execve(command.argv[0], command.argv, command.env)
