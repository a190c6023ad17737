"""`slipway eval MODEL...`: from options to a plan, and the result on the screen."""

from __future__ import annotations

import os
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.cli.commands.eval_pairs import reward_run, show_pairs
from slipway.core.errors import UsageError
from slipway.core.i18n import Text, tr

if TYPE_CHECKING:
    from slipway.core.paths import Home
    from slipway.evaluation import Judge, Model, Plan
    from slipway.evaluation.run_data import RunData

_QUICK_ROWS = 12
_QUICK_TOKENS = 80
_ZH = frozenset("的是了我你不在有")


def evaluate_named(options: dict[str, Any]) -> None:
    """Do what the options say; see `slipway.evaluation.evaluate`."""
    from slipway.cli.output import LiveLine, print_json
    from slipway.core.events import EventLog
    from slipway.core.paths import Home
    from slipway.evaluation import Gates, evaluate, gates

    home = Home.current()
    if run := reward_run(options, home):
        show_pairs(run, options, home)
        return
    bounds = Gates(
        gates.parse_bounds(options["least"], "--min"),
        gates.parse_bounds(options["most"], "--max"),
        gates.parse_bounds(options["drop"], "--max-drop"),
    )
    plan = make_plan(options, home)
    line = LiveLine()

    def show(event: dict[str, Any]) -> None:
        if event["type"] != "progress" or event.get("stage") != "eval" or "done" not in event:
            return
        if event["fraction"] is None:
            line.show(tr("measuring {part}", part=event["part"]))
        else:
            line.show(
                tr("measuring {part} ({done} of {total})",
                   part=event["part"], done=event["done"], total=event["total"])
            )  # fmt: skip

    results = evaluate(plan, events=EventLog(None, show), fresh=options["fresh"])
    line.done()
    if options["as_json"]:
        print_json({"folder": str(plan.out_dir), **results})
    else:
        print_results(results, plan.out_dir)
    gates.require(results, bounds)


def make_plan(options: dict[str, Any], home: Home) -> Plan:
    """The plan that the options mean.

    Raises:
        SlipwayError: a model or key is not there, or options contradict each other.
    """
    from slipway.evaluation import ChoicePlan, Generation, Plan
    from slipway.evaluation.plan import folder_name

    models = _models(options, home)
    data = options["data"] or (models[-1].data if models else None)
    if options["choices"] and not options["data"]:
        data = None  # a choice set alone was asked for
    quick = options["quick"]
    rows = min(options["rows"] or _QUICK_ROWS, _QUICK_ROWS) if quick else options["rows"]
    tokens = options["max_new_tokens"]
    choices = options["choices"] and ChoicePlan(
        options["choices"],
        options["choices_part"],
        options["shots"],
        tuple(options["subjects"]),
        options["choice_rows"],
    )
    fields: dict[str, Any] = {
        "models": tuple(models),
        "data": data,
        "part": options["part"],
        "rows": rows,
        "system": options["system"],
        "generation": Generation(
            min(tokens, _QUICK_TOKENS) if quick else tokens,
            options["temperature"],
            options["top_p"],
            options["seed"],
            tuple(options["stop"]),
            options["thinking"],
        ),
        "losses": not options["no_loss"],
        "answers": not options["no_answers"],
        "cutoff_len": options["cutoff_len"],
        "batch": options["batch"],
        "at_once": options["at_once"],
        "server": _server(models, home),
        "lf": options["lf"],
        "seed": options["seed"],
        "resamples": options["resamples"],
        "choices": choices or None,
        "judge": _judge(options, data),
        "lm_eval": tuple(t.strip() for t in (options["tasks"] or "").split(",") if t.strip()),
        "lm_eval_tasks": options["lm_eval_tasks"],
        "dtype": options["dtype"],
        "template": options["template"],
    }
    if options["output"]:
        return Plan(out_dir=options["output"], **fields)
    draft = Plan(out_dir=Path(), **fields)
    folder = home.artefacts / folder_name(draft.models, draft.settings())
    return Plan(out_dir=folder, **fields)


def _models(options: dict[str, Any], home: Home) -> list[Model]:
    from slipway.evaluation import find_model, served_model
    from slipway.evaluation.models import key_from, unique_labels, with_baseline

    if options["served"] and not options["endpoint"]:
        raise UsageError("cli.usage", tr("`--model` needs `--endpoint URL`"))
    if options["endpoint"] and not options["served"] and not options["judge"]:
        raise UsageError(
            "cli.usage",
            tr("`--endpoint` needs `--model NAME`"),
            tr("see its models with `curl {url}/v1/models`", url=options["endpoint"].rstrip("/")),
        )
    named = [
        find_model(text, home, base=options["base"], daemon=options["daemon"])
        for text in options["models"]
    ]
    if options["served"]:
        key = key_from(options["key_env"], os.environ.get)
        named += [served_model(options["endpoint"], name, key) for name in options["served"]]
    elif not options["no_baseline"]:
        named = with_baseline(named)
    return unique_labels(named)


