"""`slipway quantize`: GGUF to quantised GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.core.manifest import Manifest
    from slipway.core.paths import Home
    from slipway.export.quantise import Options, Plan

_SHOWN_HITS = 6


@click.command(help=str(tr("Quantise a GGUF to one or more types.")))
@click.argument("gguf", type=click.Path(path_type=Path))
@click.option(
    "-t",
    "--types",
    multiple=True,
    default=("Q4_K_M,Q5_K_M,Q8_0",),
    show_default=True,
    help=str(tr("Quant types, separated by commas. Repeatable.")),
)
@click.option(
    "--target-size",
    metavar="SIZE",
    help=str(tr("The best mixture of types that is no larger, such as 4.5GiB; instead of -t.")),
)
@click.option(
    "--target-bpw",
    type=click.FloatRange(0, min_open=True),
    help=str(tr("The best mixture with no more bits per weight, such as 4.6; instead of -t.")),
)
@click.option(
    "--target-kld",
    type=click.FloatRange(0, min_open=True),
    help=str(tr("The smallest type whose mean KLD on --text is no larger; instead of -t.")),
)
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help=str(tr("Text on which --target-kld is measured; not the one of the calibration.")),
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help=str(tr("Folder of the results, one folder for each type.")),
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help=str(tr("Text on which the importance of each weight is measured.")),
)
@click.option(
    "--calibration-data",
    multiple=True,
    type=click.Path(path_type=Path),
    help=str(tr("Dataset on whose train rows it is measured; see `slipway imatrix`. Repeatable.")),
)
@click.option(
    "--imatrix",
    type=click.Path(path_type=Path),
    help=str(tr("Importance matrix: a folder that `slipway imatrix` made, or a file.")),
)
@click.option(
    "--no-imatrix",
    is_flag=True,
    help=str(tr("No importance matrix at all, as plain llama-quantize does.")),
)
@click.option(
    "--tensor-type",
    "tensor_types",
    multiple=True,
    metavar="REGEX=TYPE",
    help=str(tr("Type of the tensors whose name matches; the first match counts. Repeatable.")),
)
@click.option("--output-tensor-type", metavar="TYPE", help=str(tr("Type of the output tensor.")))
@click.option(
    "--token-embedding-type", metavar="TYPE", help=str(tr("Type of the token embedding."))
)
@click.option(
    "--leave-output-tensor", is_flag=True, help=str(tr("Leave the output tensor as it is."))
)
@click.option("--pure", is_flag=True, help=str(tr("All tensors the same type, no mixture.")))
@click.option("--keep-split", is_flag=True, help=str(tr("As many files as the source has.")))
@click.option(
    "--allow-requantize", is_flag=True, help=str(tr("Take a source that is quantised already."))
)
@click.option("--threads", type=click.IntRange(1), help=str(tr("Threads of each run.")))
@click.option(
    "--dry-run", is_flag=True, help=str(tr("Show types and exact sizes, and make nothing."))
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def quantize(
    gguf: Path,
    types: tuple[str, ...],
    output: Path | None,
    calibration: Path | None,
    calibration_data: tuple[Path, ...],
    imatrix: Path | None,
    no_imatrix: bool,
    dry_run: bool,
    as_json: bool,
    **more: Any,
) -> None:
    from slipway.cli.commands.convert import resolve
    from slipway.cli.commands.quantize_target import read_limit, search_kld, search_size
    from slipway.core.paths import Home

    sources = {"--calibration": calibration, "--calibration-data": calibration_data}
    options = _options({"--no-imatrix": no_imatrix, **sources, "--imatrix": imatrix}, more)
    home = Home.current()
    folder = resolve(gguf, home)
    wanted = [part for given in types for part in given.split(",")]
    target = output or folder.with_name(f"{folder.resolve().name}-quants")
    if imatrix and not imatrix.exists() and (home.artefacts / imatrix).is_dir():
        imatrix = home.artefacts / imatrix
    calibrated = bool(calibration or calibration_data or imatrix)
    limit = read_limit(more, calibration=calibration, dry_run=dry_run)
    if limit is not None and not isinstance(limit, float):
        wanted, options = search_size(folder, limit, home, options, calibrated=calibrated)
    if dry_run:
        from slipway.export.quantise import plan_quantize

        plans = plan_quantize(folder, wanted, home=home, options=options, calibrated=calibrated)
        _show_plans(plans, as_json=as_json)
        return
    if calibration_data:
        imatrix = _matrix(folder, calibration_data, home)
    if isinstance(limit, float):
        wanted, options = search_kld(folder, limit, more["text"], home, options, imatrix)
    _make(folder, wanted, target, home, (calibration, imatrix), options, as_json=as_json)


def _matrix(folder: Path, datasets: tuple[Path, ...], home: Home) -> Path:
    from slipway.cli.commands.imatrix import make_imatrix
    from slipway.export.imatrix import CalibrationPlan

    made = folder.with_name(f"{folder.resolve().name}-imatrix")
    make_imatrix(folder, made, CalibrationPlan(datasets=datasets), home)
    return made


def _options(given: dict[str, Any], more: dict[str, Any]) -> Options:
    from slipway.core.errors import UsageError
    from slipway.export.quantise import parse_options

    names = [name for name, value in given.items() if value]
    if len(names) > 1:
        raise UsageError(
            "quantize.contradiction",
            tr("`{first}` and `{second}` exclude each other", first=names[0], second=names[1]),
            tr("leave one of them out"),
        )
    return parse_options(
        pure=more["pure"],
        leave_output=more["leave_output_tensor"],
        output_type=more["output_tensor_type"],
        embedding_type=more["token_embedding_type"],
        tensor_types=more["tensor_types"],
        keep_split=more["keep_split"],
        allow_requantize=more["allow_requantize"],
        threads=more["threads"],
        without_imatrix=given["--no-imatrix"],
    )


def _make(
    folder: Path,
    types: list[str],
    target: Path,
    home: Any,
    importance: tuple[Path | None, Path | None],
    options: Options,
    *,
    as_json: bool,
) -> None:
    from dataclasses import asdict

    from slipway.cli.output import LiveLine, print_json
    from slipway.core.events import EventLog
    from slipway.export import quantize as quantize_to

    line, fractions = LiveLine(), dict[str, float]()

    def show(event: dict[str, Any]) -> None:
        if event["type"] == "progress":
            fractions[event["quant"]] = event["fraction"]
            line.show("  ".join(f"{name} {done:4.0%}" for name, done in fractions.items()))

    made = quantize_to(
        folder,
        types,
        target,
        home=home,
        events=EventLog(None, show),
        calibration=importance[0],
        imatrix=importance[1],
        options=options,
    )
    line.done()
    if as_json:
        print_json({name: {"folder": str(target / name), **asdict(m)} for name, m in made.items()})
        return
    show_made(made, target)


def show_made(made: dict[str, Manifest], target: Path) -> None:
    """A row for each result, and a note on each type's fallbacks."""
    from slipway.cli.output import print_table, size

    for name, manifest in made.items():
        _note_fallbacks(name, manifest.notes["fallbacks"], manifest.notes["tensors"])
        _note_hits(manifest.notes["overrides"])
    rows = [
        (n, size(m.metrics["size_bytes"]), m.metrics["bpw"], m.metrics["seconds"], target / n)
        for n, m in made.items()
    ]
    print_table([tr("type"), tr("size"), tr("bits/weight"), tr("seconds"), tr("folder")], rows)


