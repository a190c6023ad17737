"""`slipway push NAME`: a stored model to its registry."""

from __future__ import annotations

import click

from slipway.core.i18n import tr


@click.command(
    help=str(
        tr(
            "Send a model to its registry. NAME is `host/namespace/model:tag`, made before with "
            "`slipway cp`; `http://` before it and --insecure are for a registry without TLS."
        )
    )
)
@click.argument("name")
@click.option(
    "--insecure", is_flag=True, help=str(tr("Accept plain HTTP and unknown certificates."))
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def push(name: str, insecure: bool, as_json: bool) -> None:
    from slipway.cli.commands.pull import transfer
    from slipway.core.paths import Home
    from slipway.store.registry import push_model

    transfer(push_model(name, home=Home.current(), insecure=insecure), name, as_json)
