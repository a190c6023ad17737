"""How far each level is from the unquantised model: perplexity, KL divergence, top-1 agreement."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.core.errors import NotFoundError, SlipwayError, ToolError
from slipway.core.files import sha256_file, sha256_json, write_json
from slipway.core.i18n import tr
from slipway.core.manifest import Manifest, Setting, package_versions, read_manifest, write_manifest
from slipway.ship.artefacts import Outputs, Results, artefact

if TYPE_CHECKING:
    from slipway.datasets import Sample
    from slipway.export.measure import TextSpec
    from slipway.export.parts import Parts
    from slipway.export.toolchain import Toolchain
    from slipway.ship.stages import ShipContext

REFERENCE = "unquantised"
RESULTS = "results.json"
CHUNKS = 8
_CONTEXTS = (512, 256, 128, 64)
_ROWS = 400


def measure(context: ShipContext, results: Results) -> Outputs:
    """Measure each level against the unquantised GGUF; what was measured before is kept.

    The text is the one given, else the run's held-out rows, else its training rows.

    Raises:
        NotFoundError: there is neither a text nor the data of a run.
        ToolError: the text is too short, or a program failed.
    """
    from slipway.export.parts import Parts
    from slipway.export.toolchain import require_toolchain
    from slipway.ship.stages import adapter_file, unquantised

    gguf = unquantised(context, results)
    tools = require_toolchain(context.home)
    with tempfile.TemporaryDirectory(prefix="slipway-ship-") as name:
        text = Path(name) / "text.txt"
        origin = write_measured_text(context, text)
        adapter = [results["adapter"]["digest"]] if "adapter" in results else []
        quants = [quant["digest"] for quant in results["quantise"].values()]
        mark = sha256_json([sha256_file(text), gguf["digest"], quants, adapter])[:8]
        out = context.home.artefacts / f"{Path(gguf['folder']).name}-quality-{mark}"
        kept = context.home.cache / "measured" / gguf["digest"].removeprefix("sha256:")[:16]
        parts = Parts(kept, context.events, total=1 + len(context.types))
        levels = _levels(_Setup(tools, text, adapter_file(results), parts), gguf, results)
    return {
        **artefact(out, _keep(out, gguf, results["quantise"], origin, tools, levels)),
        "mine": False,  # small, and the proof of what was shipped: --clean leaves it
        "text": origin,
        "levels": levels,
    }


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


@dataclass(frozen=True, slots=True)
class _Setup:
    tools: Toolchain
    text: Path
    adapter: Path | None
    parts: Parts

    def key(self, *digests: str) -> list[Any]:
        adapter = sha256_file(self.adapter) if self.adapter else ""
        return [*digests, adapter, sha256_file(self.text), CHUNKS]


def _levels(setup: _Setup, gguf: Outputs, results: Results) -> dict[str, dict[str, Any]]:
    from slipway.export.measure import divergence

    parts, quants = setup.parts, results["quantise"]
    keys = {kind: setup.key(gguf["digest"], quant["digest"]) for kind, quant in quants.items()}
    first = setup.key(gguf["digest"])
    logits = setup.text.with_name("logits")
    wanted = not all(parts.has(f"{kind}.kld", key) for kind, key in keys.items())
    # the logits are not kept (they are large), so they are made again for a level that is new
    if wanted or not parts.has(REFERENCE, first):
        found, spec = _reference(setup, _file(gguf), logits if wanted else None)
        parts.get(REFERENCE, first, lambda: found)
    levels = {REFERENCE: parts.get(REFERENCE, first, dict)}
    for kind, key in keys.items():
        work: Callable[[], Any] = dict
        if wanted:
            work = partial(
                divergence, setup.tools, _file(quants[kind]), spec, logits, adapter=setup.adapter
            )
        levels[kind] = parts.get(f"{kind}.kld", key, work)
    return levels


def _file(output: Outputs) -> Path:
    from slipway.export.convert import gguf_files

    return gguf_files(Path(output["folder"]))[0]


def _reference(
    setup: _Setup, model: Path, logits: Path | None
) -> tuple[dict[str, float], TextSpec]:
    """Perplexity of the unquantised model, with the longest context that the text fills twice."""
    from slipway.export.measure import TextSpec, perplexity

    for context in _CONTEXTS:
        spec = TextSpec(setup.text, context, CHUNKS)
        try:
            found = perplexity(setup.tools, model, spec, logits=logits, adapter=setup.adapter)
            return {**found, "context": context}, spec
        except ToolError as error:
            if error.code != "eval.text_too_short":
                raise
    raise ToolError(
        "ship.text_too_short",
        tr("the text is too short to measure on: {count} tokens are needed", count=2 * context),
        tr("name a longer one with `--text FILE`, or leave it out with `--no-measure`"),
    )


def _keep(
    out: Path,
    gguf: Outputs,
    quants: Outputs,
    origin: str,
    tools: Toolchain,
    levels: dict[str, dict[str, Any]],
) -> Manifest:
    write_json(out / RESULTS, levels)
    return write_manifest(
        out,
        "evaluation",
        out.name,
        files=[RESULTS],
        parents={
            "gguf": gguf["digest"],
            **{f"quant:{kind}": quant["digest"] for kind, quant in quants.items()},
        },
        config={"text": Setting(origin, "default"), "chunks": Setting(CHUNKS, "default")},
        versions={**package_versions(), "llama.cpp": tools.version},
    )
