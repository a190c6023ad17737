"""From a base model to quantised, measured GGUF files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError
from slipway.core.files import new_folder, write_json
from slipway.core.hardware import probe
from slipway.core.i18n import tr
from slipway.core.manifest import package_versions, read_manifest, write_manifest
from slipway.demo.context import DemoContext, stage_folder
from slipway.demo.options import examples_folder
from slipway.ship.artefacts import Outputs, Results, artefact, artefact_is_whole

EMBED_BASE = "starter-embed"
# Steps between evals for a run that shall be short: only the first and the last are made.
NO_EVALS_BETWEEN = 1_000_000
MOSTLY_CJK = 0.3
# The recipes' rate is tuned for the starter; larger models want a lower one.
LARGER_BASE_LEARNING_RATE = "1e-3"


def look_at_machine(context: DemoContext, results: Results) -> Outputs:
    """Processor, memory and package versions, for the report."""
    hardware = probe()
    context.say(
        tr(
            "{cpu}, {cores} cores, {memory:.0f} GiB memory",
            cpu=hardware.cpu,
            cores=hardware.cores,
            memory=hardware.memory_bytes / 2**30,
        )
    )
    return {
        "hardware": {**asdict(hardware), "cpu_flags": sorted(hardware.cpu_flags)},
        "versions": package_versions(
            "torch", "transformers", "peft", "tokenizers", "xllamacpp", "starlette", "aiohttp"
        ),
    }


def pull(context: DemoContext, results: Results) -> Outputs:
    """The base model, and the small embedding model."""
    from slipway.store.pull import pull_base

    context.say(tr("base model: {name}", name=context.base))
    folder = pull_base(context.base, home=context.home, events=context.events)
    outputs: Outputs = {"name": context.base, "base": artefact(folder)}
    if context.options.with_embeddings:
        embed = pull_base(EMBED_BASE, home=context.home, events=context.events)
        outputs["embed"] = artefact(embed)
    return outputs


def check_data(context: DemoContext, results: Results) -> Outputs:
    """Check every row and count; a dataset with bad rows stops the demo.

    Leaves the findings as an artefact whose parent is the dataset.
    """
    from slipway.datasets import check_dataset, dataset_digest, dataset_stats, load_tokenizer

    report = check_dataset(context.data)
    if not report.ok:
        raise InputError(
            "data.not_clean",
            tr("{path} has rows that cannot be trained on", path=str(context.data)),
            tr("see them with `slipway data check {path}`", path=str(context.data)),
        )
    tokenizer = load_tokenizer(Path(results["pull"]["base"]["folder"]))
    stats = dataset_stats(context.data, tokenizer=tokenizer)
    context.say(tr("{path}: every row is well-formed", path=str(context.data)))
    digest = dataset_digest(context.data)
    findings = {"stats": stats.as_json(), "check": report.as_json()}
    out = stage_folder(context, "data", digest)
    with new_folder(out) as build:
        for name, value in findings.items():
            write_json(build / f"{name}.json", value)
        manifest = write_manifest(build, "dataset", context.data.name, parents={"dataset": digest})
    return {
        **artefact(out, manifest),
        "path": str(context.data),
        "name": context.data.name,
        "dataset_digest": digest,
        **findings,
    }


def toolchain(context: DemoContext, results: Results) -> Outputs:
    """llama.cpp's tools: found, or built once for this machine, and self-tested."""
    from slipway.export.toolchain import install_toolchain

    tools = install_toolchain(context.home, events=context.events)
    context.say(
        tr(
            "llama.cpp {version} ({provider}, {variant})",
            version=tools.version,
            provider=tools.provider,
            variant=tools.variant,
        )
    )
    return {
        "tools": str(tools.folder),
        "version": tools.version,
        "provider": tools.provider,
        "variant": tools.variant,
        "flags": list(tools.flags),
    }


def toolchain_intact(outputs: Outputs) -> bool:
    """Whether the toolchain's programs are still there."""
    return Path(outputs["tools"]).is_dir()


def recipe_file(context: DemoContext) -> Path:
    """The recipe of the example dataset, or the general one for a dataset of the user's."""
    own = examples_folder() / "recipes" / f"{context.data.name}.yaml"
    return own if own.is_file() else examples_folder() / "recipes" / "support-en.yaml"


def train_inputs(context: DemoContext, results: Results) -> Any:
    """What decides whether training must run again."""
    return {
        "base": results["pull"]["base"]["digest"],
        "dataset": results["data"]["dataset_digest"],
        "recipe": recipe_file(context).read_text(encoding="utf-8"),
        "budget_s": context.options.budget_s,
        "max_steps": context.options.max_steps,
    }


