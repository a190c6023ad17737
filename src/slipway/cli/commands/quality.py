"""`slipway quality`: what each quantised level keeps, costs and saves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.core.paths import Home
    from slipway.evaluation.quality import Gate, QualityCard, QualityPlan
    from slipway.evaluation.quality.model import Packing

_QUICK_ROWS, _QUICK_CHUNKS = 8, 4


@click.command(
    help=str(
        tr(
            "Measure quantised models against the unquantised one: size, perplexity, KLD, the "
            "same most likely token, answers to held-out rows, speed, memory. Models are artefact "
            "folders (or a folder of them), GGUF files, or names of the store. The card is kept "
            "with each model and shown by `slipway show`."
        )
    )
)
@click.argument("reference")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help=str(tr("Dataset whose held-out rows are answered, and read as text.")),
)
@click.option(
    "--text",
    type=click.Path(path_type=Path, dir_okay=False),
    help=str(tr("Plain text for perplexity and KLD, before the rows.")),
)
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help=str(tr("Held-out rows that each model answers.")),
)
@click.option("--chunks", type=click.IntRange(min=2), default=16, show_default=True,
              help=str(tr("Most chunks of text.")))  # fmt: skip
@click.option("--context", type=click.IntRange(min=64), default=512, show_default=True,
              help=str(tr("Tokens of a chunk.")))  # fmt: skip
@click.option(
    "--prompt", default="128,512", show_default=True, help=str(tr("Prompt lengths to time."))
)
@click.option(
    "--depth", default="0,512", show_default=True, help=str(tr("Contexts to time answers at."))
)
@click.option("--quick", is_flag=True, help=str(tr("Few rows and little text: a first look.")))
@click.option(
    "--bitsandbytes",
    metavar="TYPES",
    help=str(tr("Measure bitsandbytes too: int8, nf4, fp4, as in `int8,nf4`.")),
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help=str(tr("Model folder for bitsandbytes; found by itself when it is in the home.")),
)
@click.option("--max-kld", type=float, help=str(tr("Fail when a level's mean KLD is above this.")))
@click.option(
    "--min-top1", type=click.FloatRange(0, 1), help=str(tr("Fail when a level's top-1 is below."))
)
@click.option(
    "--max-drop",
    multiple=True,
    metavar="METRIC=POINTS",
    help=str(tr("Fail when a metric (chrf, rouge_l) is worse by more than this.")),
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help=str(tr("Folder of the result."))
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def quality(
    reference: str,
    models: tuple[str, ...],
    max_kld: float | None,
    min_top1: float | None,
    max_drop: tuple[str, ...],
    as_json: bool,
    **values: Any,
) -> None:
    from slipway.cli.output import LiveLine, print_json
    from slipway.core.events import EventLog
    from slipway.core.paths import Home
    from slipway.evaluation.gates import parse_bounds
    from slipway.evaluation.quality import Gate, check_gate, measure_quality, require_gate
    from slipway.evaluation.quality.advice import advise

    home = Home.current()
    gate = Gate(max_kld, min_top1, parse_bounds(max_drop, "--max-drop"))
    plan = _plan(reference, models, values, home)
    line = LiveLine()

    def show(event: dict[str, Any]) -> None:
        if event["type"] == "progress":
            line.show(
                tr("measuring {part} ({done:.0%})", part=event["part"], done=event["fraction"])
            )

    card = measure_quality(plan, events=EventLog(None, show))
    line.done()
    png = _draw(card, plan)
    kept = _keep(card, plan, models, home)
    advice = advise(card, gate)
    if as_json:
        print_json(
            {
                **card.as_json(),
                "folder": str(plan.out_dir),
                "chart": str(png) if png else None,
                "kept": kept,
                "advice": {"level": advice.level, "within": advice.within,
                           "alike": list(advice.alike), "sentence": advice.sentence.en.strip()},
                "gate": [text.en for text in check_gate(card, gate)],
            }
        )  # fmt: skip
    else:
        _print(card, gate, plan, png)
    require_gate(card, gate)


def _plan(
    reference: str, models: tuple[str, ...], values: dict[str, Any], home: Home
) -> QualityPlan:
    from slipway.evaluation.quality import QualityPlan
    from slipway.export.bench.grid import numbers

    source = _one(reference, home)
    packings = _packings(values["bitsandbytes"])
    quick = values["quick"]
    name = source.parent.name if source.is_file() else source.resolve().name
    return QualityPlan(
        reference=source,
        models=_levels(models, home),
        home=home,
        out_dir=values["output"] or home.artefacts / f"{name}-quality",
        text=values["text"],
        heldout=values["data"],
        folder=values["folder"] or (_folder_of(source, home) if packings else None),
        packings=packings,
        rows=min(values["rows"], _QUICK_ROWS) if quick else values["rows"],
        context=values["context"],
        chunks=min(values["chunks"], _QUICK_CHUNKS) if quick else values["chunks"],
        prompts=numbers("--prompt", values["prompt"], low=1),
        depths=numbers("--depth", values["depth"]),
    )


def _one(name: str, home: Home) -> Path:
    """An artefact's folder where there is one, else a GGUF file of a path or of the store."""
    from slipway.cli.commands.bench import file_of
    from slipway.core.manifest import FILE_NAME

    for path in (Path(name).expanduser(), home.artefacts / name):
        if (path / FILE_NAME).is_file():
            return path
    return file_of(name, home)


