"""The live screen of `slipway top`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from slipway.cli.load_view import DaemonLoad, Look, between, look, table
from slipway.core.errors import SlipwayError
from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.client import DaemonClient


def watch(daemon: DaemonClient, before: Look, interval_s: float) -> None:
    """Draw until Ctrl-C. A daemon that is being started again is waited for."""
    from rich.console import Console
    from rich.live import Live

    load = between(daemon.url, before, before)
    with Live(table(load), console=Console(), auto_refresh=False, screen=True) as live:
        while True:
            try:
                time.sleep(interval_s)
                now = look(daemon)
                load, before = between(daemon.url, before, now), now
                live.update(table(load), refresh=True)
            except SlipwayError as error:
                gone = tr("no answer: {reason}", reason=error.message)
                live.update(table(DaemonLoad(daemon.url), str(gone)), refresh=True)
            except KeyboardInterrupt:
                return
