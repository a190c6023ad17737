"""The ship itself: a resumable pipeline, and what is told at its end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from slipway.core.errors import UsageError
from slipway.core.events import EventLog
from slipway.core.files import sha256_file, sha256_json, write_json
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.jobs.pipeline import Observer, Pipeline, Stage, StageRecord
from slipway.ship import stages
from slipway.ship.artefacts import Results, intact
from slipway.ship.facts import system_prompt
from slipway.ship.measure import advice_of, card_from
from slipway.ship.names import names_hold, require_free
from slipway.ship.options import AUTO, AUTO_TYPES, ShipOptions, target_names
from slipway.ship.plan import TITLES, ShipPlan, make_plan, require_disk, stage_names
from slipway.ship.source import Source, find_source
from slipway.ship.stages import Say, ShipContext
from slipway.store.names import ModelName

RESULT = "result.json"


@dataclass(frozen=True, slots=True)
class Shipped:
    """What a ship made.

    Attributes:
        name: the plain name.
        names: model name -> type, manifest (digest in the store), size_bytes.
        levels: quant type -> folder, digest, size_bytes, bpw and what was measured.
        system: the system prompt in the Modelfile, or empty.
        unquantised: what was measured of the GGUF before quantising; empty when nothing was.
        advice: which level to take and why, in English; empty when nothing was measured.
        measured_on: "heldout", "train", or the name of a text.
        artefacts: stage -> folder of what was made on the way.
        stages: name, seconds, and whether it was kept from an earlier call.
        cleaned: folders that were removed on request.
        unchanged: nothing was to be done.
    """

    name: str
    names: dict[str, dict[str, Any]]
    levels: dict[str, dict[str, Any]]
    system: str
    unquantised: dict[str, Any]
    advice: str
    measured_on: str
    artefacts: dict[str, str]
    stages: list[dict[str, Any]]
    cleaned: list[str] = field(default_factory=list)
    unchanged: bool = False

    def as_json(self) -> dict[str, Any]:
        """For `--json`, and as it is kept."""
        return asdict(self)


def open_ship(
    options: ShipOptions,
    *,
    home: Home | None = None,
    say: Say = lambda text: None,
    listeners: Sequence[Callable[[dict[str, Any]], None]] = (),
) -> ShipContext:
    """Check what was asked for and find the source; nothing is made.

    Raises:
        UsageError: a bad name, or an unknown type.
        NotFoundError, ConflictError, InputError: see `find_source`.
    """
    home = home or Home.current()
    name = ModelName.parse(options.name)
    types = _checked_types(options, home)
    target_names(options.name, types)  # a name too long for its types ends here
    source = find_source(options.source, home)
    _require_run(options, source)
    place = home.root / "ship" / str(name.path).replace("/", "--").replace(":", "-")
    events = EventLog(place / "events.jsonl", *listeners)
    prompt = system_prompt(source.run, options.system)
    return ShipContext(options, home, source, types, prompt, place, events, say)


def _checked_types(options: ShipOptions, home: Home) -> tuple[str, ...]:
    """The types as the tool knows them; before there is a tool only their form is checked."""
    from slipway.export.quantise import check_types, quant_types
    from slipway.export.toolchain import find_toolchain

    wanted = [name.strip() for name in options.types]
    if AUTO in (name.lower() for name in wanted):
        if len(wanted) > 1:
            raise UsageError(
                "ship.auto_alone",
                tr("`-t auto` chooses the type itself"),
                tr("leave the other types out, or name them without `auto`"),
            )
        return AUTO_TYPES
    tools = find_toolchain(home)
    offered = quant_types(tools) if tools else [name.upper() for name in wanted]
    return tuple(check_types(wanted, offered))


def _require_run(options: ShipOptions, source: Source) -> None:
    if options.unmerged and not (source.kind == "run" and (source.folder / "adapter").is_dir()):
        raise UsageError(
            "ship.unmerged_needs_adapter",
            tr("{source} has no adapter that could stay unmerged", source=source.name),
            tr("name a run that trained an adapter, or leave out `--unmerged`"),
        )


def plan_ship(options: ShipOptions, *, home: Home | None = None) -> tuple[ShipContext, ShipPlan]:
    """What `ship` would do; errors as there, but for names that are taken."""
    context = open_ship(options, home=home)
    return context, make_plan(context)


def ship(
    options: ShipOptions,
    *,
    home: Home | None = None,
    say: Say = lambda text: None,
    observer: Observer | None = None,
    listeners: Sequence[Callable[[dict[str, Any]], None]] = (),
) -> Shipped:
    """Take a run to names in the model store, doing only what is not done yet.

    Args:
        say: told one fact at a time, for people.
        observer: told when each stage starts, ends, or is taken from an earlier call.
        listeners: given each event of the running stage (progress and so on).

    Raises:
        ConflictError: a name is taken, or another process ships to it.
        ResourceError: too little disk, or no tools and no way to build them.
        ProofError: the merged model or the GGUF is not what was trained; no name was created.
        and what `open_ship` raises.
    """
    context = open_ship(options, home=home, say=say, listeners=listeners)
    if (kept := _up_to_date(context)) is not None:
        return kept
    _require_measurable(context)
    require_free(context)
    if context.system.warning:
        say(context.system.warning)
    plan = make_plan(context)
    require_disk(context, plan)
    say(
        tr(
            "disk: {needed} MB will be taken, {free} MB are free",
            needed=-(-plan.needed_bytes // 1_000_000),
            free=plan.free_bytes // 1_000_000,
        )
    )
    records = _pipeline(context, observer).run()
    shipped = _shipped(context, records)
    if options.clean:
        shipped.cleaned.extend(_clean(context, records))
    write_json(context.folder / RESULT, {"inputs": _inputs(context), "shipped": shipped.as_json()})
    return shipped


def _require_measurable(context: ShipContext) -> None:
    """A gate without numbers would let everything pass."""
    if context.measures:
        return
    if not context.options.gate.is_open or context.auto:
        raise UsageError(
            "ship.gate_without_measure",
            tr(
                "a gate and `-t auto` need a measurement, and {source} is not measured",
                source=context.source.name,
            ),
            tr("name a text to measure on with `--text FILE`, and leave out `--no-measure`"),
        )
    if context.options.measure:
        context.say(
            tr(
                "{source} is not measured: its run is not known; `--text FILE` gives a text",
                source=context.source.name,
            )
        )


def _pipeline(context: ShipContext, observer: Observer | None) -> Pipeline:
    def stage(name: str, inputs: Callable[[Results], Any], **more: Any) -> Stage:
        work = partial(getattr(stages, name), context)
        return Stage(name, TITLES[name], inputs, work, **{"intact": intact, **more})

    def tools_there(outputs: dict[str, Any]) -> bool:
        return Path(outputs["tools"]).is_dir()

    def source(results: Results, before: str) -> Any:
        return results[before]["digest"] if before in results else context.source.digest

    known = {
        "toolchain": stage("toolchain", lambda r: 1, always=True, intact=tools_there),
        "merge": stage("merge", lambda r: context.source.digest),
        "convert": stage("convert", lambda r: [source(r, "merge"), r["toolchain"]["version"]]),
        "adapter": stage("adapter", lambda r: [context.source.digest, r["toolchain"]["version"]]),
        "quantise": stage(
            "quantise", lambda r: [source(r, "convert"), context.types, r["toolchain"]["version"]]
        ),
        "measure": stage(
            "measure",
            lambda r: [
                _digests(r),
                source(r, "convert"),
                _text_state(context),
                context.thorough,
                r.get("adapter", {}).get("digest"),
            ],
        ),
        "create": stage(
            "create",
            lambda r: [
                _gate_state(context),
                r.get("measure", {}).get("digest"),
                r.get("adapter", {}).get("digest"),
                _digests(r),
                {name: context.identity(kind) for name, kind in context.names.items()},
            ],
            intact=lambda outputs: names_hold(context.home, outputs["names"]),
        ),
    }
    wanted = [known[name] for name in stage_names(context)]
    return Pipeline(context.folder, wanted, events=context.events, observer=observer)


def _digests(results: Results) -> dict[str, str]:
    return {kind: made["digest"] for kind, made in results["quantise"].items()}


def _text_state(context: ShipContext) -> Any:
    text = context.options.text
    return sha256_file(text) if text is not None and text.is_file() else str(text)


def _gate_state(context: ShipContext) -> Any:
    return asdict(context.options.gate)


def _inputs(context: ShipContext) -> str:
    """What decides whether a second call has anything to do."""
    names = {name: context.identity(kind) for name, kind in context.names.items()}
    measured = [context.measures, context.thorough, _text_state(context), _gate_state(context)]
    return sha256_json([names, measured])


def _up_to_date(context: ShipContext) -> Shipped | None:
    """The earlier result, when it stands as it was made; intermediates may be gone."""
    try:
        kept = json.loads((context.folder / RESULT).read_text(encoding="utf-8"))
        shipped = Shipped(**kept["shipped"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if kept["inputs"] != _inputs(context) or not names_hold(context.home, shipped.names):
        return None
    return Shipped(**{**shipped.as_json(), "unchanged": True})


def _shipped(context: ShipContext, records: list[StageRecord]) -> Shipped:
    outputs = {record.name: record.outputs for record in records}
    card = card_from(outputs["measure"]) if "measure" in outputs else None
    measured = card.levels if card else {}
    levels = {
        kind: {
            **measured.get(kind, {}),
            "folder": made["folder"],
            "digest": made["digest"],
            "size_bytes": made["metrics"]["size_bytes"],
            "bpw": made["metrics"].get("bpw"),
            "fallback_tensors": made["fallbacks"],
            "tensors": made["tensors"],
        }
        for kind, made in outputs["quantise"].items()
    }
    artefacts: dict[str, str] = {
        n: outputs[n]["folder"] for n in ("merge", "convert", "adapter", "measure") if n in outputs
    }
    return Shipped(
        name=next(iter(context.names)),
        names=outputs["create"]["names"],
        levels=levels,
        system=outputs["create"]["system"],
        unquantised=card.reference if card else {},
        advice=advice_of(context, card).sentence.en if card else "",
        measured_on=outputs.get("measure", {}).get("text", ""),
        artefacts=artefacts,
        stages=[{"name": r.name, "seconds": r.seconds, "cached": r.cached} for r in records],
    )


def _clean(context: ShipContext, records: list[StageRecord]) -> list[str]:
    """Remove what this ship made on the way; what was there before stays."""
    outputs = {record.name: record.outputs for record in records}
    made = [outputs[name] for name in ("merge", "convert", "adapter") if name in outputs]
    made += outputs["quantise"].values()
    removed = []
    for output in made:
        folder = Path(output["folder"])
        if output["mine"] and folder.is_dir():
            shutil.rmtree(folder)
            removed.append(str(folder))
            if folder.parent != context.home.artefacts and not any(folder.parent.iterdir()):
                folder.parent.rmdir()
    return removed
