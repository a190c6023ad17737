"""`slipway chat`: a terminal client of the gateway."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from slipway.cli.output import note, print_json
from slipway.cli.piped import given_text
from slipway.core.errors import AuthError, NotFoundError, UsageError
from slipway.core.i18n import tr
from slipway.core.paths import Home

if TYPE_CHECKING:
    from slipway.client import GatewayClient, Profile
    from slipway.client.terminal import Conversation

DEFAULT_URL = "http://127.0.0.1:3000"


@click.command(
    help=str(
        tr(
            "Chat in the terminal. With PROMPT, or with text piped in, answer once and end; "
            "otherwise talk until /bye."
        )
    )
)
@click.argument("prompt", required=False)
@click.option(
    "--url", help=str(tr("The gateway's address; default: the saved one, or this machine."))
)
@click.option(
    "--key",
    envvar="SLIPWAY_API_KEY",
    show_envvar=True,
    help=str(tr("The key; default: the saved one.")),
)
@click.option("--model", help=str(tr("Model to talk to; default: the saved one, or the only one.")))
@click.option("--system", default="", help=str(tr("System prompt.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Answer once and print JSON.")))
def chat(
    prompt: str | None,
    url: str | None,
    key: str | None,
    model: str | None,
    system: str,
    as_json: bool,
) -> None:
    from slipway.client import GatewayClient, load_profile
    from slipway.client.terminal import Conversation

    home = Home.current()
    profile = load_profile(home)
    address, own_key = _where(profile, url, key)
    text = given_text(prompt, "slipway chat")
    if as_json and text is None:
        raise UsageError(
            "chat.no_prompt",
            tr("`--json` needs a prompt"),
            tr("for example `slipway chat --json 'hello'`"),
        )
    with GatewayClient(address, own_key) as client:
        saved = profile.model if not url or _same(url, profile.url) else ""
        talk = Conversation(client, model or saved or _only_model(client), system)
        if text is None:
            _talk(talk, home)
        elif as_json:
            _answer_json(talk, text)
        else:
            _answer(talk, text)


def _talk(talk: Conversation, home: Home) -> None:
    from slipway.client.terminal import Repl, use_history

    save = use_history(home.root / "chat_history")
    try:
        Repl(talk).run()
    finally:
        save()


def _answer(talk: Conversation, text: str) -> None:
    from slipway.client.terminal import summary

    stream = talk.ask(text, lambda piece: print(piece, end="", flush=True))
    print()
    if sys.stderr.isatty():
        note(summary(stream))


def _answer_json(talk: Conversation, text: str) -> None:
    stream = talk.ask(text, lambda _piece: None)
    usage = stream.usage
    print_json(
        {
            "model": talk.model,
            "content": stream.text,
            "finish_reason": stream.finish_reason,
            "request_id": stream.request_id,
            "prompt_tokens": usage.prompt_tokens if usage else None,
            "completion_tokens": usage.completion_tokens if usage else None,
            "first_s": stream.first_s,
            "total_s": stream.total_s,
        }
    )


def _where(profile: Profile, url: str | None, key: str | None) -> tuple[str, str]:
    """Address and key; the saved key goes to the saved address only."""
    address = url or profile.url or DEFAULT_URL
    if key:
        return address, key
    if profile.key and _same(address, profile.url):
        return address, profile.key
    raise AuthError(
        "chat.no_key",
        tr("no key for {url}", url=address),
        tr(
            "give `--key` or set SLIPWAY_API_KEY; make a key with "
            "`slipway gateway token add NAME --user USER`"
        ),
    )


def _same(one: str, other: str) -> bool:
    return one.rstrip("/").removesuffix("/v1") == other.rstrip("/").removesuffix("/v1")


def _only_model(client: GatewayClient) -> str:
    names = client.models()
    if len(names) == 1:
        return names[0]
    if not names:
        raise NotFoundError(
            "chat.no_model",
            tr("the key may use no model"),
            tr("see the channels with `slipway gateway channel ls`"),
        )
    raise UsageError(
        "chat.which_model",
        tr("there are several models: {names}", names=", ".join(names)),
        tr("choose with `--model {name}`", name=names[0]),
    )
