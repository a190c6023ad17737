"""From quantised files to a chat behind a key."""

from __future__ import annotations

import shlex
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from slipway.core.errors import AuthError, NotFoundError
from slipway.core.files import locked, write_text
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.core.process import free_port, port_is_free
from slipway.demo.context import DemoContext
from slipway.demo.options import model_stem
from slipway.jobs.services import Service, running_service, start_service, stop_service
from slipway.ship.artefacts import Outputs, Results
from slipway.ship.modelfile import modelfile_text
from slipway.ship.names import names_hold

HOST = "127.0.0.1"
KEY_MARK = "$SLIPWAY_API_KEY"
USER, TOKEN, CHANNEL = "demo", "demo", "local"
EMBED_NAME = "all-minilm"
PARAMETERS = (("temperature", "0.2"), ("num_ctx", "2048"))
# Invented prices per million tokens, so that the report shows how costs are counted.
PRICE_IN, PRICE_OUT = "0.10", "0.40"


def create(context: DemoContext, results: Results) -> Outputs:
    """One name:tag for each quant, `latest` for the first, and the embedding model."""
    from slipway.datasets import load_dataset
    from slipway.store import create_model

    system = _system_prompt(load_dataset(context.data)[0].messages)
    stem = model_stem(context.data)
    names: dict[str, dict[str, str]] = {}
    wanted = {f"{stem}:{kind.lower()}": o for kind, o in results["quantise"].items()}
    wanted[f"{stem}:latest"] = next(iter(results["quantise"].values()))
    for name, quant in wanted.items():
        text = modelfile_text(Path(quant["folder"]), system, PARAMETERS)
        write_text(context.folder / "modelfiles" / name.replace(":", "-"), text)
        manifest = create_model(name, text, home=context.home)
        names[name] = {"manifest": manifest.digest, "source": quant["digest"]}
    if "embed" in results["convert"]:
        embed = results["convert"]["embed"]
        manifest = create_model(EMBED_NAME, f"FROM {embed['folder']}\n", home=context.home)
        names[f"{EMBED_NAME}:latest"] = {"manifest": manifest.digest, "source": embed["digest"]}
    context.say(tr("created: {names}", names=", ".join(names)))
    return {"names": names, "system": system, "chat_model": f"{stem}:latest"}


def _system_prompt(messages: tuple[Any, ...]) -> str:
    return messages[0].content if messages and messages[0].role == "system" else ""


def created(context: DemoContext, outputs: Outputs) -> bool:
    """Whether the store still holds these models as they were made."""
    return names_hold(context.home, outputs["names"])


def serve(context: DemoContext, results: Results) -> Outputs:
    """The model daemon in the background, adopted when it already runs."""
    service = _running_or_started(
        context, "serve", ["serve"], context.options.daemon_port, "/api/version"
    )
    context.say(tr("model daemon: {url}", url=service.url))
    return {"url": service.url}


def gateway(context: DemoContext, results: Results) -> Outputs:
    """The gateway in the background, with a user, a channel to the daemon, and a key."""
    from slipway.client import load_profile, save_profile
    from slipway.gateway import ChannelSpec, Price, add_channel, open_store, parse_money

    price = Price(parse_money(PRICE_IN, "--price-in"), parse_money(PRICE_OUT, "--price-out"))
    spec = ChannelSpec(CHANNEL, "slipway", results["serve"]["url"], price=price)
    with closing(open_store(context.home.gateway_db)) as store:
        add_channel(store, spec, replace=True)
    service = _running_or_started(
        context, "gateway", ["gateway", "serve"], context.options.gateway_port, "/healthz"
    )
    model = results["create"]["chat_model"]
    profile = load_profile(context.home)
    key = profile.key
    if not _key_works(service.url, key):
        key = _new_key(context.home)
    save_profile(context.home, service.url, key, model)
    context.say(tr("gateway: {url}", url=service.url))
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    # The record of the pipeline is a plain file, so the key stays in the profile alone.
    curl = (
        f"curl {service.url}/v1/chat/completions -H 'Authorization: Bearer {KEY_MARK}' "
        f"-H 'Content-Type: application/json' -d {shlex.quote(body)}"
    )
    return {"url": service.url, "model": model, "curl": curl}


def _key_works(url: str, key: str) -> bool:
    from slipway.client import GatewayClient

    try:
        with GatewayClient(url, key) as client:
            client.models()
    except AuthError:
        return False
    return True


def _new_key(home: Home) -> str:
    from slipway.gateway import add_token, add_user, list_users, open_store, revoke_token

    with closing(open_store(home.gateway_db)) as store:
        if all(user.name != USER for user in list_users(store)):
            add_user(store, USER)
        with suppress(NotFoundError):
            revoke_token(store, TOKEN)
        return add_token(store, TOKEN, user=USER)[1]


def _running_or_started(
    context: DemoContext, name: str, command: list[str], wanted_port: int, health: str
) -> Service:
    """Adopt the service or start it; two demos of one home do not start it twice."""
    with locked(context.home.services / name):
        if found := running_service(context.home, name, health):
            return found
        return _start(context, name, command, wanted_port, health)


def _start(
    context: DemoContext, name: str, command: list[str], wanted_port: int, health: str
) -> Service:
    free = wanted_port and port_is_free(HOST, wanted_port)
    port = wanted_port if free else free_port(HOST)
    if wanted_port and not free:
        context.say(tr("port {port} is taken, using {other}", port=wanted_port, other=port))
    return start_service(
        context.home,
        name,
        [*command, "--host", HOST, "--port", str(port)],
        url=f"http://{HOST}:{port}",
        health_path=health,
    )


def stop_services(home: Home) -> None:
    """Stop what the demo started."""
    for name in ("gateway", "serve"):
        stop_service(home, name)
