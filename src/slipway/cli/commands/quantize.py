"""`slipway quantize`: GGUF to quantised GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.core.manifest import Manifest
    from slipway.core.paths import Home
    from slipway.export.quantise import Options, Plan, Target

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
    target_size: str | None,
    target_bpw: float | None,
    dry_run: bool,
    as_json: bool,
    **more: Any,
) -> None:
    from slipway.cli.commands.convert import resolve
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
    if target_size or target_bpw:
        limit = _limit(target_size, target_bpw)
        wanted, options = _search(folder, limit, home, options, calibrated=calibrated)
    if dry_run:
        from slipway.export.quantise import plan_quantize

        plans = plan_quantize(folder, wanted, home=home, options=options, calibrated=calibrated)
        _show_plans(plans, as_json=as_json)
        return
    if calibration_data:
        from slipway.cli.commands.imatrix import make_imatrix
        from slipway.export.imatrix import CalibrationPlan

        imatrix = folder.with_name(f"{folder.resolve().name}-imatrix")
        make_imatrix(folder, imatrix, CalibrationPlan(datasets=calibration_data), home)
    _make(folder, wanted, target, home, (calibration, imatrix), options, as_json=as_json)


def _limit(size: str | None, bpw: float | None) -> Target:
    """The target, checked; it takes the place of `-t`."""
    from slipway.core.errors import UsageError
    from slipway.export.quantise import Target

    context = click.get_current_context()
    typed = context.get_parameter_source("types") is click.core.ParameterSource.COMMANDLINE
    names = {"--target-size": size, "--target-bpw": bpw, "--types": typed}
    given = [name for name, value in names.items() if value]
    if len(given) > 1:
        raise UsageError(
            "quantize.contradiction",
            tr("`{first}` and `{second}` exclude each other", first=given[0], second=given[1]),
            tr("leave one of them out"),
        )
    return Target(size_bytes=_bytes(size)) if size else Target(bpw=bpw)


def _bytes(text: str) -> int:
    import re

    from slipway.core.errors import UsageError

    match = re.fullmatch(r"([0-9]+(?:[.][0-9]+)?) *([kmgt]i?)?b?", text.strip().lower())
    if match is None or float(match[1]) == 0:
        raise UsageError(
            "quantize.bad_size",
            tr("`{option} {text}` is no size", option="--target-size", text=text),
            tr("try `{command}`", command="--target-size 4.5GiB"),
        )
    unit = match[2] or ""
    step = 1024 if unit.endswith("i") else 1000
    return int(float(match[1]) * step ** " kmgt".index(unit[:1] or " "))


def _search(
    folder: Path, target: Target, home: Home, options: Options, *, calibrated: bool
) -> tuple[list[str], Options]:
    from dataclasses import replace

    from slipway.cli.output import note
    from slipway.export.quantise import find_mix

    mix = find_mix(folder, target, home=home, options=options, calibrated=calibrated)
    note(
        tr(
            "{type} with {count} tensors of {above}: {size} bytes, {bpw} bits per weight",
            type=mix.type,
            count=len(mix.raised),
            above=mix.above,
            size=mix.plan.size_bytes,
            bpw=round(mix.plan.bpw, 3),
        )
        if mix.raised
        else tr(
            "{type} as it is: {size} bytes, {bpw} bits per weight",
            type=mix.type,
            size=mix.plan.size_bytes,
            bpw=round(mix.plan.bpw, 3),
        )
    )
    return [mix.type], replace(mix.options, target=str(target))


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
