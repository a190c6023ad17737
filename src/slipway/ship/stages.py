"""The stages between a run and its names in the store.

Each makes artefacts with a manifest, and takes over what is there already; see `places`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.core.errors import ProofError, ResourceError
from slipway.core.events import EventLog
from slipway.core.files import locked, sha256_json
from slipway.core.i18n import Text, tr
from slipway.core.manifest import Manifest, read_manifest
from slipway.core.paths import Home
from slipway.ship.artefacts import Outputs, Results, artefact
from slipway.ship.facts import SystemPrompt
from slipway.ship.modelfile import modelfile_text
from slipway.ship.options import AUTO, ShipOptions, target_names
from slipway.ship.places import (
    Place,
    adapter_place,
    gguf_place,
    merged_place,
    quant_place,
)
from slipway.ship.source import Source
from slipway.store import ModelManifest

Say = Callable[[Text | str], None]


@dataclass(frozen=True, slots=True)
class ShipContext:
    """What every stage is given.

    Attributes:
        types: checked, in upper case, without doubles.
        folder: holds the record of this name.
        say: tells the reader one fact about the running stage.
    """

    options: ShipOptions
    home: Home
    source: Source
    types: tuple[str, ...]
    system: SystemPrompt
    folder: Path
    events: EventLog
    say: Say

    @property
    def names(self) -> dict[str, str]:
        """Model name -> quant type; "auto" as long as it is not chosen."""
        return target_names(self.options.name, (AUTO,) if self.auto else self.types)

    @property
    def auto(self) -> bool:
        """Whether the measurement chooses the type."""
        return tuple(name.strip().lower() for name in self.options.types) == (AUTO,)

    @property
    def thorough(self) -> bool:
        """Whether answers are measured: a gate on a metric needs them."""
        return self.options.thorough or bool(self.options.gate.max_drop)

    @property
    def measures(self) -> bool:
        """Whether levels are measured: there must be something to measure them on."""
        return self.options.measure and (
            self.options.text is not None or self.source.run is not None
        )

    def identity(self, kind: str) -> str:
        """What decides whether a model of the store is the one that would be made."""
        parameters = [list(pair) for pair in self.options.parameters]
        unmerged = ["unmerged"] if self.options.unmerged else []
        return sha256_json([self.source.digest, kind, self.system.text, parameters, *unmerged])


def apart(
    context: ShipContext, work: Callable[..., Manifest], *arguments: Any, **more: Any
) -> Manifest:
    """Make an artefact in a process of its own; see `slipway.ship.child`."""
    from slipway.ship.child import run_apart

    made: Manifest = run_apart(work, *arguments, events=context.events, tell=context.say, **more)
    return made


def toolchain(context: ShipContext, results: Results) -> Outputs:
    """llama.cpp's tools: those there are, else built now."""
    from slipway.export.toolchain import install_toolchain, require_toolchain

    try:
        tools = require_toolchain(context.home)
    except ResourceError as error:
        if error.code != "toolchain.missing":
            raise
        context.say(tr("llama.cpp's tools are not there yet and are installed now"))
        tools = install_toolchain(context.home, events=context.events)
    return {"tools": str(tools.folder), "version": tools.version}


def merge(context: ShipContext, results: Results) -> Outputs:
    """The run's adapter in its base, proved to be base + adapter."""
    from slipway.export.merge import merge_run

    def place() -> Place:
        return merged_place(context.home, context.source)

    def make(folder: Path) -> Manifest:
        return apart(context, merge_run, context.source.folder, folder)

    return _made(context, place, make)


def convert(context: ShipContext, results: Results) -> Outputs:
    """The unquantised GGUF, its template and tokenizer proved to be the model's."""
    from slipway.export import convert_to_gguf

    model = results["merge"] if "merge" in results else starting_model(context)
    folder, version = Path(model["folder"]), results["toolchain"]["version"]

    def place() -> Place:
        return gguf_place(context.home, folder, model["digest"], version)

    def make(out: Path) -> Manifest:
        return apart(
            *(context, convert_to_gguf, folder, out),
            outtype="auto",
            home=context.home,
            say=True,
            without=("torch",),
        )

    return _made(context, place, make)


def starting_model(context: ShipContext) -> Outputs:
    """The source, or the base that its adapter stays beside, as an earlier stage passes it on."""
    source = context.source
    if not context.options.unmerged:
        return {"folder": str(source.folder), "digest": source.digest}
    from slipway.export.hf import parent_of
    from slipway.export.merge.sources import open_source, recorded_base

    base = recorded_base(open_source(source.folder))
    return {"folder": str(base), "digest": next(iter(parent_of(base).values()))}


def adapter(context: ShipContext, results: Results) -> Outputs:
    """The run's adapter as GGUF, proved beside the unquantised base."""
    from slipway.export.convert.adapter import convert_adapter

    version = results["toolchain"]["version"]

    def place() -> Place:
        return adapter_place(context.home, context.source, version)

    def make(out: Path) -> Manifest:
        gguf = Path(results["convert"]["folder"])
        return apart(
            *(context, convert_adapter, context.source.folder, out),
            base_gguf=gguf,
            home=context.home,
        )

    return _made(context, place, make)


