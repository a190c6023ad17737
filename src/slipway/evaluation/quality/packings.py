"""bitsandbytes' INT8 and INT4 in the card's terms, each in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from slipway.core import process
from slipway.core.errors import ToolError, UsageError, missing_extra
from slipway.core.files import write_json
from slipway.core.i18n import tr
from slipway.core.manifest import package_versions
from slipway.evaluation.quality.inputs import Inputs
from slipway.evaluation.quality.model import QualityPlan
from slipway.export.hf import parent_of
from slipway.export.parts import Parts

_PLAIN = "plain"


def measure_packings(
    plan: QualityPlan, inputs: Inputs, parts: Parts
) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """A row and the answers for each of the plan's packings.

    The model folder itself is the reference: its probabilities on the same chunks of the same text
    are what a packed one is compared with, as llama-perplexity compares two GGUF files.

    Raises:
        UsageError: no model folder.
        ResourceError: bitsandbytes is not installed.
        ToolError: a measurement failed.
    """
    if plan.folder is None:
        raise UsageError(
            "quality.no_folder",
            tr("bitsandbytes needs the model folder that the GGUF was converted from"),
            tr("name it with `--folder MODEL`"),
        )
    for package in ("bitsandbytes", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "qlora" if package == "bitsandbytes" else "train")
    digest = next(iter(parent_of(plan.folder).values()))
    versions = package_versions("torch", "transformers", "bitsandbytes")
    rows, answers = {}, {}
    with tempfile.TemporaryDirectory(prefix="slipway-packed-") as name:
        wanted = _wanted(plan, inputs, Path(name))
        for packing in plan.packings:
            key = [digest, inputs.text_digest, wanted, packing, versions]
            measure = partial(_measure, Path(name), wanted, packing)
            found = parts.get(f"bitsandbytes-{packing}", key, measure)
            label = f"bitsandbytes {packing}"
            answers[label] = found.pop("answers")
            rows[label] = {**found, "packing": packing, "digest": digest}
    return rows, answers if inputs.samples else {}


def _wanted(plan: QualityPlan, inputs: Inputs, work: Path) -> dict[str, Any]:
    """What the child needs to know; the text goes by its own file."""
    assert plan.folder is not None
    return {
        "folder": str(plan.folder.resolve()),
        "context": inputs.text.context,
        "chunks": inputs.text.chunks,
        "prompts": list(plan.prompts),
        "depths": list(plan.depths),
        "max_new_tokens": plan.max_new_tokens,
        "asked": [[[m.role, m.content] for m in s.messages[:-1]] for s in inputs.samples],
        "text": inputs.text.path.read_text(encoding="utf-8"),
    }


def _measure(work: Path, wanted: dict[str, Any], packing: str) -> dict[str, Any]:
    logits = work / "reference.npy"
    if not logits.is_file():
        _child(work, {**wanted, "packing": _PLAIN, "logits": str(logits)})
    return _child(work, {**wanted, "packing": packing, "logits": str(logits)})


def _child(work: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    order, result = work / "order.json", work / "result.json"
    result.unlink(missing_ok=True)
    write_json(order, wanted)
    process.run([sys.executable, "-m", "slipway.evaluation.quality.packed", order, result])
    if not result.is_file():
        raise ToolError(
            "quality.no_result",
            tr("bitsandbytes {packing} gave no result", packing=wanted["packing"]),
        )
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found
