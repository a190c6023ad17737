"""The `slipway` command: a table of lazily loaded commands; the one place that prints errors."""

from __future__ import annotations

import errno
import json
import os
import sys
from importlib import import_module
from typing import Any

import click

from slipway import __version__
from slipway.core.errors import (
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    NotFoundError,
    SlipwayError,
    from_os_error,
    nearest,
)
from slipway.core.hardware import share_cores
from slipway.core.i18n import Text, tr
from slipway.core.paths import Home

# command -> (module:attribute, one line for the list); the module is imported when it is used
COMMANDS: dict[str, tuple[str, Text]] = {
    "demo": (
        "demo:demo",
        tr("The whole path once: fine-tune, quantise, deploy, put behind a key."),
    ),
    "pull": ("pull:pull", tr("Get a model: starter, a hub, a registry or a folder.")),
    "push": ("push:push", tr("Send a model to its registry.")),
    "data": ("data:data", tr("Check datasets, show them, and make others from them.")),
    "train": ("train:train", tr("Fine-tune a model from a recipe.")),
    "runs": ("runs:runs", tr("Training runs: list, show, compare, stop, resume, queue.")),
    "merge": ("merge:merge", tr("Merge a run's adapter into its base, with proof.")),
    "ship": ("ship:ship", tr("From a run to a name in the model store, in one command.")),
    "toolchain": ("toolchain:toolchain", tr("Install llama.cpp's tools, test them, run them.")),
    "convert": ("convert:convert", tr("Convert a model folder to GGUF, with template proof.")),
    "prove": ("prove:prove", tr("Compare a GGUF with its model folder, token by token.")),
    "imatrix": ("imatrix:imatrix", tr("Measure which weights matter, for the quantiser.")),
    "quantize": ("quantize:quantize", tr("Quantise a GGUF to one or more types.")),
    "eval": (
        "evaluate:evaluate",
        tr("Measure models on any set, and say whether they really differ."),
    ),
    "explain": ("explain:explain", tr("Show how something works, on your own model.")),
    "gguf": ("gguf:gguf", tr("Look into GGUF files, check them, compare them.")),
    "quality": (
        "quality:quality",
        tr("Measure what quantising costs: a card with a recommendation, and a gate."),
    ),
    "bench": ("bench:bench", tr("Measure speed and memory of models over settings.")),
    "create": ("create:create", tr("Create a name:tag in the model store from a Modelfile.")),
    "list": ("models:list_models", tr("List the models in the store.")),
    "show": ("models:show", tr("Show a model's details.")),
    "cp": ("loaded:copy", tr("Give a model a second name.")),
    "rm": ("models:remove", tr("Remove a model from the store.")),
    "store": ("store:store", tr("Check the model store, clear it up, import Ollama's models.")),
    "serve": ("serve:serve", tr("Run the model daemon (Ollama and OpenAI API).")),
    "run": ("run:run", tr("Talk to a model, once or in a dialogue.")),
    "compare": (
        "compare:compare",
        tr("Ask several models and settings the same prompts, side by side."),
    ),
    "embed": ("embed:embed", tr("Turn texts into vectors; search a folder by meaning.")),
    "ps": ("loaded:ps", tr("Show the models in the daemon's memory.")),
    "stop": ("loaded:stop", tr("Unload models from the daemon's memory.")),
    "top": ("top:top", tr("Watch what the daemon is doing.")),
    "gateway": ("gateway:gateway", tr("Run the gateway; manage users, tokens and channels.")),
    "chat": ("chat:chat", tr("Chat in the terminal through the gateway.")),
    "down": ("services:down", tr("Stop the services that run in the background.")),
    "status": ("services:status", tr("Show the services that run in the background.")),
    "fit": (
        "fit:fit",
        tr("Show what fits this machine's memory: training by method, inference by precision."),
    ),
    "doctor": ("doctor:doctor", tr("Show this machine, the tools found, and what is missing.")),
}
ALIASES = {"ls": "list", "start": "serve"}
# never a bug of Slipway's, wherever they come from
MACHINE_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        loaded = getattr(import_module(f"slipway.cli.commands.{module}"), attribute)
        assert isinstance(loaded, click.Command)
        return loaded

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and args[0] not in ALIASES:
            close = nearest(args[0], COMMANDS)
            hint = (
                tr("did you mean {names}?", names=", ".join(f"`{n}`" for n in close))
                if close
                else tr("see the list with `slipway --help`")
            )
            error = SlipwayError(
                "cli.unknown_command", tr("unknown command `{name}`", name=args[0]), hint
            )
            error.exit_code = EXIT_USAGE
            raise error
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section(str(tr("Commands"))):
            formatter.write_dl([(name, str(text)) for name, (_, text) in COMMANDS.items()])


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help=str(
        tr(
            "Slipway takes a language model the whole way: data, fine-tune, merge, GGUF, quantise, "
            "serve, gateway, client. Start with `slipway demo`."
        )
    ),
)
@click.version_option(__version__, prog_name="slipway")
def cli() -> None:
    pass


def report(error: SlipwayError, *, as_json: bool) -> None:
    """Print an error on stderr, for people or as one JSON document."""
    if as_json:
        print(json.dumps({"error": error.as_json()}, ensure_ascii=False), file=sys.stderr)
        return
    print(f"{tr('error')}: {error.message}", file=sys.stderr)
    if str(error.hint):
        print(f"\n{tr('hint')}: {error.hint}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit code (see `slipway.core.errors`)."""
    share_cores()
    arguments = sys.argv[1:] if argv is None else argv
    as_json = "--json" in arguments
    try:
        result: Any = cli.main(arguments, prog_name="slipway", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except SlipwayError as error:
        report(error, as_json=as_json)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return EXIT_USAGE
    except click.exceptions.FileError as error:
        problem = NotFoundError("file.not_found", error.format_message())
        report(problem, as_json=as_json)
        return problem.exit_code
    except click.ClickException as error:
        usage = SlipwayError(
            "cli.usage",
            error.format_message(),
            tr("see `{command} --help`", command=_command_path(error)),
        )
        report(usage, as_json=as_json)
        return EXIT_USAGE
    except (KeyboardInterrupt, click.Abort):
        print(file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in MACHINE_FAULTS:
            raise
        fault = from_os_error(error, error.filename or Home.current().root)
        report(fault, as_json=as_json)
        return fault.exit_code


def _command_path(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context else "slipway"


def entry() -> None:
    """The console script."""
    sys.exit(main())