def adapter_file(results: Results) -> Path | None:
    """The GGUF adapter of an unmerged ship."""
    if "adapter" not in results:
        return None
    from slipway.export.convert.adapter import ADAPTER_NAME

    return Path(results["adapter"]["folder"]) / ADAPTER_NAME


def _made(
    context: ShipContext, place: Callable[[], Place], make: Callable[[Path], Manifest]
) -> Outputs:
    """The product that is there, else a new one; two ships of one run make it once."""
    with locked(_lock(context, place().folder)):
        found = place()
        if found.manifest is not None:
            context.say(tr("taken over: {path}", path=found.folder))
            return {**artefact(found.folder, found.manifest), "mine": False}
        return {**artefact(found.folder, make(found.folder)), "mine": True}


def _lock(context: ShipContext, folder: Path) -> Path:
    return context.home.root / "ship" / "locks" / folder.name


def unquantised(context: ShipContext, results: Results) -> Outputs:
    """The GGUF to quantise: converted, or the source itself."""
    return results["convert"] if "convert" in results else starting_model(context)


def quantise(context: ShipContext, results: Results) -> Outputs:
    """One quant for each type; those already there are taken over."""
    from slipway.export import quantize

    gguf = unquantised(context, results)
    folder, version = Path(gguf["folder"]), results["toolchain"]["version"]

    def places() -> dict[str, Place]:
        return {
            kind: quant_place(context.home, folder, gguf["digest"], kind, version)
            for kind in context.types
        }

    with locked(_lock(context, folder)):
        found = places()
        roots: dict[Path, list[str]] = {}
        for kind, place in found.items():
            if place.manifest is None:
                roots.setdefault(place.folder.parent, []).append(kind)
            else:
                context.say(tr("taken over: {path}", path=place.folder))
        for root, kinds in roots.items():
            quantize(folder, kinds, root, home=context.home, events=context.events)
    outputs = {}
    for kind, place in found.items():
        manifest = place.manifest or read_manifest(place.folder, kind="quant")
        outputs[kind] = {
            **artefact(place.folder, manifest),
            "mine": place.manifest is None,
            "metrics": manifest.metrics,
            "fallbacks": manifest.notes.get("fallback_tensors", 0),
            "tensors": manifest.notes.get("tensors", 0),
        }
    return outputs


def measure(context: ShipContext, results: Results) -> Outputs:
    """What each level lost; see `slipway.ship.measure`."""
    from slipway.ship.measure import measure as measure_levels

    return measure_levels(context, results)


def create(context: ShipContext, results: Results) -> Outputs:
    """The names in the store, each with what it was made from and how it was measured.

    Raises:
        ProofError: a level does not pass the gate.
        ConflictError: a name was taken meanwhile.
    """
    from slipway.ship.names import require_free
    from slipway.store import create_model

    wanted = _passed(context, results)
    require_free(context)  # again: hours may have passed
    names: dict[str, Any] = {}
    # the plain name last: whoever pulls it meanwhile gets the old model or the new one
    for name, kind in reversed(wanted.items()):
        quant = results["quantise"][kind]
        text = modelfile_text(
            Path(quant["folder"]),
            context.system.text,
            context.options.parameters,
            adapter_file(results),
        )
        lineage = {
            "ship": {
                "source": {"kind": context.source.kind, "digest": context.source.digest},
                "name": context.source.name,
                "type": kind,
                "unmerged": context.options.unmerged,
                "identity": context.identity(AUTO if context.auto else kind),
            }
        }
        manifest = create_model(name, text, home=context.home, lineage=lineage)
        if "measure" in results and manifest.adapter_paths:
            manifest = _attach_card(context, manifest, kind, results)
        names[name] = {"type": kind, "manifest": manifest.digest, "size_bytes": manifest.size}
    return {"names": {name: names[name] for name in wanted}, "system": context.system.text}


def _passed(context: ShipContext, results: Results) -> dict[str, str]:
    """Model name -> quant type, once the gate is passed.

    Raises:
        ProofError: it is not; each level is named with its figures.
    """
    if "measure" not in results:
        return context.names
    from slipway.evaluation.quality import require_gate
    from slipway.ship.measure import advice_of, card_from

    card = card_from(results["measure"])
    advice = advice_of(context, card)
    try:
        if not context.auto or not advice.within:
            require_gate(card, context.options.gate)
    except ProofError:
        context.say(tr("no name is created; what was made is kept for a look"))
        raise
    if not context.auto:
        return context.names
    context.say(advice.sentence)
    assert advice.level is not None
    return dict.fromkeys(context.names, advice.level)


def _attach_card(
    context: ShipContext, model: ModelManifest, kind: str, results: Results
) -> ModelManifest:
    """Keep the card of base and adapter with the name, as it is not the base's file's."""
    from slipway.evaluation.quality.keep import card_of
    from slipway.ship.measure import card_from
    from slipway.store import attach_quality
    from slipway.store.manifests import MODEL

    card = card_of(card_from(results["measure"]), kind)
    card["artefact"] = model.of_type(MODEL)[0].digest
    card["settings"] = {**card["settings"], "adapter": results["adapter"]["digest"]}
    return attach_quality(model.name.display, card, home=context.home)
