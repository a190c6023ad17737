"""What each level lost: the quality card of a ship, and the level to take."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.core.errors import NotFoundError, SlipwayError
from slipway.core.files import sha256_file, sha256_json
from slipway.core.i18n import tr
from slipway.core.manifest import read_manifest
from slipway.evaluation.quality import QualityCard, QualityPlan
from slipway.ship.artefacts import Outputs, Results, artefact

if TYPE_CHECKING:
    from slipway.datasets import Sample
    from slipway.evaluation.quality.advice import Advice
    from slipway.ship.stages import ShipContext

CHUNKS = 8
_ROWS = 400


def measure(context: ShipContext, results: Results) -> Outputs:
    """Make the quality card of all levels; what was measured before is kept.

    Perplexity, KLD and top-1 agreement are measured on the text given, else on the run's held-out
    rows, else on its training rows. A thorough card also has answers to held-out rows, speed and
    memory.

    Raises:
        NotFoundError: there is neither a text nor the data of a run.
        InputError: the text is too short.
        ToolError: a program failed.
    """
    from slipway.evaluation.quality import measure_quality
    from slipway.evaluation.quality.keep import keep_beside
    from slipway.ship.stages import adapter_file, unquantised

    gguf = unquantised(context, results)
    adapter = adapter_file(results)
    with tempfile.TemporaryDirectory(prefix="slipway-ship-") as name:
        text = Path(name) / "text.txt"
        origin = write_measured_text(context, text)
        rows = _write_rows(context, Path(name) / "heldout.jsonl") if context.thorough else None
        digests = [gguf["digest"], sha256_file(text), sha256_file(adapter) if adapter else ""]
        mark = sha256_json(digests)[:8]
        lengths = {} if context.thorough else {"prompts": (), "depths": ()}
        plan = QualityPlan(
            reference=Path(gguf["folder"]),
            models={kind: Path(q["folder"]) for kind, q in results["quantise"].items()},
            home=context.home,
            out_dir=context.home.artefacts / f"{Path(gguf['folder']).name}-quality-{mark}",
            text=text,
            heldout=rows,
            chunks=CHUNKS,
            adapter=adapter,
            **lengths,  # type: ignore[arg-type]
        )
        card = measure_quality(plan, events=context.events)
    if adapter is None:  # with one, the figures are of more than the file
        keep_beside(card, plan)
    return {
        **artefact(plan.out_dir),
        "mine": False,  # small, and the proof of what was shipped: --clean leaves it
        "text": origin,
        "card": card.as_json(),
    }


def card_from(outputs: Outputs) -> QualityCard:
    """The card of a measure stage."""
    return QualityCard(**outputs["card"])


def advice_of(context: ShipContext, card: QualityCard) -> Advice:
    """The level to take, by the gate where there is one."""
    from slipway.evaluation.quality.advice import advise

    return advise(card, context.options.gate)


def write_measured_text(context: ShipContext, target: Path) -> str:
    """Write the text to measure on, and return where it is from."""
    if context.options.text is not None:
        try:
            target.write_text(context.options.text.read_text(encoding="utf-8"), encoding="utf-8")
        except FileNotFoundError as error:
            raise NotFoundError(
                "file.not_found",
                tr("{path} does not exist", path=context.options.text),
                tr("name a plain text file with `--text`"),
            ) from error
        return context.options.text.name
    if context.source.run is not None:
        for part in ("heldout", "train"):
            pieces = [_spoken(sample) for sample in islice(_rows(context.source.run, part), _ROWS)]
            if pieces:
                target.write_text("\n\n".join(pieces), encoding="utf-8")
                return part
    raise NotFoundError(
        "ship.no_text",
        tr("there is no text to measure {source} on", source=context.source.name),
        tr("name one with `--text FILE`, or leave the measurement out with `--no-measure`"),
    )


def _rows(run: Path, part: str) -> Iterator[Sample]:
    """The rows of a run's data; none where they are gone or changed."""
    from slipway.evaluation.run_data import RunData, data_of_run

    try:
        data = data_of_run(run, read_manifest(run, kind="run"))
        if isinstance(data, RunData):
            yield from data.samples("heldout" if part == "heldout" else "train")
        elif data is not None:
            from slipway.datasets import DataSource, open_samples

            split: Any = part
            yield from open_samples([DataSource(path=str(data))], split)
    except SlipwayError:
        return


def _spoken(sample: Sample) -> str:
    """What is said in a row, without the prompt that all rows share."""
    return sample.text or "\n".join(m.content for m in sample.messages if m.role != "system")


def _write_rows(context: ShipContext, target: Path) -> Path | None:
    """Write the run's held-out conversations, to be answered; None when it has none."""
    if context.source.run is None:
        return None
    lines = [
        json.dumps({"messages": [{"role": m.role, "content": m.content} for m in sample.messages]})
        for sample in islice(_rows(context.source.run, "heldout"), _ROWS)
        if sample.kind == "chat" and not any(m.tool_calls for m in sample.messages)
    ]
    if not lines:
        return None
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target
