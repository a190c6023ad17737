"""Base against tuned against each quant, on held-out conversations and a text.

What each number means stands at the functions that make them: `training.evaluate_loss`,
`export.scoring`, `export.measure`, `export.answers`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from slipway.core.events import EventLog
from slipway.core.files import write_json
from slipway.core.manifest import Setting, package_versions, write_manifest
from slipway.core.paths import Home
from slipway.export.eval_inputs import EvalInputs, Gguf, gather
from slipway.export.parts import Parts
from slipway.export.scoring import score

RESULTS = "results.json"


@dataclass(frozen=True, slots=True)
class EvalPlan:
    """What to compare, and how thoroughly.

    Attributes:
        base: the base model's folder.
        tuned: the merged model's folder.
        gguf: the tuned model's unquantised GGUF (artefact folder or file).
        quants: type -> quantised GGUF (artefact folder or file).
        heldout: dataset folder with a held-out split, or one file of rows.
        home: SLIPWAY_HOME.
        out_dir: where the results go; parts of a killed evaluation are found again there.
        base_gguf: the base's unquantised GGUF; made for the occasion when None.
        text: plain text put before the held-out conversations for perplexity and KLD.
        rows: held-out rows that base and tuned answer; each quant answers half of them. Twice as
            many (at least 32) are used for the loss. None: every row for each.
        max_new_tokens: longest answer, tokens.
        context: tokens of a chunk for perplexity and KLD; less when the text is short.
        chunks: chunks for perplexity and KLD.
        slots: conversations answered at once.
        cutoff_len: longest conversation for the loss, tokens.
        samples: rows shown side by side.
    """

    base: Path
    tuned: Path
    gguf: Path
    quants: Mapping[str, Path]
    heldout: Path
    home: Home
    out_dir: Path
    base_gguf: Path | None = None
    text: Path | None = None
    rows: int | None = 48
    max_new_tokens: int = 80
    context: int = 512
    chunks: int = 8
    slots: int = 8
    cutoff_len: int = 1024
    samples: int = 8


@dataclass(frozen=True, slots=True)
class EvalResult:
    """What came out.

    Attributes:
        base, tuned: eval_loss (nats per answer token), perplexity (its exponential), label_tokens,
            loss_rows; chrf (0..100), rouge_l (0..1), answered_rows.
        unquantised: the tuned GGUF before quantising, with the keys of a quant but for the kld
            ones; chrf and rouge_l over the rows that the quants answer.
        quants: type -> size_bytes, bpw, ppl, kld_mean, kld_median, kld_p99, kld_max, top1 (0..1),
            chrf, rouge_l, answered_rows, pp_tps, tg_tps, rss_bytes, load_s.
        samples: {"question", "reference", "answers": {"base", "tuned", <TYPE>...}}.
        settings: rows, chunks, context and so on as they were used.
        seconds: part -> seconds it took.
    """

    base: dict[str, Any]
    tuned: dict[str, Any]
    unquantised: dict[str, Any]
    quants: dict[str, dict[str, Any]]
    samples: list[dict[str, Any]]
    settings: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The result as `results.json` holds it."""
        return asdict(self)


def evaluate_models(plan: EvalPlan, *, events: EventLog | None = None) -> EvalResult:
    """Measure everything the plan names and write `results.json` with a manifest.

    Parts that were measured before from the same files with the same settings are not measured
    again, so a killed evaluation continues.

    Raises:
        NotFoundError: a model, GGUF or dataset is not there.
        InputError: a row is bad, a GGUF is damaged, or the text is too short.
        ResourceError: no toolchain, or too little disk for the reference logits.
        ToolError: one of llama.cpp's programs failed.
    """
    with tempfile.TemporaryDirectory(prefix="slipway-eval-") as name:
        inputs = gather(plan, Path(name))
        log = events or EventLog(None)
        parts = Parts(plan.out_dir / "parts", log, total=6 + 3 * len(plan.quants))
        base, tuned = _losses(plan, inputs, parts)
        unquantised, quants = _texts(inputs, parts)
        _speeds(inputs, parts, unquantised, quants)
        answers = _answers(plan, inputs, parts)
        _score_all(inputs, answers, base, tuned, unquantised, quants)
        result = EvalResult(
            base,
            tuned,
            unquantised,
            quants,
            _side_by_side(plan, inputs, answers),
            inputs.settings,
            parts.seconds,
        )
        write_json(plan.out_dir / RESULTS, result.as_json())
        _write_manifest(plan, inputs, result)
        return result


def _losses(
    plan: EvalPlan, inputs: EvalInputs, parts: Parts
) -> tuple[dict[str, Any], dict[str, Any]]:
    def measure(folder: Path) -> dict[str, Any]:
        from slipway.training import evaluate_loss

        found = evaluate_loss(folder, inputs.loss_samples, cutoff_len=plan.cutoff_len)
        return {
            "eval_loss": round(found.loss, 5),
            "perplexity": round(found.perplexity, 4),
            "label_tokens": found.label_tokens,
            "loss_rows": found.rows,
        }

    rows = [[m.content for m in s.messages] for s in inputs.loss_samples]
    return (
        parts.get(
            "base.loss",
            [inputs.base_digest, rows, plan.cutoff_len],
            lambda: measure(plan.base),
        ),
        parts.get(
            "tuned.loss",
            [inputs.tuned_digest, rows, plan.cutoff_len],
            lambda: measure(plan.tuned),
        ),
    )


