"""`slipway convert`: model folder to GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.core.i18n import Text


@click.command(help=str(tr("Convert a model folder to GGUF, with template proof.")))
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--outtype", default="bf16", show_default=True, help="bf16, f16, f32, q8_0")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help=str(tr("Folder of the result."))
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def convert(model: Path, outtype: str, output: Path | None, as_json: bool) -> None:
    from dataclasses import asdict

    from slipway.cli.output import LiveLine, note, print_json, size
    from slipway.core.events import EventLog
    from slipway.core.manifest import require_replaceable
    from slipway.core.paths import Home
    from slipway.export import convert_to_gguf

    line = LiveLine()

    def show(event: dict[str, Any]) -> None:
        if event["type"] == "progress":
            done = event["fraction"]
            stage = tr("converting") if event["stage"] == "convert" else tr("proving")
            line.show(f"{stage} {done:4.0%}" if done is not None else stage)

    warnings: list[Text] = []
    home = Home.current()
    folder = resolve(model, home)
    target = output or home.artefacts / f"{folder.resolve().name}-{outtype}"
    require_replaceable(target, "gguf")
    manifest = convert_to_gguf(
        folder, target, outtype=outtype, home=home, events=EventLog(None, show), say=warnings.append
    )
    line.done()
    for warning in warnings:
        note(warning)
    if as_json:
        print_json({"folder": str(target), **asdict(manifest)})
        return
    proof = manifest.notes["proof"]
    note(
        tr(
            "equal to the model on {texts} texts and {chats} chats, token by token",
            texts=proof["texts"],
            chats=proof["chats"],
        )
    )
    for difference in proof["rare_differences"]:
        note(tr("known difference on rare characters: {what}", what=difference))
    print(f"{target}\t{size(manifest.metrics['size_bytes'])}")


def resolve(name: Path, home: Any) -> Path:
    """A folder given by path, or by its name below SLIPWAY_HOME."""
    for folder in (name, home.artefacts / name, home.bases / name):
        if folder.is_dir():
            return Path(folder)
    from slipway.core.errors import NotFoundError

    raise NotFoundError(
        "model.not_found",
        tr("there is no folder {path}, here or in {home}", path=str(name), home=home.root),
        tr("see what is there with `ls {folder}`", folder=home.artefacts),
    )
