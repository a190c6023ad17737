"""Proof that llama.cpp computes what the folder computes in `transformers`, by their logits.

Equal tokens say nothing about a weight that was turned, scaled or left out, nor about a setting
that the converter did not carry over.
"""

from __future__ import annotations

import json
from pathlib import Path

from slipway.core.errors import ProofError, ResourceError, UsageError
from slipway.core.i18n import tr
from slipway.export.merge.probes import probes
from slipway.export.merge.proof import model_logits
from slipway.export.next_tokens import divergence, next_tokens, places_of, same_tokens
from slipway.export.server import served
from slipway.export.toolchain import Toolchain

# Mean KL in nats, and as a part of what lies between neighbouring positions, which is small where
# all next tokens are about as likely. Rounding gives SmolLM2-135M 1e-4 as bf16 and 9e-3 as Q8_0;
# experts weighted wrongly are off by a hundredth of that part.
_FLOAT = (3e-3, 1e-3)
_QUANTISED = (3e-2, 1e-2)
_PROBE_TOKENS = 192


def require_text_model(model_dir: Path) -> None:
    """Refuse a model without logits of next tokens.

    Raises:
        UsageError: by its config it makes vectors, or classes.
    """
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    names = config.get("architectures") or [""]
    if not names[0].endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        raise UsageError(
            "convert.no_text_model",
            tr("{folder} makes no text: its logits cannot be compared", folder=model_dir),
            tr("leave out `--proof logits`"),
        )


def prove_model_logits(
    gguf: Path, model_dir: Path, *, outtype: str, toolchain: Toolchain
) -> dict[str, float]:
    """Compare the next tokens' probabilities after some texts.

    Args:
        gguf: the converted file, or the first of a set.
        outtype: its number format.

    Returns:
        kl_mean (nats), positions.

    Raises:
        ProofError: llama.cpp computes another model.
        ResourceError: the folder's model does not fit into memory.
    """
    texts = probes(model_dir, None, _PROBE_TOKENS)
    every = model_logits(model_dir, texts)
    if every is None:
        raise ResourceError(
            "convert.no_logits",
            tr(
                "the model in {path} does not fit into memory for the proof by logits",
                path=model_dir,
            ),
            tr("leave out `--proof logits`"),
        )
    places = places_of(texts)
    wanted = every[[place.row for place in places]]
    with served(toolchain, gguf, ["-c", "1024", "-np", "1", "--no-warmup"]) as server:
        found = next_tokens(server, texts)
    kl = divergence(wanted, found)
    apart = divergence(wanted, same_tokens(wanted.roll(1, 0), found))
    most, part = _QUANTISED if outtype == "q8_0" else _FLOAT
    if not kl <= min(most, part * apart):
        raise ProofError(
            "convert.logits_differ",
            tr(
                "llama.cpp computes another model than {folder} is: mean KL {kl:.1e} over "
                "{count} next tokens",
                folder=model_dir,
                kl=kl,
                count=len(places),
            ),
            tr("llama.cpp may not support all of the model's config; please report it"),
        )
    return {"kl_mean": kl, "positions": len(places)}