def _texts(inputs: EvalInputs, parts: Parts) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Perplexity of the unquantised model; perplexity and KLD of each quant against it."""
    from slipway.export.convert import require_space
    from slipway.export.measure import divergence, perplexity

    reference = inputs.unquantised
    text_key = [inputs.text_digest, inputs.text.context, inputs.text.chunks]
    wanted = {name: [reference.digest, g.digest, text_key] for name, g in inputs.quants.items()}
    logits = inputs.work / "logits"
    write_logits = any(not parts.has(f"{name}.kld", key) for name, key in wanted.items())
    if write_logits:
        require_space(logits, inputs.logits_bytes())

    def measure_reference() -> dict[str, float]:
        return perplexity(
            inputs.toolchain, reference.path, inputs.text, logits=logits if write_logits else None
        )

    key = [reference.digest, text_key]
    unquantised = {**reference.facts(), **parts.get("unquantised.ppl", key, measure_reference)}
    if write_logits and not logits.is_file():  # perplexity was kept, the logits never are
        measure_reference()
    quants: dict[str, dict[str, Any]] = {}
    for name, gguf in inputs.quants.items():
        measure = partial(divergence, inputs.toolchain, gguf.path, inputs.text, logits)
        quants[name] = {**gguf.facts(), **parts.get(f"{name}.kld", wanted[name], measure)}
    logits.unlink(missing_ok=True)
    return unquantised, quants


def _speeds(
    inputs: EvalInputs,
    parts: Parts,
    unquantised: dict[str, Any],
    quants: dict[str, dict[str, Any]],
) -> None:
    """Add speed, memory and load time to each row."""
    from slipway.export.measure import footprint, speed

    rows: list[tuple[str, Gguf, dict[str, Any]]] = [
        ("unquantised", inputs.unquantised, unquantised),
        *((name, inputs.quants[name], row) for name, row in quants.items()),
    ]
    for name, gguf, row in rows:
        key = [gguf.digest, inputs.toolchain.version, inputs.toolchain.variant]

        def measure(gguf: Gguf = gguf) -> dict[str, Any]:
            return {
                **speed(inputs.toolchain, gguf.path),
                **footprint(inputs.toolchain, gguf.path),
            }

        row.update(parts.get(f"{name}.speed", key, measure))


def _answers(plan: EvalPlan, inputs: EvalInputs, parts: Parts) -> dict[str, list[str]]:
    """Model -> its answers: "base" and "tuned" to all rows, each quant to the first of them."""
    from slipway.export.answers import answers

    models = {"base": inputs.base_gguf, "tuned": inputs.unquantised, **inputs.quants}
    found = {}
    for name, gguf in models.items():
        rows = inputs.answer_samples
        if name in inputs.quants:
            rows = rows[: inputs.quant_rows]
        asked = [[[m.role, m.content] for m in sample.messages[:-1]] for sample in rows]
        measure = partial(
            answers,
            inputs.toolchain,
            gguf.path,
            rows,
            max_new_tokens=plan.max_new_tokens,
            slots=plan.slots,
        )
        key = [gguf.digest, asked, plan.max_new_tokens]
        found[name] = parts.get(f"{name}.answers", key, measure)
    return found


def _score_all(
    inputs: EvalInputs,
    answers: dict[str, list[str]],
    base: dict[str, Any],
    tuned: dict[str, Any],
    unquantised: dict[str, Any],
    quants: dict[str, dict[str, Any]],
) -> None:
    references = [sample.messages[-1].content for sample in inputs.answer_samples]
    few = inputs.quant_rows
    rows = [(base, answers["base"]), (tuned, answers["tuned"])]
    rows += [(unquantised, answers["tuned"][:few])]
    rows += [(row, answers[name]) for name, row in quants.items()]
    for row, given in rows:
        row.update(asdict(score(given, references[: len(given)])), answered_rows=len(given))


def _side_by_side(
    plan: EvalPlan, inputs: EvalInputs, answers: dict[str, list[str]]
) -> list[dict[str, Any]]:
    shown = []
    for at, sample in enumerate(inputs.answer_samples[: min(plan.samples, inputs.quant_rows)]):
        shown.append(
            {
                "id": sample.id,
                "topic": sample.topic,
                "question": sample.messages[-2].content,
                "reference": sample.messages[-1].content,
                "answers": {name: given[at] for name, given in answers.items()},
            }
        )
    return shown


def _write_manifest(plan: EvalPlan, inputs: EvalInputs, result: EvalResult) -> None:
    write_manifest(
        plan.out_dir,
        "evaluation",
        plan.out_dir.name,
        files=[RESULTS],
        parents={
            "base": inputs.base_digest,
            "merged": inputs.tuned_digest,
            "gguf": inputs.unquantised.digest,
            "dataset": inputs.dataset_digest,
            **{f"quant:{name}": gguf.digest for name, gguf in inputs.quants.items()},
        },
        config={name: Setting(value, "flag") for name, value in inputs.settings.items()},
        versions={
            **package_versions("torch", "transformers", "sacrebleu", "rouge-score"),
            "llama.cpp": inputs.toolchain.version,
        },
        metrics={"seconds": round(sum(result.seconds.values()), 1)},
    )
