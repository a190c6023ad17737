"""Measure one GGUF with llama.cpp's own programs: perplexity, KLD, speed, memory, load time."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.core import process
from slipway.core.errors import ToolError
from slipway.core.hardware import probe
from slipway.core.i18n import tr
from slipway.export.server import served
from slipway.export.toolchain import Toolchain

PROMPT_TOKENS = 256
DECODE_TOKENS = 32
_CONTEXT = 2048  # tokens of context in the memory measurement
_TRIES = 8  # llama.cpp writes its log from a thread that a quick exit can cut off


@dataclass(frozen=True, slots=True)
class TextSpec:
    """The text that perplexity and KLD are measured on.

    Attributes:
        path: UTF-8 text.
        context: tokens of each chunk; the second half of a chunk is scored.
        chunks: how many chunks.
    """

    path: Path
    context: int
    chunks: int


def perplexity(
    toolchain: Toolchain,
    model: Path,
    text: TextSpec,
    *,
    logits: Path | None = None,
    adapter: Path | None = None,
) -> dict[str, float]:
    """Perplexity of a model on a text: {"ppl", "ppl_error"}.

    Args:
        adapter: GGUF adapter that is added to the model.
        logits: write the model's log-probabilities here, as the reference for `divergence`
            (2 bytes x vocabulary for each scored token).

    Raises:
        ToolError: the program failed or printed no result.
    """
    more: list[str | Path] = ["--kl-divergence-base", logits] if logits else []
    more += ["--lora", adapter] if adapter else []
    found = _run_until(toolchain, model, text, more, r"Final estimate: PPL = (\S+) \+/- (\S+)")
    return {"ppl": float(found[1]), "ppl_error": float(found[2])}


def divergence(
    toolchain: Toolchain,
    model: Path,
    text: TextSpec,
    logits: Path,
    *,
    adapter: Path | None = None,
) -> dict[str, float]:
    """Distance of a model from the reference whose logits were written by `perplexity`.

    Args:
        adapter: GGUF adapter that is added to the model.

    Returns:
        ppl; kld_mean, kld_median, kld_p99, kld_max (nats for each token); top1 (part of the
        tokens, 0..1, at which both hold the same token most likely); kld_error, top1_error
        (standard errors).

    Raises:
        ToolError: the program failed or printed no result.
    """
    more: list[str | Path] = ["--kl-divergence-base", logits, "--kl-divergence"]
    more += ["--lora", adapter] if adapter else []
    found = _run_until(toolchain, model, text, more, r"(?s).*Same top p:[^\n]*%")
    return parse_divergence(found[0])


def parse_divergence(text: str) -> dict[str, float]:
    """The statistics in the output of `llama-perplexity --kl-divergence`; see `divergence`.

    Raises:
        ToolError: a figure is missing, as when the program's output has another form.
    """
    number = r"([-+0-9.eE]+|-?nan|-?inf)"
    patterns = {
        "ppl": rf"Mean PPL\(Q\) *: *{number}",
        "kld_mean": rf"Mean +KLD: *{number}",
        "kld_error": rf"Mean +KLD: *\S+ *± *{number}",
        "kld_median": rf"Median +KLD: *{number}",
        "kld_p99": rf"99\.0% +KLD: *{number}",
        "kld_max": rf"Maximum +KLD: *{number}",
        "top1": rf"Same top p: *{number}",
        "top1_error": rf"Same top p: *\S+ *± *{number}",
    }
    found: dict[str, float] = {}
    for name, pattern in patterns.items():
        match = re.search(pattern, text)
        if match is None:
            raise ToolError(
                "eval.no_result",
                tr("`{program}` printed no {figure}", program="llama-perplexity", figure=name),
                tr("test the tools with `slipway toolchain install`"),
            )
        value = float(match[1])
        found[name] = round(value / 100, 6) if name.startswith("top1") else value
    return found


def _run_until(
    toolchain: Toolchain, model: Path, text: TextSpec, more: list[str | Path], wanted: str
) -> re.Match[str]:
    """Run `llama-perplexity` until its output has what is wanted."""
    command: list[str | Path] = [
        *(toolchain.program("llama-perplexity"), "-m", model, "-f", text.path),
        *("-c", str(text.context), "-b", str(max(512, text.context))),
        *("--chunks", str(text.chunks), "-t", str(probe().cores), *more),
    ]
    for _ in range(_TRIES):
        output = process.run(command)
        if match := re.search(wanted, output):
            return match
        if "you need at least" in output:  # and the program ends with success
            raise ToolError(
                "eval.text_too_short",
                tr(
                    "the text is too short for chunks of {context} tokens: it must fill two",
                    context=text.context,
                ),
                tr("give a longer one with `--text FILE`"),
            )
    raise ToolError(
        "eval.no_result",
        tr("`{program}` printed no {figure}", program="llama-perplexity", figure="perplexity"),
        tr("test the tools with `slipway toolchain install`"),
    )


def speed(toolchain: Toolchain, model: Path) -> dict[str, float]:
    """Tokens per second of one stream: pp_tps (prompt of 256), tg_tps (decoding 32); and bpw.

    Raises:
        ToolError: `llama-bench` failed.
    """
    runs = _bench(toolchain, model, "-p", str(PROMPT_TOKENS), "-n", str(DECODE_TOKENS))
    try:
        return {
            "pp_tps": round(next(r["avg_ts"] for r in runs if r["n_gen"] == 0), 2),
            "tg_tps": round(next(r["avg_ts"] for r in runs if r["n_prompt"] == 0), 2),
            "bpw": _bpw(runs[0]),
        }
    except (KeyError, TypeError, StopIteration) as error:
        raise _bench_failed(repr(error), "") from error


def speeds(
    toolchain: Toolchain, model: Path, prompts: Sequence[int], depths: Sequence[int]
) -> dict[str, Any]:
    """Tokens per second of one stream at several lengths.

    Args:
        prompts: lengths of prompts, tokens.
        depths: tokens that are in the context already when 32 more are written.

    Returns:
        pp_tps: prompt length -> tokens/s; tg_tps: depth -> tokens/s; bpw.

    Raises:
        ToolError: `llama-bench` failed.
    """
    reading = _bench(toolchain, model, "-n", "0", "-p", ",".join(map(str, prompts)))
    writing = _bench(
        *(toolchain, model, "-p", "0", "-n", str(DECODE_TOKENS)), "-d", ",".join(map(str, depths))
    )
    try:
        return {
            "pp_tps": {str(r["n_prompt"]): round(r["avg_ts"], 2) for r in reading},
            "tg_tps": {str(r["n_depth"]): round(r["avg_ts"], 2) for r in writing},
            "bpw": _bpw(reading[0]),
        }
    except (KeyError, TypeError, IndexError) as error:
        raise _bench_failed(repr(error), "") from error


def _bpw(run: dict[str, Any]) -> float:
    return round(float(run["model_size"]) * 8 / float(run["model_n_params"]), 3)


def _bench(toolchain: Toolchain, model: Path, *arguments: str) -> list[dict[str, Any]]:
    command: list[str | Path] = [
        *(toolchain.program("llama-bench"), "-m", model, "-o", "json", "-r", "2"),
        *(*arguments, "-t", str(probe().cores)),
    ]
    answer = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise _bench_failed(f"exit {answer.returncode}", answer.stderr)
    try:
        runs: list[dict[str, Any]] = json.loads(answer.stdout)
    except ValueError as error:
        raise _bench_failed(str(error), answer.stderr) from error
    return runs


def _bench_failed(reason: str, log: str) -> ToolError:
    return ToolError(
        "tool.failed",
        tr(
            "`{program}` failed ({reason}): {log}",
            program="llama-bench",
            reason=reason,
            log=log[-500:].strip() or "(no output)",
        ),
    )


def footprint(toolchain: Toolchain, model: Path) -> dict[str, float | int | None]:
    """What serving costs: load_s (process start to ready), rss_bytes (peak, after one answer).

    The server has one slot of 2048 tokens; the file may be in the system's page cache.
    """
    with served(toolchain, model, ["-c", str(_CONTEXT), "-np", "1"]) as server:
        body = {"prompt": "one two three four five six seven eight", "n_predict": 8}
        server.post("/completion", body)
        return {"load_s": round(server.load_s, 3), "rss_bytes": server.peak_memory_bytes()}
