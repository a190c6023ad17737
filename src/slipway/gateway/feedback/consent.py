"""Consent to keep a token's prompts and answers: which share, how long, how large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slipway.core.errors import UsageError
from slipway.core.i18n import tr

ALL_BP = 10_000
_MOST_DAYS = 3650
_MOST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Consent:
    """Consent, as a token has it.

    Attributes:
        share_bp: share of requests to keep, in basis points (10,000: all).
        days: after which a capture is removed.
        max_bytes: of prompt and answer together; larger ones are not kept.
    """

    share_bp: int = ALL_BP
    days: int = 30
    max_bytes: int = 256 * 1024

    def __post_init__(self) -> None:
        for name, value, most in (
            ("share_bp", self.share_bp, ALL_BP),
            ("days", self.days, _MOST_DAYS),
            ("max_bytes", self.max_bytes, _MOST_BYTES),
        ):
            if not 1 <= value <= most:
                raise UsageError(
                    "gateway.bad_consent",
                    tr("capture: {name} must be from 1 to {most}", name=name, most=most),
                )

    def columns(self) -> dict[str, int]:
        """Its columns in the table of tokens."""
        return {
            "capture_share_bp": self.share_bp,
            "capture_days": self.days,
            "capture_bytes": self.max_bytes,
        }


def consent_of(row: Any) -> Consent | None:
    """The consent in a row of tokens; None when there is none."""
    if row.capture_share_bp is None:
        return None
    return Consent(row.capture_share_bp, row.capture_days, row.capture_bytes)
