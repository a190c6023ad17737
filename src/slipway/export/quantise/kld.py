"""The smallest whole type whose answers stay near the source's: bisection with measurements."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from slipway.core.errors import NotFoundError
from slipway.core.files import sha256_file
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.export.measure import TextSpec, divergence, perplexity
from slipway.export.quantise.mix import RUNGS
from slipway.export.quantise.options import Options
from slipway.export.quantise.run import plan_quantize, quantize
from slipway.export.quantise.source import read_source, require_files
from slipway.export.quantise.type_names import NEEDS_IMATRIX, quant_types
from slipway.export.toolchain import require_toolchain


@dataclass(frozen=True, slots=True)
class Measured:
    """What one rung turned out to be.

    Attributes:
        type: the whole type.
        size_bytes: exact.
        kld: mean distance from the source, nats for each token, and its standard error.
    """

    type: str
    size_bytes: int
    kld: float
    kld_error: float


@dataclass(frozen=True, slots=True)
class KldSearch:
    """What was found.

    Attributes:
        type: the smallest rung below the limit; None when not even the best one is.
        measured: every measurement, in the order in which they were made.
        options: those to quantise with: the user's, and for the manifest what was measured.
    """

    type: str | None
    measured: tuple[Measured, ...]
    options: Options

    @property
    def best(self) -> Measured:
        """The measurement nearest to the source."""
        return min(self.measured, key=lambda one: one.kld)


def find_for_kld(
    gguf_dir: Path,
    limit: float,
    text: TextSpec,
    scratch: Path,
    *,
    home: Home,
    options: Options | None = None,
    imatrix: Path | None = None,
    on_measured: Callable[[Measured], None] | None = None,
) -> KldSearch:
    """Quantise and measure a few rungs until the smallest below the limit is known.

    Args:
        limit: mean KLD in nats for each token, measured against the source itself.
        text: what is measured on; not what the matrix was made from.
        scratch: an existing folder for the quantised files, one at a time, and for the source's
            log-probabilities (2 bytes × vocabulary for each scored token).
        imatrix: as for `quantize`; allows types of one to two bits.
        on_measured: told of each measurement as it is made.

    Raises:
        NotFoundError: no such text.
        the errors of `quantize` and `divergence`.
    """
    given = options or Options()
    _require_text(text.path)
    tools = require_toolchain(home)
    source = require_files(gguf_dir, read_source(gguf_dir, allow_quantised=given.allow_requantize))
    offered = set(quant_types(tools))
    names = [n for n in RUNGS if n in offered and (imatrix or n not in NEEDS_IMATRIX)]
    plans = plan_quantize(
        gguf_dir, names, home=home, options=given, calibrated=imatrix is not None
    ).values()
    sizes = {plan.type: plan.size_bytes for plan in plans}
    found: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="kld-", dir=scratch) as temporary:
        folder = Path(temporary)
        perplexity(tools, source[0], text, logits=folder / "logits")

        def measure(name: str) -> float:
            with tempfile.TemporaryDirectory(dir=folder) as quants:
                made = quantize(
                    gguf_dir, [name], Path(quants), home=home, options=given, imatrix=imatrix
                )
                files = sorted((Path(quants) / next(iter(made))).glob("*.gguf"))
                numbers = divergence(tools, files[0], text, folder / "logits")
            found.append(Measured(name, sizes[name], numbers["kld_mean"], numbers["kld_error"]))
            if on_measured:
                on_measured(found[-1])
            return numbers["kld_mean"]

        chosen = bisect(
            sorted(names, key=lambda name: (sizes[name], names.index(name))), measure, limit
        )
    target = _record(limit, text, found)
    return KldSearch(chosen, tuple(found), replace(given, target=target))


def _require_text(path: Path) -> None:
    if not path.is_file():
        raise NotFoundError(
            "file.not_found",
            tr("{path} does not exist", path=str(path)),
            tr("name a plain text file with `--text`"),
        )


def bisect(rungs: Sequence[str], measure: Callable[[str], float], limit: float) -> str | None:
    """The first rung whose measure is at most the limit, if rungs fall in it; None: none is.

    The last rung, which tells whether the limit can be reached at all, is measured only when no
    other one reached it.
    """
    low, high = 0, len(rungs)
    while low < high:
        middle = (low + high) // 2
        if measure(rungs[middle]) <= limit:
            high = middle
        else:
            low = middle + 1
    return rungs[low] if low < len(rungs) else None


def _record(limit: float, text: TextSpec, found: Sequence[Measured]) -> dict[str, Any]:
    return {
        "kld": limit,
        "text": text.path.name,
        "text_digest": sha256_file(text.path),
        "context": text.context,
        "chunks": text.chunks,
        "measured": [asdict(one) for one in found],
    }
