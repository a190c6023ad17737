"""`slipway explain quant`: how quantising works, on a tensor of the user's own model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.core.i18n import Text, tr

if TYPE_CHECKING:
    from slipway.core.paths import Home
    from slipway.export.lesson import Lesson
    from slipway.export.toolchain import Toolchain


@click.group(help=str(tr("Show how something works, on your own model.")))
def explain() -> None:
    pass


@explain.command(help=str(tr("Quantising, step by step: integers, blocks, super-blocks, errors.")))
@click.argument("model", required=False)
@click.option("--tensor", help=str(tr("Which matrix; default: one in the middle.")))
@click.option(
    "-t",
    "--type",
    "kind",
    type=click.Choice(["Q8_0", "Q5_0", "Q4_1", "Q4_0"], case_sensitive=False),
    default="Q4_0",
    show_default=True,
    help=str(tr("Format whose block is shown step by step.")),
)
@click.option("--picture", type=click.Path(path_type=Path), help=str(tr("Draw it into this PNG.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def quant(
    model: str | None, tensor: str | None, kind: str, picture: Path | None, as_json: bool
) -> None:
    from slipway.cli.output import note, print_json
    from slipway.core.paths import Home
    from slipway.export.lesson import draw_lesson, take_weight, walk

    home = Home.current()
    weight = take_weight(_model(model, home), tensor)
    toolchain = _toolchain(home)
    if toolchain is None and not as_json:
        note(tr("without llama.cpp's tools the K-quants are left out: `slipway toolchain install`"))
    lesson = walk(weight, kind, toolchain)
    if picture:
        draw_lesson(lesson, picture)
    if as_json:
        print_json(lesson.as_json() | ({"picture": str(picture)} if picture else {}))
        return
    _tell(lesson)
    if picture:
        note(tr("picture: {path}", path=picture))


def _model(name: str | None, home: Home) -> Path:
    """A file, a folder, an artefact, a base or a name:tag; the only base when nothing is named."""
    from slipway.cli.commands.bench import file_of
    from slipway.core.errors import UsageError

    if name is None:
        bases = sorted(path for path in home.bases.glob("*") if path.is_dir())
        if len(bases) != 1:
            raise UsageError(
                "explain.no_model",
                tr("name a model: a folder, a GGUF file, a base or a name:tag"),
                tr("get one with `slipway pull starter`, then `slipway explain quant starter`"),
            )
        return bases[0]
    for folder in (Path(name).expanduser(), home.artefacts / name, home.bases / name):
        if folder.is_dir() and any(folder.glob("*.safetensors")):
            return folder
    return file_of(name, home)


def _toolchain(home: Home) -> Toolchain | None:
    from slipway.export.toolchain import tested_toolchain

    return tested_toolchain(home)


def _tell(lesson: Lesson) -> None:
    from slipway.cli.output import print_table

    weight, values = lesson.weight, lesson.weight.values
    print(
        tr(
            "{name} ({kind}): {rows} x {columns} weights from {low:.4f} to {high:.4f}, "
            "standard deviation {std:.4f}",
            name=weight.name,
            kind=weight.kind,
            rows=weight.shape[0],
            columns=weight.shape[1],
            low=values.min(),
            high=values.max(),
            std=values.std(),
        )
    )
    if values.shape[0] < weight.shape[0]:
        print(tr("looked at: the first {count} rows", count=values.shape[0]))
    print()
    rows: list[tuple[Any, ...]] = [
        (
            row.scheme,
            str(_GROUPS[row.group]),
            f"{row.bits:.2f}",
            f"{row.max_error:.5f}",
            f"{row.rmse:.6f}",
            f"{row.relative:.2%}",
            {True: "=", False: "!=", None: "-"}[row.exact],
        )
        for row in lesson.rows
    ]
    header: list[Text | str] = [
        tr("scheme"),
        tr("one scale for"),
        tr("bits/weight"),
        tr("largest error"),
        "RMSE",
        tr("relative"),
        tr("llama.cpp's bytes"),
    ]
    print_table(header, rows)
    if any(row.scheme == "Q4_1" and row.relative < _ON_GRID for row in lesson.rows):
        print(
            tr(
                "Q4_1 loses next to nothing: these weights were in four bits before. On others "
                "the formats stand in the order of their bits."
            )
        )
    _tell_block(lesson)
    _tell_super_block(lesson)


_ON_GRID = 0.01  # four bits cost ordinary weights about 8 %

_GROUPS = {
    "tensor": tr("tensor"),
    "row": tr("row"),
    "block of 32": tr("block of 32"),
    "super-block of 256": tr("super-block of 256"),
}


def _tell_block(lesson: Lesson) -> None:
    block = lesson.block
    print(f"\n{tr('one block in {kind}, the one with the largest weight', kind=block.kind)}")
    print(f"  {tr('bytes')}: {block.raw}")
    line = f"  {tr('scale')} d = {block.scale:.6g}"
    if block.offset is not None:
        line += f", {tr('offset')} m = {block.offset:.6g}"
    print(line)
    formula = {
        "Q8_0": "d * q",
        "Q4_0": "d * (q - 8)",
        "Q4_1": "d * q + m",
        "Q5_0": "d * (q - 16)",
    }[block.kind]
    _tell_codes(block.weights, block.codes, block.back, formula)
    print(f"  {tr('largest error in the block')}: {block.worst:.6f}")


def _tell_codes(weights: list[float], codes: list[int], back: list[float], formula: str) -> None:
    print(f"  w         {' '.join(f'{x:>9.5f}' for x in weights)} ...")
    print(f"  q         {' '.join(f'{q:>9}' for q in codes)} ...")
    print(f"  {formula:<9} {' '.join(f'{x:>9.5f}' for x in back)} ...")


def _tell_super_block(lesson: Lesson) -> None:
    steps = lesson.super_block
    if steps is None:
        return
    title = tr("one super-block of 256 weights in {kind}", kind=steps.kind)
    print(f"\n{title}")
    print(f"  d = {steps.d:.6g}" + (f", dmin = {steps.dmin:.6g}" if steps.dmin is not None else ""))
    print(f"  {tr('scales of its blocks, 6 bits each')}: {steps.scales}")
    if steps.mins is not None:
        print(f"  {tr('minima of its blocks, 6 bits each')}: {steps.mins}")
    print(f"  d * {tr('scale')}: {' '.join(f'{x:.5f}' for x in steps.effective)}")
    _tell_codes(steps.weights, steps.codes, steps.back, "back")
    print(f"  {tr('bits: 256 * 4 + 8 * (6 + 6) + 2 * 16 = 1152, which is 4.5 for each weight')}")
