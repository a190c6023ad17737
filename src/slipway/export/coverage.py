"""What an importance matrix knows of a model: weights, experts and columns without data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError
from slipway.core.i18n import tr

_SUMS, _COUNTS = ".in_sum2", ".counts"
# never multiplied with activations while reading, or only on request: no data is no fault there
_WITHOUT = ("token_embd.weight", "output.weight")
_FEW_TOKENS = 1000  # of an expert: below, its columns are told apart by chance


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a matrix covers.

    Attributes:
        tensors: weights of two or more dimensions that the quantiser may round.
        covered: those with data.
        missing: those without data, but for the embedding and the output.
        tokens: fewest tokens that any covered weight, or expert of one, has seen.
        experts_missing: weight -> experts that saw no token.
        experts_few: weight -> experts that saw fewer than 1000.
        dead_columns: weight -> share (0..1) of its input columns that were always 0.
    """

    tensors: int
    covered: int
    missing: list[str] = field(default_factory=list)
    tokens: int = 0
    experts_missing: dict[str, int] = field(default_factory=dict)
    experts_few: dict[str, int] = field(default_factory=dict)
    dead_columns: dict[str, float] = field(default_factory=dict)

    @property
    def is_poor(self) -> bool:
        """Whether weights or experts would be rounded blindly."""
        return bool(self.missing or self.experts_missing)


def coverage_of(matrix: Path, sources: Sequence[Path]) -> Coverage:
    """Compare a matrix with the model's files.

    Raises:
        InputError: the file is no importance matrix in GGUF form.
    """
    from slipway.export.quantise.header import read_header

    sums, counts = _read(matrix)
    wanted = [
        name
        for path in sources
        for name, shape in read_header(path).shapes.items()
        if name.endswith(".weight") and len([size for size in shape if size > 1]) > 1
    ]
    covered = [name for name in wanted if name in sums]
    rows = {name: _numbers(counts[name]) for name in covered if name in counts}
    single = {name: row for name, row in rows.items() if len(row) > 1}
    return Coverage(
        tensors=len(wanted),
        covered=len(covered),
        missing=[n for n in wanted if n not in sums and n not in _WITHOUT],
        tokens=int(min((min(row) for row in rows.values()), default=0)),
        experts_missing={n: sum(v == 0 for v in row) for n, row in single.items() if min(row) == 0},
        experts_few={
            n: found
            for n, row in single.items()
            if (found := sum(0 < value < _FEW_TOKENS for value in row))
        },
        dead_columns={
            name: round(share, 4) for name in covered if (share := float((sums[name] == 0).mean()))
        },
    )


def _numbers(counts: Any) -> list[float]:
    return [float(value) for value in counts.reshape(-1)]


def _read(matrix: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import gguf

    try:
        tensors = {str(t.name): t.data for t in gguf.GGUFReader(str(matrix)).tensors}
    except (ValueError, OSError, IndexError) as error:
        raise InputError(
            "imatrix.unreadable",
            tr("{path} is no importance matrix in GGUF form", path=str(matrix)),
            tr("measure one with `slipway imatrix GGUF --text FILE`"),
        ) from error
    sums = {n.removesuffix(_SUMS): data for n, data in tensors.items() if n.endswith(_SUMS)}
    counts = {n.removesuffix(_COUNTS): data for n, data in tensors.items() if n.endswith(_COUNTS)}
    return sums, counts
