"""`slipway create`: a name:tag from a Modelfile."""

from __future__ import annotations

from pathlib import Path

import click

from slipway.core.i18n import tr


@click.command(help=str(tr("Create NAME (such as `shop:q4`) in the model store from a Modelfile.")))
@click.argument("name")
@click.option(
    "-f",
    "--file",
    "modelfile",
    type=click.Path(path_type=Path),
    default=Path("Modelfile"),
    show_default=True,
    help=str(tr("The Modelfile; `-` reads it from standard input.")),
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print the result as JSON.")))
def create(name: str, modelfile: Path, as_json: bool) -> None:
    from slipway.cli.output import note, print_json, size
    from slipway.core.paths import Home
    from slipway.store import ModelName, create_parsed, read_modelfile
    from slipway.store.import_check import from_json

    ModelName.parse(name)
    # read once: it may be a pipe, whose folder means nothing
    piped = str(modelfile) == "-" or modelfile.is_fifo()
    parsed = read_modelfile(Path("/dev/stdin") if str(modelfile) == "-" else modelfile)
    for warning in parsed.warnings:
        note(warning)
    base = Path.cwd() if piped else modelfile.parent
    model = create_parsed(name, parsed, base, home=Home.current())
    for finding in model.lineage.get("import", {}).get("findings", []):
        note(from_json(finding).text)
    if as_json:
        print_json({"name": model.name.display, "digest": model.digest, "size": model.size})
        return
    print(tr("created {name} ({size})", name=model.name.display, size=size(model.size)))
