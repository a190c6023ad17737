"""Let a GGUF answer held-out questions through `llama-server`, several at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from slipway.datasets import Sample
from slipway.export.server import served
from slipway.export.toolchain import Toolchain

_PER_MESSAGE = 16  # tokens of template around one turn, generously
_DEFAULT_SYSTEM = 64  # tokens that a template may add when there is no system turn


def answers(
    toolchain: Toolchain,
    model: Path,
    samples: Sequence[Sample],
    *,
    max_new_tokens: int,
    slots: int,
    on_answer: Callable[[], None] | None = None,
    adapter: Path | None = None,
) -> list[str]:
    """The model's last turn for each conversation, greedy (temperature 0), in order.

    The prompt is every turn before the last, which is the reference. Slots are batched together
    by the server; sums in another order can change a near-tie, so repeated runs may differ by a
    few words.

    Args:
        max_new_tokens: longest answer, tokens.
        slots: conversations at once.
        adapter: GGUF adapter that is added to the model.

    Raises:
        ToolError: the server failed.
    """
    if not samples:
        return []
    slots = min(slots, len(samples))
    each = context_tokens(samples, max_new_tokens)
    arguments = ["-c", str(each * slots), "-np", str(slots), "--no-warmup"]
    arguments += ["--lora", str(adapter)] if adapter else []
    with served(toolchain, model, arguments) as server:

        def ask(sample: Sample) -> str:
            body = {
                "messages": [{"role": m.role, "content": m.content} for m in sample.messages[:-1]],
                "temperature": 0,
                "seed": 0,
                "max_tokens": max_new_tokens,
            }
            answer = server.post("/v1/chat/completions", body)
            if on_answer:
                on_answer()
            return str(answer["choices"][0]["message"].get("content") or "").strip()

        with ThreadPoolExecutor(slots) as pool:
            return list(pool.map(ask, samples))


def context_tokens(samples: Sequence[Sample], max_new_tokens: int) -> int:
    """A context that every prompt and answer fits in: a token is at least one byte of text."""
    longest = max(
        sum(len(m.content.encode("utf-8")) + _PER_MESSAGE for m in sample.messages[:-1])
        for sample in samples
    )
    return math.ceil((longest + _DEFAULT_SYSTEM + max_new_tokens) / 256) * 256
