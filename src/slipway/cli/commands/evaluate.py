"""`slipway eval`: models measured on any set; and `slipway eval compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slipway.cli.commands.eval_compare import compare
from slipway.cli.commands.eval_quants import quant_folders
from slipway.core.i18n import Text, tr

__all__ = ["evaluate", "quant_folders"]

_PATH = click.Path(path_type=Path)
# the options of the comparison of quants; see `eval_quants`
_QUANTS_ONLY = {"tuned", "gguf", "base_gguf", "quants", "text"}
_BOTH = {"base", "data", "rows", "quick", "output", "as_json", "models"}
_QUANT_ROWS = 48
_DAEMON = "http://127.0.0.1:11434"


class _EvalCommand(click.Command):
    """`eval MODEL...`, unless the first word is `compare`."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        if args and args[0] == "compare":
            return compare.make_context(f"{info_name} compare", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


def _option(*names: str, text: Text, **more: Any) -> Any:
    return click.option(*names, help=str(text), **more)


_OPTIONS = (
    _option("--data", type=_PATH, text=tr("Dataset folder or file. Default: the run's own.")),
    _option("--part", type=click.Choice(["heldout", "train", "all"]), default="heldout",
            show_default=True, text=tr("Part of a dataset folder.")),
    _option("--rows", type=click.IntRange(1), text=tr("At most so many rows, evenly over all.")),
    _option("--quick", is_flag=True, text=tr("12 rows and short answers.")),
    _option("--no-baseline", is_flag=True, text=tr("Do not measure a single run's base too.")),
    _option("--base", type=_PATH, text=tr("Folder of the base model of an adapter.")),
    _option("--endpoint", text=tr("A server with OpenAI's protocol; name its models by --model.")),
    _option("--model", "served", multiple=True, text=tr("Model of the endpoint; repeatable.")),
    _option("--key-env", text=tr("Environment variable with the endpoint's key.")),
    _option("--daemon", default=_DAEMON, show_default=True,
            text=tr("Address of the daemon that serves NAME:TAG.")),
    _option("--max-new-tokens", type=click.IntRange(1), default=256, show_default=True,
            text=tr("Longest answer.")),
    _option("--temperature", type=click.FloatRange(0), default=0.0, show_default=True,
            text=tr("0 takes the likeliest token; more draws.")),
    _option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True,
            text=tr("Draw among the likeliest tokens with this probability.")),
    _option("--seed", type=int, default=0, show_default=True, text=tr("Of draws and bootstrap.")),
    _option("--system", text=tr("System turn for every prompt, in place of the rows' own.")),
    _option("--stop", multiple=True, text=tr("Text that ends an answer; repeatable.")),
    _option("--thinking", type=click.Choice(["keep", "on", "off"]), default="keep",
            show_default=True, text=tr("Whether a model that can think first shall.")),
    _option("--template", text=tr("Chat template by name, for a model without one.")),
    _option("--no-answers", is_flag=True, text=tr("Measure the loss only.")),
    _option("--no-loss", is_flag=True, text=tr("Measure the answers only.")),
    _option("--cutoff-len", type=click.IntRange(1), default=1024, show_default=True,
            text=tr("Longest conversation for the loss, tokens.")),
    _option("--batch", type=click.IntRange(1), default=8, show_default=True,
            text=tr("Prompts answered at once by a model in memory.")),
    _option("--at-once", type=click.IntRange(1, 256), default=8, show_default=True,
            text=tr("Requests at once to a server.")),
    _option("--dtype", type=click.Choice(["auto", "bf16", "fp32"]), default="auto",
            show_default=True, text=tr("Number format of a model in memory.")),
    _option("--lf", is_flag=True, text=tr("Add LLaMA Factory's scores (lf_bleu_4, lf_rouge_*).")),
    _option("--choices", type=_PATH,
            text=tr("Multiple-choice set in MMLU, C-Eval or CMMLU layout.")),
    _option("--choices-part", type=click.Choice(["dev", "val", "test"]),
            text=tr("Part of the set. Default: the one that has answers.")),
    _option("--shots", type=click.IntRange(0), default=5, show_default=True,
            text=tr("Examples before each question.")),
    _option("--subject", "subjects", multiple=True, text=tr("Only this subject; repeatable.")),
    _option("--choice-rows", type=click.IntRange(1), text=tr("Questions of each subject.")),
    _option("--lm-eval", "tasks", text=tr("Tasks of lm-eval, with commas between.")),
    _option("--lm-eval-tasks", type=_PATH, text=tr("Folder with task definitions for lm-eval.")),
    _option("--judge", text=tr("Model that judges pairs of answers.")),
    _option("--judge-endpoint", text=tr("The judge's server. Default: --endpoint.")),
    _option("--judge-key-env", text=tr("Environment variable with the judge's key.")),
    _option("--judge-lang", type=click.Choice(["en", "zh"]), text=tr("Language of the prompt.")),
    _option("--judge-blind", is_flag=True, text=tr("The judge does not see the reference.")),
    _option("--judge-price", text=tr("Price of a million tokens: PROMPT,ANSWER.")),
    _option("--judge-at-once", type=click.IntRange(1, 64), default=4, show_default=True,
            text=tr("Requests at once to the judge.")),
    _option("--resamples", type=click.IntRange(100), default=1000, show_default=True,
            text=tr("Of the bootstrap.")),
    _option("--min", "least", multiple=True, metavar="METRIC=X",
            text=tr("Fail when a model is below; repeatable.")),
    _option("--max", "most", multiple=True, metavar="METRIC=X",
            text=tr("Fail when a model is above; repeatable.")),
    _option("--max-drop", "drop", multiple=True, metavar="METRIC=X",
            text=tr("Fail when a model is worse than the baseline by more; repeatable.")),
    _option("--fresh", is_flag=True, text=tr("Start anew; forget what was measured.")),
    _option("--tuned", type=_PATH, text=tr("Folder of the merged model.")),
    _option("--gguf", type=_PATH, text=tr("Unquantised GGUF of the tuned model.")),
    _option("--base-gguf", type=_PATH, text=tr("Unquantised GGUF of the base model.")),
    _option("--quant", "quants", type=_PATH, multiple=True,
            text=tr("Quantised GGUF, or a folder with one folder for each type; repeatable.")),
    _option("--text", type=_PATH, text=tr("Text for perplexity, before the held-out rows.")),
    _option("-o", "--output", type=_PATH, text=tr("Folder of the result.")),
    _option("--json", "as_json", is_flag=True, text=tr("Print one JSON document.")),
)  # fmt: skip


