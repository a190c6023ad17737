"""`slipway run`: ask a model of the daemon, once or in a dialogue."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.cli.connect import connect, url_option
from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.cli.talk.screen import Screen
    from slipway.cli.talk.session import Session


class _RunCommand(click.Command):
    """`--think` takes a value only after `=`, so that the prompt may follow it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        head = ["--think=true" if arg == "--think" else arg for arg in args[:end]]
        return super().parse_args(ctx, head + args[end:])


@click.command(
    cls=_RunCommand,
    help=str(
        tr(
            "Talk to a model of the daemon, which is started when none runs. With PROMPT, or with "
            "text piped in, it answers once; otherwise it is a dialogue until /bye."
        )
    ),
    epilog=str(
        tr(
            "Examples: `slipway run kefu:q4`; `slipway run kefu:q4 'Where is my parcel?'`; "
            "`slipway run kefu:q4 'Sum up:' < letter.txt`"
        )
    ),
)
@click.argument("name")
@click.argument("prompt", nargs=-1)
@click.option("--system", default="", help=str(tr("System prompt, instead of the model's own.")))
@click.option(
    "--option",
    "-o",
    "pairs",
    multiple=True,
    metavar="NAME=VALUE",
    help=str(tr("A parameter, such as temperature=0.2 or num_ctx=8192; several times.")),
)
@click.option(
    "--format",
    "format_text",
    metavar="json|SCHEMA|FILE",
    help=str(tr("Answer in JSON: any, or what matches a JSON schema.")),
)
@click.option(
    "--image",
    "pictures",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help=str(tr("A picture for a model that sees; several times for more.")),
)
@click.option(
    "--think",
    metavar="[=LEVEL]",
    help=str(tr("Let the model think first: true, false, low, medium, high, max.")),
)
@click.option("--hidethinking", is_flag=True, help=str(tr("Do not show the thoughts.")))
@click.option(
    "--keepalive",
    metavar="DURATION",
    help=str(tr("How long the model stays loaded afterwards, such as 5m; -1 for ever.")),
)
@click.option(
    "--truncate/--no-truncate",
    default=None,
    help=str(tr("Leave out the oldest turns when they no longer fit (default in a dialogue).")),
)
@click.option("--verbose", is_flag=True, help=str(tr("Print the timings after each answer.")))
@click.option("--nowordwrap", is_flag=True, help=str(tr("Do not break lines between words.")))
@url_option
@click.option("--json", "as_json", is_flag=True, help=str(tr("Answer once and print JSON.")))
def run(name: str, prompt: tuple[str, ...], url: str | None, as_json: bool, **given: Any) -> None:
    from slipway.cli.piped import given_text
    from slipway.cli.talk.screen import Screen
    from slipway.core.errors import UsageError

    text = given_text(" ".join(prompt) or None, f"slipway run {name}")
    if as_json and text is None:
        raise UsageError(
            "chat.no_prompt",
            tr("`--json` needs a prompt"),
            tr("for example `slipway run {name} --json 'hello'`", name=name),
        )
    settings = _settings(given, dialogue=text is None)  # wrong values are told before any waiting
    screen = Screen(
        wordwrap=not given["nowordwrap"],
        verbose=given["verbose"],
        hide_thinking=given["hidethinking"],
    )
    from slipway.cli.talk.session import Session

    with connect(url, may_start=True) as daemon:
        session = Session(daemon, name, **settings)
        session.begin(name)
        if session.can("embedding") and not session.can("completion"):
            _embed(session, text, as_json)
        elif text is None:
            _talk(session, screen)
        elif as_json:
            _answer_json(session, text)
        else:
            _answer(session, screen, text)


def _settings(given: dict[str, Any], *, dialogue: bool) -> dict[str, Any]:
    from slipway.cli.talk.images import read_image
    from slipway.cli.talk.values import read_format, read_options, read_think

    return {
        "system": given["system"],
        "options": read_options(given["pairs"]),
        "format": read_format(given["format_text"]) if given["format_text"] else None,
        "think": read_think(given["think"]) if given["think"] else None,
        "keep_alive": given["keepalive"],
        "images": [read_image(path) for path in given["pictures"]],
        "truncate": dialogue if given["truncate"] is None else given["truncate"],
    }


def _talk(session: Session, screen: Screen) -> None:
    from slipway.cli.talk.repl import Repl
    from slipway.core.paths import Home

    session.load()
    Repl(session, screen, Home.current().root / "run_history").run()


def _answer(session: Session, screen: Screen, text: str) -> None:
    screen.begin()
    answer = None
    try:
        answer = session.ask(text, screen.piece)
    finally:
        screen.end(answer)


def _answer_json(session: Session, text: str) -> None:
    from slipway.cli.output import print_json

    answer = session.ask(text, lambda _piece: None)
    timings = answer.timings
    print_json(
        {
            "model": session.model,
            "content": answer.text,
            "thinking": answer.thinking,
            "done_reason": answer.done_reason,
            "truncated": answer.truncated,
            "first_s": answer.first_s,
            **(timings.as_json() if timings else {}),
        }
    )


def _embed(session: Session, text: str | None, as_json: bool) -> None:
    from slipway.cli.output import print_json
    from slipway.core.errors import UsageError

    if text is None:
        raise UsageError(
            "run.embedding_model",
            tr("`{name}` makes embeddings and cannot talk", name=session.model),
            tr("for example `slipway embed -m {name} 'some text'`", name=session.model),
        )
    vector = session.daemon.embed(session.model, [text], keep_alive=session.keep_alive)[0]
    if as_json:
        print_json({"model": session.model, "embedding": vector})
    else:
        sys.stdout.write("[" + ",".join(f"{x:.8g}" for x in vector) + "]\n")