def train(context: DemoContext, results: Results) -> Outputs:
    """LoRA fine-tuning within the time budget."""
    from slipway.jobs import registering
    from slipway.training import load_recipe
    from slipway.training import train as run_training

    overrides = [
        f"model={results['pull']['base']['folder']}",
        f"data={context.data}",
        f"time_budget_s={context.options.budget_s:g}",
    ]
    if context.base != "starter":
        overrides.append(f"learning_rate={LARGER_BASE_LEARNING_RATE}")
    if context.options.quick:
        overrides.append(f"eval_every={NO_EVALS_BETWEEN}")
    if context.options.max_steps:
        overrides.append(f"max_steps={context.options.max_steps}")
    recipe = load_recipe(recipe_file(context), overrides)
    run_dir = stage_folder(context, "run", train_inputs(context, results))
    context.say(
        tr(
            "training is sized to {minutes:.1f} minutes on this machine, by its measured speed",
            minutes=context.options.budget_s / 60,
        )
    )
    context.events.subscribe(registering(context.home, run_dir, ["demo"], context.say))
    run_training(recipe, run_dir=run_dir, events=context.events)
    manifest = read_manifest(run_dir, kind="run")
    return {**artefact(run_dir, manifest), "metrics": manifest.metrics}


def merge(context: DemoContext, results: Results) -> Outputs:
    """The adapter merged into its base, with the proof in the manifest."""
    from slipway.export.merge import merge_run

    out = stage_folder(context, "merged", results["train"]["digest"])
    manifest = merge_run(Path(results["train"]["folder"]), out, events=context.events)
    return {**artefact(out, manifest), "metrics": manifest.metrics}


def convert(context: DemoContext, results: Results) -> Outputs:
    """GGUF of tuned, base and embedding model, each with its tokenizer and template proof.

    Those of the pulled models lie in the home and serve every later demo.
    """
    outputs: Outputs = {}
    for role in ("base", "embed"):
        if role in results["pull"]:
            source = results["pull"][role]
            name = f"{Path(source['folder']).name}-{source['digest'][7:17]}-bf16"
            outputs[role] = _gguf(context, source, context.home.artefacts / name)
    tuned = results["merge"]
    out = stage_folder(context, "gguf", [tuned["digest"], results["toolchain"]["version"]])
    outputs["tuned"] = _gguf(context, tuned, out)
    context.say(tr("template and tokenizer of the GGUF equal those that were trained"))
    return outputs


def _gguf(context: DemoContext, source: Outputs, out: Path) -> Outputs:
    """The GGUF artefact of a model folder, made unless it is there."""
    from slipway.export import convert_to_gguf

    if not artefact_is_whole(out):
        convert_to_gguf(Path(source["folder"]), out, home=context.home, events=context.events)
    manifest = read_manifest(out, kind="gguf")
    return {**artefact(out, manifest), "notes": manifest.notes}


def quantise(context: DemoContext, results: Results) -> Outputs:
    """One quantised GGUF for each type."""
    from slipway.export import quantize

    source = results["convert"]["tuned"]
    out = stage_folder(context, "quants", [source["digest"], context.options.types])
    made = quantize(
        Path(source["folder"]),
        list(context.options.types),
        out,
        home=context.home,
        events=context.events,
    )
    return {
        kind: {**artefact(out / kind, manifest), "metrics": manifest.metrics}
        for kind, manifest in made.items()
    }


def _text_file(results: Results) -> Path:
    """Prose in the dataset's language, for perplexity and KLD."""
    share = results["data"]["stats"]["splits"]["train"]["cjk_share"]
    return examples_folder() / "text" / ("zh.txt" if share > MOSTLY_CJK else "en.txt")


def evaluate(context: DemoContext, results: Results) -> Outputs:
    """Base, tuned and quants on held-out rows and a text, by numbers and side by side."""
    from slipway.export import EvalPlan, evaluate_models

    convert_outputs = results["convert"]
    out = stage_folder(
        context,
        "evaluation",
        [results["quantise"], results["data"]["dataset_digest"], context.options.eval_rows],
    )
    plan = EvalPlan(
        base=Path(results["pull"]["base"]["folder"]),
        tuned=Path(results["merge"]["folder"]),
        gguf=Path(convert_outputs["tuned"]["folder"]),
        base_gguf=Path(convert_outputs["base"]["folder"]),
        quants={kind: Path(o["folder"]) for kind, o in results["quantise"].items()},
        heldout=context.data,
        text=_text_file(results),
        rows=context.options.eval_rows,
        chunks=context.options.eval_chunks,
        home=context.home,
        out_dir=out,
    )
    result = evaluate_models(plan, events=context.events)
    return {**artefact(out), "results": result.as_json()}