def _with_options(function: Any) -> Any:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command(
    cls=_EvalCommand,
    help=str(
        tr(
            "Measure models on a set and compare them with the first. MODEL is a run, a model "
            "folder, an adapter, a GGUF, or NAME:TAG of the daemon; write LABEL=MODEL to name it. "
            "A single run is compared with its base. With --base, --tuned, --gguf and --quant: "
            "one table of base, tuned and quants. `slipway eval compare A B` compares two results."
        )
    ),
)
@click.argument("models", nargs=-1)
@_with_options
@click.pass_context
def evaluate(context: click.Context, /, **options: Any) -> None:
    from slipway.cli.commands.eval_models import evaluate_named

    given = _given(context)
    if given & _QUANTS_ONLY or (
        "base" in given and not options["models"] and not options["served"]
    ):
        _evaluate_quants(options, given)
        return
    evaluate_named(options)


def _given(context: click.Context) -> set[str]:
    """The parameters that stand on the command line."""
    source = click.core.ParameterSource.COMMANDLINE
    return {name for name in context.params if context.get_parameter_source(name) == source}


def _evaluate_quants(options: dict[str, Any], given: set[str]) -> None:
    from slipway.cli.commands.eval_quants import evaluate_quants
    from slipway.core.errors import UsageError

    foreign = sorted(given - _QUANTS_ONLY - _BOTH) + (["models"] if options["models"] else [])
    if foreign:
        raise UsageError(
            "cli.usage",
            tr("{names} cannot be used together with --tuned, --gguf or --quant",
               names=", ".join(f"`{name}`" for name in foreign)),
            tr("name the models as arguments: `slipway eval MODEL... --data DATASET`"),
        )  # fmt: skip
    for name in ("base", "tuned", "gguf", "data"):
        if options[name] is None:
            raise UsageError(
                "cli.usage",
                tr("missing option `{name}`", name=f"--{name}"),
                tr("see `{command} --help`", command="slipway eval"),
            )
    kept = ("base", "tuned", "gguf", "base_gguf", "quants", "data", "text", "quick", "output")
    evaluate_quants(
        **{name: options[name] for name in kept},
        rows=options["rows"] or _QUANT_ROWS,
        as_json=options["as_json"],
    )
