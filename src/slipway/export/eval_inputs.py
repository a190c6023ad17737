"""Gather what an evaluation needs: files with their digests, rows, and the text."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from slipway.core.errors import InputError, NotFoundError
from slipway.core.files import sha256_file
from slipway.core.i18n import tr
from slipway.core.manifest import FILE_NAME, read_manifest
from slipway.datasets import Sample, dataset_digest, load_dataset
from slipway.export.convert import convert_to_gguf
from slipway.export.hf import load_tokenizer, parent_of
from slipway.export.measure import TextSpec
from slipway.export.quantise import require_gguf
from slipway.export.toolchain import Toolchain, require_toolchain

if TYPE_CHECKING:
    from slipway.export.evaluation import EvalPlan

_Row = TypeVar("_Row")
_MIN_CONTEXT = 64
_MIN_SCORED = 100
_MIN_LOSS_ROWS = 32
_MIN_QUANT_ROWS = 8


@dataclass(frozen=True, slots=True)
class Gguf:
    """A GGUF file to measure: path, digest of the artefact or file, bits per weight if known."""

    path: Path
    digest: str
    bpw: float | None

    def facts(self) -> dict[str, Any]:
        """size_bytes and bpw."""
        return {"size_bytes": self.path.stat().st_size, "bpw": self.bpw}


@dataclass(frozen=True, slots=True)
class EvalInputs:
    """Everything checked and at hand; see `EvalPlan` for the meaning of the models.

    Attributes:
        answer_samples: rows that base and tuned answer; each quant answers the first `quant_rows`.
        text: what perplexity and KLD are measured on.
        vocabulary: tokens in the tuned model's vocabulary.
        work: a folder for large temporary files.
    """

    toolchain: Toolchain
    base_digest: str
    tuned_digest: str
    base_gguf: Gguf
    unquantised: Gguf
    quants: dict[str, Gguf]
    dataset_digest: str
    loss_samples: list[Sample]
    answer_samples: list[Sample]
    quant_rows: int
    text: TextSpec
    text_digest: str
    vocabulary: int
    work: Path
    settings: dict[str, Any]

    def logits_bytes(self) -> int:
        """Size of the reference logits: 2 bytes for each word of the vocabulary and token."""
        return self.text.chunks * self.text.context // 2 * (self.vocabulary + 8) * 2


def gather(plan: EvalPlan, work: Path) -> EvalInputs:
    """Check and read everything that the plan names; errors as in `evaluate_models`."""
    toolchain = require_toolchain(plan.home)
    samples = heldout_rows(plan.heldout)
    answer_samples = spread(samples, plan.rows)
    loss_rows = None if plan.rows is None else max(2 * plan.rows, _MIN_LOSS_ROWS)
    loss_samples = spread(samples, loss_rows)
    quant_rows = len(answer_samples)
    if plan.rows is not None:
        quant_rows = min(quant_rows, max(_MIN_QUANT_ROWS, plan.rows // 2))
    unquantised = known_gguf(plan.gguf)
    quants = {name: known_gguf(path) for name, path in plan.quants.items()}
    text, digest, vocabulary = _text(plan, samples, work)
    return EvalInputs(
        toolchain=toolchain,
        base_digest=next(iter(parent_of(plan.base).values())),
        tuned_digest=next(iter(parent_of(plan.tuned).values())),
        base_gguf=known_gguf(plan.base_gguf or _convert_base(plan)),
        unquantised=unquantised,
        quants=quants,
        dataset_digest=dataset_digest(plan.heldout),
        loss_samples=loss_samples,
        answer_samples=answer_samples,
        quant_rows=quant_rows,
        text=text,
        text_digest=digest,
        vocabulary=vocabulary,
        work=work,
        settings={
            "loss_rows": len(loss_samples),
            "answer_rows": len(answer_samples),
            "quant_answer_rows": quant_rows,
            "max_new_tokens": plan.max_new_tokens,
            "context": text.context,
            "chunks": text.chunks,
            "text_tokens": text.context * text.chunks,
            "text_file": plan.text.name if plan.text else "",
        },
    )


def heldout_rows(path: Path) -> list[Sample]:
    """The held-out split of a dataset folder, or all rows of one file."""
    return load_dataset(path) if path.is_file() else load_dataset(path, "heldout")


def spread(samples: Sequence[_Row], limit: int | None) -> list[_Row]:
    """At most `limit` rows, taken evenly over the whole, so that every topic has its chance."""
    if limit is None or limit >= len(samples):
        return list(samples)
    return [samples[at * len(samples) // limit] for at in range(max(1, limit))]


def known_gguf(path: Path) -> Gguf:
    """A GGUF given as an artefact folder (checked against its manifest) or as a file.

    Raises:
        NotFoundError, InputError: nothing is there, or it is damaged.
    """
    if path.is_dir():
        manifest = read_manifest(path)
        return Gguf(require_gguf(path, manifest), manifest.digest, manifest.metrics.get("bpw"))
    if not path.is_file():
        raise NotFoundError(
            "file.not_found",
            tr("{path} does not exist", path=str(path)),
            tr("give a GGUF file, or a folder of `slipway convert` or `slipway quantize`"),
        )
    return Gguf(path, "sha256:" + sha256_file(path), None)


def _convert_base(plan: EvalPlan) -> Path:
    """The base as GGUF, in the evaluation's own folder; made once."""
    folder = plan.out_dir / "base-gguf"
    digest = parent_of(plan.base)
    if (folder / FILE_NAME).is_file() and read_manifest(folder).parents == digest:
        return folder
    convert_to_gguf(plan.base, folder, home=plan.home)
    return folder


def _text(plan: EvalPlan, samples: Sequence[Sample], work: Path) -> tuple[TextSpec, str, int]:
    """Write the text: the given file first, then the conversations, as long as is needed."""
    tokenizer = load_tokenizer(plan.tuned)
    pieces = []
    if plan.text is not None:
        if not plan.text.is_file():
            raise NotFoundError(
                "file.not_found",
                tr("{path} does not exist", path=str(plan.text)),
                tr("name a plain text file with `--text`"),
            )
        pieces.append(plan.text.read_text(encoding="utf-8").strip())
    for sample in samples:
        pieces.append("\n".join(m.content for m in sample.messages if m.role != "system"))
    text = "\n\n".join(pieces)
    tokens = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    context = plan.context
    while context > _MIN_CONTEXT and not _enough(tokens, context):
        context //= 2
    if not _enough(tokens, context):
        needed = context * _chunks_for_statistics(context)
        raise InputError(
            "eval.text_too_short",
            tr(
                "the text for perplexity has {tokens} tokens; {needed} are needed",
                tokens=tokens,
                needed=needed,
            ),
            tr("give a longer one with `--text FILE`"),
        )
    path = work / "text.txt"
    path.write_text(text, encoding="utf-8")
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    chunks = max(plan.chunks, _chunks_for_statistics(context))
    return TextSpec(path, context, min(chunks, tokens // context)), digest, len(tokenizer)


def _enough(tokens: int, context: int) -> bool:
    return tokens // context >= _chunks_for_statistics(context)


def _chunks_for_statistics(context: int) -> int:
    """Chunks (two at least) that give the 100 scored tokens below which no KLD is reported."""
    return max(2, math.ceil(_MIN_SCORED / (context // 2 - 1)))
