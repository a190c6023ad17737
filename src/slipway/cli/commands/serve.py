"""`slipway serve`: the model daemon in the foreground."""

from __future__ import annotations

import os

import click

from slipway.core.i18n import tr


@click.command(
    help=str(tr("Run the model daemon: Ollama's and OpenAI's API, until SIGTERM or Ctrl-C."))
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help=str(tr("Address to listen on."))
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=11434,
    show_default=True,
    help=str(tr("Port to listen on; 0 takes a free one.")),
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print the ready line as JSON.")))
def serve(host: str, port: int, as_json: bool) -> None:
    from slipway.api import build_app, is_loopback, run_server
    from slipway.cli.output import note, print_json
    from slipway.core.log import start_logging
    from slipway.core.paths import Home
    from slipway.core.process import require_port
    from slipway.engine import EngineSettings, find_provider

    start_logging()
    home, settings = Home.current(), EngineSettings.from_env()
    require_port(host, port, "slipway serve")
    provider = find_provider(settings, home)  # fails now, not at the first request
    key = os.environ.get("SLIPWAY_SERVE_KEY", "")
    app = build_app(home, settings, loopback=is_loopback(host), key=key)
    if not key and not is_loopback(host):
        note(
            tr(
                "anybody who reaches {host} can use and change these models; set SLIPWAY_SERVE_KEY",
                host=host,
            )
        )

    def ready(actual: int) -> None:
        url = f"http://{f'[{host}]' if ':' in host else host}:{actual}"
        if as_json:
            print_json({"url": url, "pid": os.getpid(), "engine": provider.name})
        else:
            print(
                tr("ready at {url} (engine: {engine})", url=url, engine=provider.name), flush=True
            )

    run_server(app, host, port, on_ready=ready)
