"""Where cards stay: beside each quantised artefact, from where the model store takes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slipway.core.files import write_json
from slipway.evaluation.quality.model import CARD, SCHEMA, QualityCard, QualityPlan


def card_of(card: QualityCard, level: str) -> dict[str, Any]:
    """What is kept with one level: its row, the unquantised model's, and how they were measured."""
    return {
        "schema": SCHEMA,
        "artefact": card.levels[level].get("digest", ""),
        "level": level,
        "figures": card.levels[level],
        "unquantised": card.reference,
        "settings": card.settings,
        "machine": card.machine,
        "measured_at": card.measured_at,
    }


def keep_beside(card: QualityCard, plan: QualityPlan) -> list[Path]:
    """Write each level's card into its artefact's folder; the artefact's digest stays what it is.

    Returns:
        The files; none for a level that was given as a bare file.
    """
    written = []
    for name, path in plan.models.items():
        if path.is_dir():
            write_json(path / CARD, card_of(card, name))
            written.append(path / CARD)
    return written


def read_card(path: Path) -> QualityCard | None:
    """A whole card that was written before; None when there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["schema"] != SCHEMA:
            return None
        return QualityCard(**value)
    except (OSError, ValueError, TypeError, KeyError):
        return None
