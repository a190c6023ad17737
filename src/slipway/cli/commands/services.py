"""`slipway status` and `slipway down`: the services that run in the background."""

from __future__ import annotations

import click

from slipway.cli.output import note, print_json, print_table
from slipway.core.i18n import tr

# the gateway first, so that no request arrives at a daemon that is gone
NAMES = ("gateway", "serve")


@click.command(help=str(tr("Show the services that run in the background.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def status(as_json: bool) -> None:
    from dataclasses import asdict

    from slipway.core.paths import Home
    from slipway.jobs.services import service_status

    found = [s for s in (service_status(Home.current(), name) for name in NAMES) if s]
    if as_json:
        print_json({"services": [asdict(service) for service in found]})
    elif found:
        print_table(
            ["NAME", "URL", "PID", "SINCE", "LOG"],
            [(s.name, s.url, s.pid, s.since, s.log) for s in found],
        )
    else:
        note(tr("no service runs in the background"))


@click.command(help=str(tr("Stop the services that run in the background.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def down(as_json: bool) -> None:
    from slipway.core.paths import Home
    from slipway.jobs.services import stop_service

    stopped = [name for name in NAMES if stop_service(Home.current(), name)]
    if as_json:
        print_json({"stopped": stopped})
    elif stopped:
        note(tr("stopped: {names}", names=", ".join(stopped)))
    else:
        note(tr("no service runs in the background"))