def _levels(names: tuple[str, ...], home: Home) -> dict[str, Path]:
    from slipway.cli.commands.eval_quants import quant_folders
    from slipway.core.errors import UsageError

    found: dict[str, Path] = {}
    for name in names:
        path = next(
            (p for p in (Path(name).expanduser(), home.artefacts / name) if p.is_dir()), None
        )
        pairs = quant_folders(path) if path else [(_label(name), _one(name, home))]
        for level, place in pairs:
            if level in found:
                raise UsageError(
                    "quality.two_levels",
                    tr("`{level}` is given twice: {one} and {two}", level=level,
                       one=str(found[level]), two=str(place)),
                )  # fmt: skip
            found[level] = place
    return found


def _label(name: str) -> str:
    return Path(name).stem if name.endswith(".gguf") else name


def _packings(text: str | None) -> tuple[Packing, ...]:
    from typing import get_args

    from slipway.core.errors import unknown_key
    from slipway.evaluation.quality.model import Packing

    found: list[Packing] = []
    for part in (text or "").split(","):
        name = part.strip().lower()
        if not name:
            continue
        wanted = "nf4" if name == "int4" else name
        match = next((known for known in get_args(Packing) if known == wanted), None)
        if match is None:
            raise unknown_key(name, [*get_args(Packing), "int4"], "`--bitsandbytes`")
        found.append(match)
    return tuple(dict.fromkeys(found))


def _folder_of(source: Path, home: Home) -> Path | None:
    """The model folder that a GGUF artefact was converted from, by its digest."""
    from slipway.core.manifest import FILE_NAME, read_manifest

    if not (source / FILE_NAME).is_file():
        return None
    wanted = set(read_manifest(source).parents.values())
    for parent in (home.artefacts, home.bases):
        for path in sorted(parent.glob(f"*/{FILE_NAME}")):
            manifest = read_manifest(path.parent)
            if manifest.kind in ("merged", "base") and manifest.digest in wanted:
                return path.parent
    return None


def _draw(card: QualityCard, plan: QualityPlan) -> Path | None:
    from slipway.cli.output import note
    from slipway.core.errors import ResourceError
    from slipway.evaluation.quality.draw import draw_quality
    from slipway.evaluation.quality.model import CHART

    try:
        draw_quality(card, plan.out_dir / CHART)
    except ResourceError as error:
        note(tr("no chart: {reason}", reason=error.message))
        return None
    return plan.out_dir / CHART


def _keep(card: QualityCard, plan: QualityPlan, names: tuple[str, ...], home: Home) -> list[str]:
    """Keep each level's card beside its artefact, or with its name in the store."""
    from slipway.evaluation.quality.keep import card_of, keep_beside
    from slipway.store import attach_quality

    kept = [str(path) for path in keep_beside(card, plan)]
    for name in names:
        level = _label(name)
        if level in card.levels and _one(name, home).is_relative_to(home.models):
            attach_quality(name, card_of(card, level), home=home)
            kept.append(name)
    return kept


def _print(card: QualityCard, gate: Gate, plan: QualityPlan, png: Path | None) -> None:
    from slipway.cli.output import note, print_table
    from slipway.evaluation.quality.advice import advise
    from slipway.evaluation.quality.model import CARD
    from slipway.evaluation.quality.words import COLUMNS, cells

    rows = [(tr("unquantised"), card.reference), *card.by_size()]
    print_table([tr("model"), *COLUMNS], [(str(name), *cells(row)) for name, row in rows])
    used = card.settings
    note(
        tr(
            "KLD and top-1 over {tokens} tokens, answers to {rows} rows; a star: a real change",
            tokens=used["scored_tokens"],
            rows=used["answer_rows"],
        )
    )
    advice = advise(card, gate)
    print(advice.sentence)
    if advice.alike:
        note(tr("not to be told apart from it by KLD: {names}", names=", ".join(advice.alike)))
    print(plan.out_dir / CARD)
    if png:
        print(png)
