"""`slipway bench`: tokens per second and memory of models, over settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.core.paths import Home
    from slipway.export.bench import BenchModel, BenchReport, BenchSpec
    from slipway.export.bench.machine import Load
    from slipway.export.bench.records import Result
    from slipway.export.toolchain import Toolchain

_LONG_S = 300


@click.command(
    help=str(
        tr(
            "Measure tokens per second for prompts and answers, and memory, of GGUF files, "
            "artefact folders or models of the store. Options take several values: `--threads "
            "1,2 --kv-type f16,q8_0`; every combination is measured. An interrupted run goes on "
            "where it was."
        )
    )
)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--prompt", default="128,512", show_default=True, help=str(tr("Prompt lengths.")))
@click.option("--decode", default="32", show_default=True, help=str(tr("Answer lengths.")))
@click.option(
    "--depth", default="0", show_default=True, help=str(tr("Tokens already in the context."))
)
@click.option("--threads", help=str(tr("Processor threads; default: one for each core.")))
@click.option("--batch", default="2048", show_default=True, help=str(tr("Logical batch sizes.")))
@click.option("--ubatch", default="512", show_default=True, help=str(tr("Physical batch sizes.")))
@click.option("--flash-attn", default="auto", show_default=True, help=str(tr("on, off, auto.")))
@click.option(
    "--kv-type", default="f16", show_default=True, help=str(tr("Number formats of the KV cache."))
)
@click.option("--streams", help=str(tr("Answers at the same time, such as 1,4.")))
@click.option(
    "--repeat",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    help=str(tr("Measurements of each combination.")),
)
@click.option(
    "--max-time",
    metavar="TIME",
    help=str(tr("Stop after so long: 90s, 10m, 1h; what is measured stays.")),
)
@click.option("--again", is_flag=True, help=str(tr("Do not go on with an interrupted run.")))
@click.option(
    "--chart",
    type=click.Path(path_type=Path, dir_okay=False),
    help=str(tr("Where to draw the chart (PNG); default: beside the results in the home.")),
)
@click.option("--no-chart", is_flag=True, help=str(tr("Draw no chart.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def bench(
    models: tuple[str, ...],
    max_time: str | None,
    again: bool,
    chart: Path | None,
    no_chart: bool,
    as_json: bool,
    **values: Any,
) -> None:
    from slipway.cli.output import note
    from slipway.core.paths import Home
    from slipway.export.bench import bench as measure
    from slipway.export.bench.machine import look_at_load
    from slipway.export.toolchain import require_toolchain

    home = Home.current()
    spec = _spec(values)
    limit = _seconds(max_time)
    chosen = _models(models, home)
    toolchain = require_toolchain(home)
    load = look_at_load()
    _tell_load(load)
    line = _Line(spec.repeat)
    try:
        report = measure(
            chosen,
            spec,
            home=home,
            toolchain=toolchain,
            load=load,
            on_pace=line.pace,
            on_result=line.result,
            max_time_s=limit,
            again=again,
        )
    except KeyboardInterrupt:
        line.done()
        note(tr("interrupted; the same command goes on where it was"))
        raise
    line.done()
    png = None if no_chart else _draw(report, chart or report.journal.with_suffix(".png"))
    if as_json:
        _print_json(report, toolchain, png)
    else:
        _print(report, png)


def _spec(values: dict[str, Any]) -> BenchSpec:
    from slipway.core.hardware import probe
    from slipway.export.bench.grid import BenchSpec, flash_values, kv_values, numbers

    threads = values["threads"] or str(probe().cores)
    return BenchSpec(
        threads=numbers("--threads", threads, low=1, high=1024),
        prompt=numbers("--prompt", values["prompt"]),
        decode=numbers("--decode", values["decode"]),
        depth=numbers("--depth", values["depth"]),
        batch=numbers("--batch", values["batch"], low=1),
        ubatch=numbers("--ubatch", values["ubatch"], low=1),
        flash_attn=flash_values(values["flash_attn"]),
        kv_type=kv_values(values["kv_type"]),
        streams=numbers("--streams", values["streams"], low=1, high=256)
        if values["streams"]
        else (),
        repeat=values["repeat"],
    )


def _seconds(text: str | None) -> float | None:
    from slipway.core.errors import UsageError

    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h|)", text.strip())
    if match is None or not float(match[1]):
        raise UsageError(
            "bench.bad_value",
            tr("`{option}`: `{part}` is no time", option="--max-time", part=text),
            tr("give seconds, minutes or hours: 90s, 10m, 1h"),
        )
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "": 1}[match[2]]


def _models(names: tuple[str, ...], home: Home) -> list[BenchModel]:
    from slipway.export.bench import BenchModel
    from slipway.export.bench.run import require_model

    found = []
    for name in dict.fromkeys(names):
        path = file_of(name, home)
        require_model(path)
        found.append((name, path))
    # the shortest names that tell them apart: `Q4_K_M` rather than the whole path
    short = [Path(name).name.removesuffix(".gguf") for name, _ in found]
    if any(label == "model" for label in short):
        short = [
            path.parent.name if label == "model" else label
            for label, (_, path) in zip(short, found, strict=True)
        ]
    labels = short if len(set(short)) == len(short) else [name for name, _ in found]
    return [BenchModel(label, path) for label, (_, path) in zip(labels, found, strict=True)]


def file_of(name: str, home: Home) -> Path:
    """The GGUF of a file, an artefact's folder, an artefact's name, or a name:tag."""
    from slipway.core.errors import NotFoundError, SlipwayError
    from slipway.export.convert import GGUF_NAME
    from slipway.store import resolve_model

    for path in (Path(name).expanduser(), home.artefacts / name):
        if path.is_dir():
            if (path / GGUF_NAME).is_file():
                return path / GGUF_NAME
            raise NotFoundError(
                "bench.no_gguf",
                tr("{folder} holds no {file}", folder=str(path), file=GGUF_NAME),
                tr("make one with `slipway convert MODEL`"),
            )
        if path.is_file():
            return path
    if name.endswith(".gguf") or "/" in name:
        return Path(name)
    try:
        return resolve_model(name, home=home).gguf_path
    except SlipwayError as error:
        if error.code == "model.not_found":
            raise
        return Path(name)


def _tell_load(load: Load) -> None:
    from slipway.cli.output import note, size

    note(
        tr(
            "{cpu}, {cores} cores; before the start {busy} of the processor is busy (load {load}), "
            "{free} of memory are free",
            cpu=load.cpu,
            cores=load.cores,
            busy=f"{load.busy:.0%}",
            load=f"{load.load_1min:.2f}",
            free=size(load.free_bytes),
        )
    )
    if load.disturbed:
        note(
            tr(
                "other programs use the processor: the numbers will be low and scatter, those of "
                "prompts most of all; stop them for numbers that can be compared"
            )
        )


class _Line:
    """The estimate before, and the progress during a benchmark."""

    def __init__(self, repeat: int) -> None:
        from slipway.cli.output import LiveLine

        self._repeat = repeat
        self._line = LiveLine()

    def pace(self, seconds: float, count: int, resumed: int) -> None:
        """Say how long it will take, before it starts."""
        from slipway.cli.output import duration, note

        if resumed:
            note(
                tr(
                    "going on with an interrupted run: {count} results are there (`--again` "
                    "measures all anew)",
                    count=resumed,
                )
            )
        note(
            tr(
                "{count} measurements of {repeat} repetitions, about {time}",
                count=count,
                repeat=self._repeat,
                time=duration(seconds),
            )
        )
        if seconds > _LONG_S:
            note(tr("`--max-time 5m` ends it earlier; Ctrl-C keeps what is measured"))

    def result(self, result: Result, done: int, total: int) -> None:
        """Show the newest result."""
        self._line.show(
            tr(
                "{done} of {total}: {label}, {speed} tokens/s",
                done=done,
                total=total,
                label=result.point.label,
                speed=f"{result.mean:.1f}",
            )
        )

    def done(self) -> None:
        """End the line."""
        self._line.done()


def _draw(report: BenchReport, png: Path) -> Path | None:
    from slipway.cli.output import note
    from slipway.core.errors import ResourceError
    from slipway.export.bench.chart import draw_bench

    if not report.results:
        return None
    names = ", ".join(dict.fromkeys(result.model for result in report.results))
    title = f"{names} on {report.load.cpu}"
    try:
        draw_bench(report.results, png, title=title)
    except ResourceError as error:
        note(tr("no chart: {reason}", reason=error.message))
        return None
    return png


def _print_json(report: BenchReport, toolchain: Toolchain, png: Path | None) -> None:
    from dataclasses import asdict

    from slipway.cli.output import print_json
    from slipway.export.bench.analyse import best_of, conclusion, effects

    kinds = dict.fromkeys(result.point.kind for result in report.results)
    best = {kind: found.as_json() for kind in kinds if (found := best_of(report.results, kind))}
    print_json(
        {
            "toolchain": {
                "version": toolchain.version,
                "variant": toolchain.variant,
                "folder": str(toolchain.folder),
            },
            "machine": asdict(report.load),
            "results": [result.as_json() for result in report.results],
            "failed": [asdict(failure) for failure in report.failures],
            "left_out": [{**asdict(setup), "why": why.en} for setup, why in report.grid.left_out],
            "missing": report.missing,
            "resumed": report.resumed,
            "seconds": round(report.seconds, 1),
            "best": best,
            "effects": [{**asdict(e), "matters": e.matters} for e in effects(report.results)],
            "conclusion": [text.en.strip() for text in conclusion(report.results)],
            "journal": str(report.journal),
            "chart": str(png) if png else None,
        }
    )


def _print(report: BenchReport, png: Path | None) -> None:
    from slipway.cli.output import note, print_table
    from slipway.export.bench.analyse import conclusion, setup_text, unsteady, value_of, varied
    from slipway.export.bench.grid import AXES
    from slipway.export.bench.run import why_left_out

    results = report.results
    axes = varied(results)
    fixed = [axis for axis in AXES if axis not in axes]
    if results:
        if fixed:
            note(tr("everywhere: {setup}", setup=setup_text(results[0], fixed)))
        several = len({result.model for result in results}) > 1
        print_table(
            [
                *([tr("model")] if several else []),
                tr("test"),
                *(axis.replace("_", "-") for axis in axes),
                tr("tokens/s"),
                "±",
                tr("memory MB"),
                tr("others' CPU"),
            ],
            [
                (
                    *([result.model] if several else []),
                    result.point.label,
                    *(value_of(result, axis) for axis in axes),
                    f"{result.mean:.1f}",
                    f"{result.stddev:.1f}",
                    "-" if not result.memory_bytes else round(result.memory_bytes / 1e6),
                    "-" if result.others is None else f"{result.others:.0%}",
                )
                for result in results
            ],
        )
        for sentence in conclusion(results):
            print(sentence)
    for failure in report.failures:
        setup = " ".join(f"{axis} {getattr(failure.setup, axis)}" for axis in AXES)
        note(tr("not run: {model}, {setup}: {why}", model=failure.model, setup=setup,
                why=failure.why))  # fmt: skip
    for why in why_left_out(report.grid):
        note(tr("combinations left out: {why}", why=why))
    if scattered := unsteady(results):
        names = ", ".join(dict.fromkeys(result.point.label for result in scattered))
        note(tr("scatters by more than a tenth, so measure again on an idle machine: {names}",
                names=names))  # fmt: skip
    if report.missing:
        note(tr("{count} measurements are missing, the time was over; the same command goes on",
                count=report.missing))  # fmt: skip
    note(tr("results: {path}", path=str(report.journal)))
    if png:
        note(tr("chart: {path}", path=str(png)))
