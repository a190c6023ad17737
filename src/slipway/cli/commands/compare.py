"""`slipway compare`: several models and settings answer the same prompts."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from slipway.cli.connect import connect, url_option
from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.cli.compare.ask import Comparison

Shape = Literal["columns", "markdown", "json"]


@click.command(
    help=str(
        tr(
            "Ask several models, or one with several settings, the same prompts. Each combination "
            "of MODELS, --system and the values after --temperature, --top-p, --sweep answers "
            "every prompt with the same seed."
        )
    ),
    epilog=str(
        tr(
            "Examples: `slipway compare kefu:q4 kefu:q8 -p 'Where is my parcel?'`; "
            "`slipway compare kefu:q4 --temperature 0,0.7,1 --system a.txt --system b.txt "
            "--prompts questions.txt --output report.md`"
        )
    ),
)
@click.argument("models", nargs=-1, required=True)
@click.option(
    "--prompt", "-p", "prompts", multiple=True, help=str(tr("A prompt; several times for more."))
)
@click.option(
    "--prompts",
    "prompt_file",
    type=click.Path(path_type=Path),
    help=str(tr("A file with a prompt on each line, or JSON lines with `prompt`.")),
)
@click.option("--system", "systems", multiple=True, help=str(tr("System prompt, or its file.")))
@click.option("--temperature", metavar="V,V", help=str(tr("Temperatures to try.")))
@click.option("--top-p", metavar="V,V", help=str(tr("Values of top_p to try.")))
@click.option(
    "--sweep",
    "sweeps",
    multiple=True,
    metavar="NAME=V,V",
    help=str(tr("Values of any parameter to try.")),
)
@click.option(
    "--option",
    "-o",
    "pairs",
    multiple=True,
    metavar="NAME=VALUE",
    help=str(tr("A parameter that is the same for all.")),
)
@click.option(
    "--seed", default="42", show_default=True, metavar="V,V", help=str(tr("Seeds to try."))
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help=str(tr("Tokens of an answer at most.")),
)
@click.option("--think", metavar="LEVEL", help=str(tr("Whether, or how hard, models think first.")))
@click.option(
    "--format",
    "shape",
    type=click.Choice(["columns", "markdown", "json"]),
    help=str(tr("How to print; default: columns on a terminal, else Markdown.")),
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help=str(tr("Also write it to a file: Markdown, or JSON when it ends in .json.")),
)
@url_option
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print the result as JSON.")))
def compare(
    models: tuple[str, ...], url: str | None, as_json: bool, shape: Shape | None, **given: Any
) -> int:
    from slipway.cli.compare.ask import Comparison, ask_all, require_models
    from slipway.cli.output import LiveLine
    from slipway.cli.talk.values import read_think
    from slipway.core.errors import EXIT_FAILED, EXIT_INTERRUPTED

    comparison = Comparison(_prompts(given), _variants(models, given))
    think = read_think(given["think"]) if given["think"] else None
    total = len(comparison.prompts) * len(comparison.variants)
    line, interrupted = LiveLine(), False
    with connect(url, may_start=True) as daemon:
        require_models(daemon, comparison.variants)

        def progress(_cell: object) -> None:
            line.show(tr("{done} of {total} answers", done=len(comparison.cells), total=total))

        line.show(tr("{done} of {total} answers", done=0, total=total))
        try:
            ask_all(daemon, comparison, think=think, on_cell=progress)
        except KeyboardInterrupt:
            interrupted = True
    line.done()
    _show(comparison, "json" if as_json else shape)
    if given["output"]:
        _write(comparison, given["output"])
    if interrupted:
        return EXIT_INTERRUPTED
    return EXIT_FAILED if any(cell.error for cell in comparison.cells) else 0


def _prompts(given: dict[str, Any]) -> list[str]:
    from slipway.cli.compare.plan import read_prompts
    from slipway.core.errors import UsageError

    prompts = [prompt for prompt in given["prompts"] if prompt.strip()]
    if given["prompt_file"]:
        prompts += read_prompts(given["prompt_file"])
    if not prompts:
        raise UsageError(
            "compare.no_prompt",
            tr("no prompt was given"),
            tr("give `-p 'a prompt'`, several times if you like, or `--prompts FILE`"),
        )
    return prompts


def _variants(models: tuple[str, ...], given: dict[str, Any]) -> list[Any]:
    from slipway.cli.compare.plan import read_sweeps, variants
    from slipway.cli.talk.values import read_options

    named = {"temperature": given["temperature"], "top_p": given["top_p"], "seed": given["seed"]}
    sweeps = read_sweeps([*(f"{k}={v}" for k, v in named.items() if v), *given["sweeps"]])
    fixed = {"num_predict": given["max_tokens"], **read_options(given["pairs"])}
    return variants(models, given["systems"], sweeps, fixed)


def _show(comparison: Comparison, shape: Shape | None) -> None:
    from slipway.cli.compare.render import as_markdown, on_terminal
    from slipway.cli.output import print_json

    if shape == "json":
        print_json(comparison.as_json())
    elif shape == "markdown" or (shape is None and not sys.stdout.isatty()):
        print(as_markdown(comparison), end="")
    else:
        from rich.console import Console

        columns = shutil.get_terminal_size().columns
        console = Console(width=columns)
        for part in on_terminal(comparison, columns):
            console.print(part)


def _write(comparison: Comparison, path: Path) -> None:
    from slipway.cli.compare.render import as_markdown
    from slipway.cli.output import note
    from slipway.core.files import write_json, write_text

    if path.suffix == ".json":
        write_json(path, comparison.as_json())
    else:
        write_text(path, as_markdown(comparison))
    note(tr("written to {path}", path=str(path)))