def _server(models: list[Model], home: Home) -> tuple[str, ...]:
    if not any(model.kind == "gguf" for model in models):
        return ()
    from slipway.engine.providers import find_provider
    from slipway.engine.settings import EngineSettings

    return find_provider(EngineSettings.from_env(), home).command


def _judge(options: dict[str, Any], data: Path | RunData | None) -> Judge | None:
    from slipway.evaluation import Judge
    from slipway.evaluation.models import key_from

    if not options["judge"]:
        return None
    url = options["judge_endpoint"] or options["endpoint"]
    if not url:
        raise UsageError("cli.usage", tr("`--judge` needs `--judge-endpoint URL`"))
    # the models' key is for their server only
    variable = options["judge_key_env"]
    if not variable and url == options["endpoint"]:
        variable = options["key_env"]
    return Judge(
        url,
        options["judge"],
        key_from(variable, os.environ.get),
        options["judge_lang"] or _language_of(data, options["part"]),
        not options["judge_blind"],
        options["judge_at_once"],
        _price(options["judge_price"]),
    )


def _language_of(data: Path | RunData | None, part: str) -> Any:
    """Chinese when the first references are."""
    from slipway.evaluation.questions import read_questions

    if data is None:
        return "en"
    few = read_questions(data, part=part, rows=5).questions  # type: ignore[arg-type]
    return "zh" if _ZH & set("".join(q.reference for q in few)) else "en"


def _price(text: str | None) -> tuple[Decimal, Decimal] | None:
    if text is None:
        return None
    try:
        prompt, answer = (Decimal(part.strip()) for part in text.split(","))
        if prompt < 0 or answer < 0 or not (prompt + answer).is_finite():
            raise ValueError
    except (ValueError, InvalidOperation) as error:
        raise UsageError(
            "cli.usage",
            tr("`--judge-price {text}` is not two prices", text=text),
            tr("write it like `--judge-price 0.5,1.5`"),
        ) from error
    return prompt, answer


def print_results(results: dict[str, Any], folder: Path) -> None:
    """The table of scores, a sentence for each difference, and where the rest is."""
    from slipway.cli.output import print_table
    from slipway.evaluation.plan import REPORT

    labels = list(results["models"])
    names = list(dict.fromkeys(n for m in results["models"].values() for n in m["metrics"]))
    columns: list[Text | str] = [tr("metric")]
    for label in labels:
        columns += [label, tr("95 % interval")]
    rows = []
    for name in names:
        row = [name]
        for label in labels:
            found = results["models"][label]["metrics"].get(name)
            row += (
                [f"{found['value']:.4g}", f"{found['low']:.4g} .. {found['high']:.4g}"]
                if found
                else ["-", "-"]
            )
        rows.append(row)
    print_table(columns, rows)
    if results["lm_eval"]:
        print_table(
            [tr("model"), tr("task"), tr("metric"), tr("value")],
            [
                (label, task, name, f"{value:.4g}")
                for label, tasks in results["lm_eval"].items()
                for task, values in tasks.items()
                for name, value in values.items()
            ],
        )
    for text in sentences(results):
        print(text)
    print(tr("report: {path}", path=str(folder / REPORT)))


def sentences(results: dict[str, Any]) -> list[Text]:
    """What the numbers say, one line each."""
    from slipway.evaluation.report import difference_of

    found = []
    for label, changes in results["differences"].items():
        found += [
            difference_of(name, raw).sentence(label, results["baseline"])
            for name, raw in changes.items()
        ]
        rows = results["changed"].get(label)
        if rows:
            found.append(
                tr("rows by {metric}: {better} better, {worse} worse, {same} about the same",
                   metric=rows["metric"], better=rows["better"], worse=rows["worse"],
                   same=rows["same"])
            )  # fmt: skip
    for label, judged in results["judge"].items():
        found.append(
            tr("{judge}: {model} won {wins}, lost {losses}, {ties} ties, {disagreements} "
               "disagreements between the two orders, {unreadable} unreadable; {tokens} tokens, "
               "cost {cost}",
               judge=judged["judge"], model=label, wins=judged["wins"], losses=judged["losses"],
               ties=judged["ties"], disagreements=judged["disagreements"],
               unreadable=len(judged["unreadable"]),
               tokens=judged["prompt_tokens"] + judged["tokens"],
               cost=judged["cost"] or tr("unknown"))
        )  # fmt: skip
    for label, model in results["models"].items():
        if model["loss_cut"] or model["loss_dropped"]:
            found.append(
                tr(
                    "{model}: {cut} rows cut and {dropped} left out of the loss by the cut-off",
                    model=label,
                    cut=len(model["loss_cut"]),
                    dropped=len(model["loss_dropped"]),
                )
            )
        if model["failed"]:
            found.append(
                tr("{model} gave no answer to {count} rows, which count as empty",
                   model=label, count=len(model["failed"]))
            )  # fmt: skip
    return found
