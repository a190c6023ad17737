"""Make a quality card: every level against the unquantised model, part by part."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from slipway.core.events import EventLog
from slipway.core.files import sha256_file, write_bytes, write_json
from slipway.core.hardware import probe
from slipway.core.manifest import Setting, utc_now, write_manifest
from slipway.evaluation import metrics
from slipway.evaluation.bootstrap import difference
from slipway.evaluation.quality.inputs import Inputs, gather
from slipway.evaluation.quality.model import CARD, PAGE, REFERENCE, QualityCard, QualityPlan
from slipway.export.convert import require_space
from slipway.export.eval_inputs import Gguf
from slipway.export.parts import Parts

SHOWN = ("chrf", "rouge_l")


def measure_quality(plan: QualityPlan, *, events: EventLog | None = None) -> QualityCard:
    """Measure everything the plan names and write `quality.json`, `quality.md` and a manifest.

    Parts that were measured before from the same files with the same settings are not measured
    again, so a killed measurement continues.

    Args:
        events: receives "progress" events with `stage` "quality", `part` and `fraction`.

    Raises:
        UsageError: neither text nor rows.
        NotFoundError: a model, text or dataset is not there.
        InputError: a row is bad, a GGUF is damaged, or the text is too short.
        ResourceError: no toolchain, a missing package, or too little disk for the reference logits.
        ToolError: one of llama.cpp's programs failed.
    """
    from slipway.evaluation.quality.words import page

    log = events or EventLog(None)
    count = 4 + 3 * len(plan.models) + len(plan.packings)
    parts = Parts(plan.out_dir / "parts", log, total=count, stage="quality")
    with tempfile.TemporaryDirectory(prefix="slipway-quality-") as name:
        inputs = gather(plan, Path(name), parts)
        rows = _texts(plan, inputs, parts, Path(name))
        _speeds(plan, inputs, parts, rows)
        answers = _answers(plan, inputs, parts)
        if plan.packings:
            from slipway.evaluation.quality.packings import measure_packings

            packed, given = measure_packings(plan, inputs, parts)
            rows |= packed
            answers |= given
        _scores(plan, inputs, answers, rows)
    reference = rows.pop(REFERENCE)
    card = QualityCard(reference, rows, inputs.settings(plan), _machine(inputs), utc_now())
    write_json(plan.out_dir / CARD, card.as_json())
    write_bytes(plan.out_dir / PAGE, page(card).encode("utf-8"))
    _write_manifest(plan, inputs, card)
    return card


def _machine(inputs: Inputs) -> dict[str, Any]:
    here, tools = probe(), inputs.toolchain
    return {
        "cpu": here.cpu,
        "cores": here.cores,
        "accelerators": [gpu.name for gpu in here.accelerators],
        "llama.cpp": tools.version,
        "variant": tools.variant,
    }


def _all(inputs: Inputs) -> dict[str, Gguf]:
    return {REFERENCE: inputs.reference, **inputs.levels}


def _added(plan: QualityPlan) -> list[str]:
    """What an adapter adds to the key of a part."""
    return ["sha256:" + sha256_file(plan.adapter)] if plan.adapter else []


def _texts(
    plan: QualityPlan, inputs: Inputs, parts: Parts, work: Path
) -> dict[str, dict[str, Any]]:
    """Perplexity of the unquantised model; perplexity and KLD of each level against it."""
    from slipway.export.measure import divergence, perplexity

    text_key = [inputs.text_digest, inputs.text.context, inputs.text.chunks, *_added(plan)]
    reference = inputs.reference
    keys = {name: [reference.digest, g.digest, text_key] for name, g in inputs.levels.items()}
    logits = work / "logits"
    write_logits = any(not parts.has(f"{name}.kld", key) for name, key in keys.items())
    if write_logits:
        require_space(logits, inputs.logits_bytes())

    def measure() -> dict[str, float]:
        keep = logits if write_logits else None
        return perplexity(
            inputs.toolchain, reference.path, inputs.text, logits=keep, adapter=plan.adapter
        )

    found = parts.get(f"{REFERENCE}.ppl", [reference.digest, text_key], measure)
    rows = {REFERENCE: {**_facts(reference), **found}}
    if write_logits and not logits.is_file():  # perplexity was kept, the logits never are
        measure()
    for name, gguf in inputs.levels.items():
        compare = partial(
            divergence, inputs.toolchain, gguf.path, inputs.text, logits, adapter=plan.adapter
        )
        rows[name] = {**_facts(gguf), **parts.get(f"{name}.kld", keys[name], compare)}
    logits.unlink(missing_ok=True)
    return rows


def _facts(gguf: Gguf) -> dict[str, Any]:
    return {**gguf.facts(), "digest": gguf.digest}


def _speeds(
    plan: QualityPlan, inputs: Inputs, parts: Parts, rows: dict[str, dict[str, Any]]
) -> None:
    """Add bits per weight, speed at several lengths, memory and load time to each row."""
    from slipway.export.measure import footprint, speeds

    tools = inputs.toolchain
    if not (plan.prompts or plan.depths):
        return
    for name, gguf in _all(inputs).items():
        key = [gguf.digest, tools.version, tools.variant, plan.prompts, plan.depths, probe().cpu]

        def measure(path: Path = gguf.path) -> dict[str, Any]:
            return {**speeds(tools, path, plan.prompts, plan.depths), **footprint(tools, path)}

        rows[name].update(parts.get(f"{name}.speed", key, measure))


def _answers(plan: QualityPlan, inputs: Inputs, parts: Parts) -> dict[str, list[str]]:
    """Model -> its answers to the rows."""
    from slipway.export.answers import answers

    if not inputs.samples:
        return {}
    asked = [[[m.role, m.content] for m in sample.messages[:-1]] for sample in inputs.samples]
    found = {}
    for name, gguf in _all(inputs).items():
        ask: Callable[[], list[str]] = partial(
            answers,
            inputs.toolchain,
            gguf.path,
            inputs.samples,
            max_new_tokens=plan.max_new_tokens,
            slots=plan.slots,
            adapter=plan.adapter,
        )
        key = [gguf.digest, asked, plan.max_new_tokens, *_added(plan)]
        found[name] = parts.get(f"{name}.answers", key, ask)
    return found


def _scores(
    plan: QualityPlan,
    inputs: Inputs,
    answers: dict[str, list[str]],
    rows: dict[str, dict[str, Any]],
) -> None:
    """Add each model's metrics, and how sure it is that a level differs from the unquantised."""
    if not answers:
        return
    labels = [sample.messages[-1].content for sample in inputs.samples]
    scored = {name: metrics.score_texts(given, labels) for name, given in answers.items()}
    baseline = scored[REFERENCE]
    for name, found in scored.items():
        rows[name]["metrics"] = {metric: round(found[metric].value, 3) for metric in SHOWN}
        if name != REFERENCE:
            rows[name]["differences"] = {
                metric: difference(found[metric], baseline[metric], seed=plan.seed).as_json()
                for metric in SHOWN
            }


def _write_manifest(plan: QualityPlan, inputs: Inputs, card: QualityCard) -> None:
    write_manifest(
        plan.out_dir,
        "evaluation",
        plan.out_dir.name,
        files=[CARD, PAGE],
        parents={
            "gguf": inputs.reference.digest,
            **({"dataset": inputs.dataset_digest} if inputs.dataset_digest else {}),
            **{f"quant:{name}": gguf.digest for name, gguf in inputs.levels.items()},
        },
        config={name: Setting(value, "flag") for name, value in card.settings.items()},
        versions={"llama.cpp": inputs.toolchain.version},
    )
