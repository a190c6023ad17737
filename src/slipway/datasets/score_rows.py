"""Every row with its score, as JSON lines."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from slipway.datasets.alike import Alike
from slipway.datasets.quality import personal_of
from slipway.datasets.reasons import POINTS, reasons_of
from slipway.datasets.scan import BITS, LANGUAGE, PERSONAL, UNITS, Scan
from slipway.datasets.scripts import LANGUAGES
from slipway.datasets.sketches import Comparison


def row_lines(scan: Scan, alike: Alike) -> Iterator[bytes]:
    """One line for each row of a scan, in the order of the files."""
    scores = scan.scores()
    bits, personal = scan.column(BITS), scan.column(PERSONAL)
    languages, units = scan.column(LANGUAGE), scan.column(UNITS)
    near = _nearest(alike.conversations)
    for split, part in scan.splits.items():
        for number in range(part.start, part.end):
            row = scan.row(number)
            line: dict[str, object] = {
                "row": row.place,
                "id": row.id,
                "split": split,
                "score": int(scores[number]),
                "reasons": {str(r): POINTS[r] for r in reasons_of(int(bits[number]))},
                "language": LANGUAGES[int(languages[number])],
                "units": int(units[number]),
            }
            if personal[number]:
                line["personal"] = personal_of(int(personal[number]))
            if alike.first[number] != number:
                line["same_as"] = scan.row(int(alike.first[number])).place
            elif number in near:
                line["like"] = scan.row(near[number]).place
            yield orjson.dumps(line) + b"\n"


def _nearest(pairs: Comparison) -> dict[int, int]:
    nearest: dict[int, int] = {}
    for left, right in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True):
        nearest.setdefault(right, left)
    return nearest
