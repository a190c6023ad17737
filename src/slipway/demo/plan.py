"""The demo's stages in order, and what decides whether each must run again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from slipway.core.errors import ConflictError, NotFoundError, UsageError, from_os_error
from slipway.core.events import EventLog
from slipway.core.files import write_text
from slipway.core.i18n import Text, tr
from slipway.core.paths import Home
from slipway.demo import build_stages, serve_stages
from slipway.demo.context import DemoContext
from slipway.demo.options import DemoOptions, default_data
from slipway.demo.talk import talk
from slipway.jobs.pipeline import Observer, Pipeline, Stage, StageRecord
from slipway.ship.artefacts import Outputs, Results, intact

StageWork = Callable[[DemoContext, Results], Outputs]


def build_pipeline(context: DemoContext, observer: Observer | None = None) -> Pipeline:
    """The thirteen stages of the path as a resumable pipeline."""
    stages = [*_building(context), *_serving(context)]
    return Pipeline(context.folder, stages, events=context.events, observer=observer)


def _stage(
    context: DemoContext,
    name: str,
    title: Text,
    work: StageWork,
    inputs: Callable[[Results], Any],
    **more: Any,
) -> Stage:
    return Stage(name, title, inputs, partial(work, context), **{"intact": intact, **more})


def _building(context: DemoContext) -> list[Stage]:
    """From the base model to measured quants."""
    stage, options = partial(_stage, context), context.options
    return [
        stage(
            "machine", tr("look at this machine"), build_stages.look_at_machine, lambda r: 0,
            always=True,
        ),
        stage(
            "pull", tr("get the base model"), build_stages.pull,
            lambda r: [context.base, options.with_embeddings], keep_when_fresh=True,
        ),
        stage(
            "data", tr("check the data"), build_stages.check_data,
            lambda r: [_dataset_state(context.data), r["pull"]["base"]["digest"]],
        ),
        stage(
            "toolchain", tr("install llama.cpp's tools"), build_stages.toolchain, lambda r: 1,
            keep_when_fresh=True, intact=build_stages.toolchain_intact,
        ),
        stage(
            "train", tr("fine-tune"), build_stages.train,
            partial(build_stages.train_inputs, context),
        ),
        stage(
            "merge", tr("merge the adapter into the base"), build_stages.merge,
            lambda r: r["train"]["digest"],
        ),
        stage(
            "convert", tr("convert to GGUF"), build_stages.convert,
            lambda r: [r["merge"]["digest"], r["pull"], r["toolchain"]],
        ),
        stage(
            "quantise", tr("quantise"), build_stages.quantise,
            lambda r: [r["convert"]["tuned"]["digest"], options.types, r["toolchain"]],
        ),
        stage(
            "eval", tr("measure base, tuned and quants"), build_stages.evaluate,
            lambda r: [r["quantise"], r["data"]["dataset_digest"], options.eval_rows],
        ),
    ]  # fmt: skip


def _serving(context: DemoContext) -> list[Stage]:
    """From quants to a conversation through the gateway."""
    stage = partial(_stage, context)
    return [
        stage(
            "create", tr("create name:tag in the model store"), serve_stages.create,
            lambda r: [r["quantise"], r["convert"]], intact=partial(serve_stages.created, context),
        ),
        stage("serve", tr("start the model daemon"), serve_stages.serve, lambda r: 0, always=True),
        stage(
            "gateway", tr("start the gateway, issue a key"), serve_stages.gateway, lambda r: 0,
            always=True,
        ),
        stage(
            "chat", tr("talk through the gateway"), talk,
            lambda r: [r["create"], r["gateway"]["model"]],
        ),
    ]  # fmt: skip


def _dataset_state(folder: Path) -> Any:
    """Names, sizes and times of a dataset's files: cheap to see that something changed."""
    files = sorted(folder.iterdir()) if folder.is_dir() else [folder]
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file()]


def _default_base(home: Home, options: DemoOptions) -> str:
    """The base for whoever names none, decided once, so that a later run continues the same demo
    whether or not a hub answers that day; `fresh` decides anew."""
    from slipway.store.pull import default_base

    record = home.root / "demo" / "default_base"
    if record.is_file() and not options.fresh:
        return record.read_text(encoding="utf-8").strip()
    base = default_base(options.language)
    write_text(record, base + "\n")
    return base


def _remove_products(folder: Path) -> None:
    for old in folder.iterdir():
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)


def _require_splits(data: Path) -> None:
    """Refuse data that a later stage could not use, before minutes go into training."""
    from slipway.datasets import split_files

    if "heldout" not in split_files(data):
        raise NotFoundError(
            "demo.no_heldout",
            tr("{path} has no heldout.jsonl, so nothing could be measured", path=str(data)),
            tr("give a folder with train.jsonl and heldout.jsonl: `slipway demo --data DIR`"),
        )


def _require_folder(folder: Path) -> None:
    """Make the report's folder now, so that a wrong one is told before the work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(
            "demo.report_not_a_folder",
            tr("the report needs a folder, but {path} is a file", path=str(folder)),
            tr("name another with `slipway demo --report DIR`"),
        ) from error
    except OSError as error:
        raise from_os_error(error, folder) from error


def run_demo(
    options: DemoOptions,
    *,
    home: Home | None = None,
    say: Callable[[Text | str], None] = lambda text: None,
    observer: Observer | None = None,
    listeners: tuple[Callable[[dict[str, Any]], None], ...] = (),
) -> tuple[DemoContext, list[StageRecord], Path]:
    """Run what is not done yet of the whole path and write the report.

    Args:
        say: told one fact at a time, for people.
        observer: told when each stage starts, ends, or is taken from an earlier run.
        listeners: given each event of the running stages (training progress and so on).

    Returns:
        the context, a record of each stage, and the report's folder.

    Raises:
        NotFoundError, UsageError: data or report folder are unusable; told before any work.
        ConflictError: the same demo runs already; its services are left alone.
    """
    from slipway.demo.report import write_report

    home = home or Home.current()
    base = options.base or _default_base(home, options)
    data = (options.data or default_data(base, options.language)).expanduser().resolve()
    _require_splits(data)
    if options.report:
        _require_folder(options.report)
    key = f"{base.replace('://', '-').replace('/', '-').strip('-')}--{data.name}"
    folder = home.root / "demo" / (key + ("--quick" if options.quick else ""))
    events = EventLog(folder / "events.jsonl", *listeners)
    context = DemoContext(options, home, folder, base, data, events, say)
    try:
        records = build_pipeline(context, observer).run(
            fresh=options.fresh, forget=partial(_remove_products, folder)
        )
    except BaseException as error:
        busy = isinstance(error, ConflictError) and error.code == "pipeline.busy"
        if not (options.keep_services or busy):
            serve_stages.stop_services(home)
        raise
    if not options.keep_services:
        serve_stages.stop_services(home)
    report_dir = options.report or folder / "report"
    write_report(report_dir, context, records)
    return context, records, report_dir
