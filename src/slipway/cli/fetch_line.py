"""How the download of a dataset is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from slipway.cli import output
from slipway.core.i18n import Text, tr

if TYPE_CHECKING:
    from slipway.datasets.source import DataSource


def fetch_text(name: str, done: int, total: int) -> Text:
    """How far a download is."""
    return tr(
        "fetching {name}: {done} of {total}",
        name=name,
        done=output.size(done),
        total=output.size(total),
    )


def fetch_shown(sources: Sequence[DataSource]) -> None:
    """Fetch what lies on a hub, with a live line.

    Raises:
        SlipwayError: see `fetch_sources`.
    """
    from slipway.datasets.open import fetch_sources

    line = output.LiveLine()
    try:
        fetch_sources(sources, lambda *state: line.show(fetch_text(*state)))
    finally:
        line.done()
