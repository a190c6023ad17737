"""What is asked for, and the card itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from slipway.core.paths import Home

SCHEMA = 1
CARD = "quality.json"
PAGE = "quality.md"
CHART = "quality.png"
REFERENCE = "unquantised"
Packing = Literal["int8", "nf4", "fp4"]


@dataclass(frozen=True, slots=True)
class QualityPlan:
    """What to measure, and how thoroughly.

    Attributes:
        reference: the unquantised GGUF (artefact folder or file) that levels are compared with.
        models: level -> GGUF (artefact folder or file).
        home: SLIPWAY_HOME.
        out_dir: where the card goes; parts of a killed measurement are found again there.
        text: plain text that perplexity and KLD are measured on, put before the held-out rows.
        heldout: dataset folder with a held-out split, or one file of rows, which are answered too.
        folder: the model folder that the reference was converted from, for `packings`.
        packings: number formats of bitsandbytes to measure beside the levels.
        rows: held-out rows that each level answers, spread over the set; None: every row.
        max_new_tokens: longest answer, tokens.
        context: tokens of a chunk for perplexity and KLD; its second half is scored.
        chunks: most chunks; fewer when the text is short.
        prompts: lengths at which reading a prompt is timed, tokens.
        depths: tokens already in the context when writing an answer is timed; with neither, speed,
            memory and load time are not measured.
        adapter: GGUF adapter that is added to every model; speed is that of the models alone.
        slots: conversations answered at once.
        seed: of the bootstrap.
    """

    reference: Path
    models: Mapping[str, Path]
    home: Home
    out_dir: Path
    text: Path | None = None
    heldout: Path | None = None
    folder: Path | None = None
    packings: tuple[Packing, ...] = ()
    rows: int | None = 32
    max_new_tokens: int = 80
    context: int = 512
    chunks: int = 16
    prompts: tuple[int, ...] = (128, 512)
    depths: tuple[int, ...] = (0, 512)
    slots: int = 8
    seed: int = 0
    adapter: Path | None = None


@dataclass(frozen=True, slots=True)
class QualityCard:
    """What came out.

    Attributes:
        reference: the unquantised model's row: size_bytes, bpw, ppl, metrics, pp_tps, tg_tps,
            rss_bytes, load_s.
        levels: level -> the same, and kld_mean, kld_error, kld_median, kld_p99, kld_max (nats per
            token), top1 and top1_error (0..1), and `differences`: metric -> value, low and high
            (95 %), rows, real, better, against the unquantised model on the same rows. `metrics` is
            metric -> points; `pp_tps` and `tg_tps` are tokens -> tokens/s. A row with `packing` is
            bitsandbytes' and is compared with the same model folder in fp32 or bf16.
        settings: text, tokens, rows and lengths as they were used.
        machine: processor, cores, and llama.cpp's version.
        measured_at: RFC 3339, UTC.
    """

    reference: dict[str, Any]
    levels: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=dict)
    measured_at: str = ""
    schema: int = SCHEMA

    def as_json(self) -> dict[str, Any]:
        """The card as `quality.json` holds it."""
        return asdict(self)

    def by_size(self) -> list[tuple[str, dict[str, Any]]]:
        """The levels, the smallest first."""
        return sorted(self.levels.items(), key=lambda pair: int(pair[1]["size_bytes"]))
