"""`slipway prove`: does a GGUF read and render what its model folder does?"""

from __future__ import annotations

from pathlib import Path

import click

from slipway.core.i18n import tr


@click.command(
    help=str(
        tr(
            "Compare a GGUF with the model folder it was made from: the same texts and chats, "
            "rendered and tokenised by both, token by token. For files that somebody else has "
            "converted; `slipway convert` does it by itself."
        )
    )
)
@click.argument("model")
@click.option(
    "--against",
    required=True,
    type=click.Path(path_type=Path),
    help=str(tr("Model folder with tokenizer and chat template.")),
)
@click.option(
    "--daemon",
    "url",
    is_flag=False,
    metavar="[URL]",
    flag_value="http://127.0.0.1:11434",
    help=str(tr("Ask a running daemon that serves MODEL, a name:tag. [URL, default: the local]")),
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def prove(model: str, against: Path, url: str | None, as_json: bool) -> None:
    from slipway.cli.commands.bench import file_of
    from slipway.cli.commands.convert import resolve, tell_recorded
    from slipway.cli.output import print_json, print_table
    from slipway.core.paths import Home
    from slipway.export import prove_tokenizer
    from slipway.export.proof_daemon import prove_daemon
    from slipway.export.toolchain import require_toolchain
    from slipway.store import read_gguf

    home = Home.current()
    folder = resolve(against, home)
    if url is not None:
        proof = prove_daemon(url, model, folder).as_json()
        proved = {"daemon": url, "model": model}
    else:
        path = file_of(model, home)
        read_gguf(path)  # a damaged file is told as such, not by the engine
        proof = prove_tokenizer(path, folder, toolchain=require_toolchain(home)).as_json()
        proved = {"file": str(path)}
    if as_json:
        print_json({**proved, "against": str(folder), **proof})
        return
    print(
        tr(
            "equal to the model on {texts} texts and {chats} chats, token by token",
            texts=proof["texts"],
            chats=proof["chats"],
        )
    )
    rows = [(chat["case"], chat["tokens"], chat["result"]) for chat in proof["hard_chats"]]
    if rows:
        print_table([tr("case"), tr("tokens"), tr("result")], rows)
    tell_recorded(proof)