def _show_plans(plans: dict[str, Plan], *, as_json: bool) -> None:
    from slipway.cli.output import print_json, print_table, size

    if as_json:
        print_json({name: plan.as_json() for name, plan in plans.items()})
        return
    for name, plan in plans.items():
        facts = plan.as_json()
        _note_fallbacks(name, facts["fallbacks"], len(plan.tensors))
        _note_hits(plan.hits)
    rows = [
        (name, size(plan.size_bytes), plan.size_bytes, round(plan.bpw, 2), _counts(plan))
        for name, plan in plans.items()
    ]
    columns = [tr("type"), tr("size"), tr("bytes"), tr("bits/weight"), tr("tensors by type")]
    print_table(columns, rows)


def _counts(plan: Plan) -> str:
    return ", ".join(f"{n} {name}" for name, n in plan.as_json()["tensor_types"].items())


def _note_fallbacks(name: str, fallbacks: list[dict[str, str]], tensors: int) -> None:
    from collections import Counter

    from slipway.cli.output import note

    if not fallbacks:
        return
    note(
        tr(
            "{type}: {count} of {all} tensors have rows that do not fit its blocks and took a "
            "larger type",
            type=name,
            count=len(fallbacks),
            all=tensors,
        )
    )
    kinds = Counter((f["wanted"], f["got"], f["why"]) for f in fallbacks)
    for (wanted, got, why), count in kinds.most_common():
        note(f"  {count:4} × {wanted} -> {got}: {why}")


def _note_hits(hits: dict[str, list[str]]) -> None:
    from slipway.cli.output import note

    for override, tensors in hits.items():
        names = ", ".join(tensors[:_SHOWN_HITS]) + (" …" if len(tensors) > _SHOWN_HITS else "")
        note(
            tr(
                "{override}: {count} tensors: {names}",
                override=override,
                count=len(tensors),
                names=names,
            )
        )
