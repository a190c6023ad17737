"""What a ship will do: which stages, what is there already, how much disk, which names."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from slipway.core.errors import ResourceError
from slipway.core.i18n import Text, tr
from slipway.core.paths import Home
from slipway.export.convert.formats import gguf_size, native_outtype
from slipway.ship import sizes
from slipway.ship.names import NameState, name_states
from slipway.ship.places import Place, adapter_place, gguf_place, merged_place, quant_place
from slipway.ship.stages import ShipContext, starting_model

State = Literal["make", "reuse"]
TITLES: dict[str, Text] = {
    "toolchain": tr("llama.cpp's tools"),
    "merge": tr("merge the adapter into the base, proved by logits"),
    "convert": tr("convert to GGUF; template and tokenizer proved"),
    "adapter": tr("convert the adapter to GGUF, proved beside its base"),
    "quantise": tr("quantise"),
    "measure": tr("measure each level against the unquantised model"),
    "create": tr("create name:tag in the model store"),
}


@dataclass(frozen=True, slots=True)
class Product:
    """One artefact of a ship.

    Attributes:
        stage: the stage that makes it.
        label: its quant type, or its stage.
        size_bytes: of its files; of one to be made an estimate unless `exact`.
    """

    stage: str
    label: str
    folder: Path
    state: State
    size_bytes: int
    exact: bool


@dataclass(frozen=True, slots=True)
class ShipPlan:
    """A ship before it begins.

    Attributes:
        stages: in order.
        tools: llama.cpp's version; None when the tools must be installed first.
        names: model name -> (quant type, what the store holds under it).
        needed_bytes: disk that will be taken; what --clean gives back is part of it.
        free_bytes: on the disk of SLIPWAY_HOME.
    """

    stages: tuple[str, ...]
    tools: str | None
    products: tuple[Product, ...]
    names: dict[str, tuple[str, NameState]]
    needed_bytes: int
    free_bytes: int

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        products = [{**asdict(item), "folder": str(item.folder)} for item in self.products]
        names = {name: {"type": kind, "state": state} for name, (kind, state) in self.names.items()}
        return {
            "stages": list(self.stages),
            "tools": self.tools,
            "products": products,
            "names": names,
            "needed_bytes": self.needed_bytes,
            "free_bytes": self.free_bytes,
        }


def stage_names(context: ShipContext) -> list[str]:
    """The stages of this source, in order."""
    first = {"run": ["merge", "convert"], "model": ["convert"], "gguf": []}[context.source.kind]
    if context.options.unmerged:
        first = ["convert", "adapter"]
    measure = ["measure"] if context.measures else []
    return ["toolchain", *first, "quantise", *measure, "create"]


def make_plan(context: ShipContext) -> ShipPlan:
    """Look at what is there, and compute what is not.

    Raises:
        NotFoundError, ProofError: the run's base is gone, or is another.
    """
    from slipway.export.toolchain import require_toolchain

    try:
        tools = require_toolchain(context.home).version
    except ResourceError as error:
        if error.code != "toolchain.missing":
            raise
        tools = None
    products = list(_products(context, tools or ""))
    states = name_states(context)
    needed = sum(item.size_bytes for item in products if item.state == "make")
    return ShipPlan(
        stages=tuple(stage_names(context)),
        tools=tools,
        products=tuple(products),
        names={name: (kind, states[name]) for name, kind in context.names.items()},
        needed_bytes=needed,
        free_bytes=_free(context.home),
    )


def require_disk(context: ShipContext, plan: ShipPlan) -> None:
    """Refuse a ship that the disk could not hold, before anything is made.

    Raises:
        ResourceError: too little is free.
    """
    if plan.needed_bytes > plan.free_bytes:
        raise ResourceError(
            "disk.full",
            tr(
                "shipping takes {needed} MB of disk, but {path} has {free} MB free",
                needed=-(-plan.needed_bytes // 1_000_000),
                path=context.home.root,
                free=plan.free_bytes // 1_000_000,
            ),
            tr("free some space, or set SLIPWAY_HOME to a larger disk, then run the command again"),
        )


def _free(home: Home) -> int:
    folder = next(path for path in (home.root, *home.root.parents) if path.exists())
    return shutil.disk_usage(folder).free


def _products(context: ShipContext, version: str) -> list[Product]:
    """The artefacts in order. What follows something to be made is to be made too."""
    source, home = context.source, context.home
    found: list[Product] = []
    model, digest, shapes = source.folder, source.digest, source.folder
    if context.options.unmerged:
        start = starting_model(context)
        model = shapes = Path(start["folder"])
        digest = start["digest"]
    elif source.kind == "run":
        place = merged_place(home, source)
        shapes = place.folder if place.manifest else _weights_of(context)
        found.append(_product("merge", place, sizes.weight_bytes(shapes)))
        model, digest = place.folder, place.manifest.digest if place.manifest else ""
    gguf: Path | None = source.folder if source.kind == "gguf" else None
    if source.kind != "gguf":
        place = gguf_place(home, shapes, digest, version)
        if not digest:
            place = Place(home.artefacts / f"{model.name}-{native_outtype(shapes)}", None)
        found.append(_product("convert", place, gguf_size(shapes, native_outtype(shapes))))
        gguf = place.folder if place.manifest else None
        digest = place.manifest.digest if place.manifest else ""
    quants = _quants(context, gguf, digest, version, shapes, found)
    if context.options.unmerged:
        place = adapter_place(home, source, version)
        found.append(_product("adapter", place, sizes.adapter_bytes(source.folder)))
    return found + quants


def _weights_of(context: ShipContext) -> Path:
    """The folder whose weights have the shapes of the run's merged model."""
    from slipway.export.merge.sources import open_source, recorded_base

    opened = open_source(context.source.folder)
    return opened.path / "model" if opened.whole else recorded_base(opened)


def _quants(
    context: ShipContext,
    gguf: Path | None,
    digest: str,
    version: str,
    shapes: Path,
    before: list[Product],
) -> list[Product]:
    if gguf is None:  # only the shapes are known yet
        root = before[-1].folder
        return [
            Product(
                "quantise",
                kind,
                root.with_name(f"{root.name}-quants") / kind,
                "make",
                sizes.quant_bytes(shapes, kind),
                False,
            )
            for kind in context.types
        ]
    places = {
        kind: quant_place(context.home, gguf, digest, kind, version) for kind in context.types
    }
    exact = _exact_sizes(context, gguf, [k for k, p in places.items() if p.manifest is None])
    return [
        _product("quantise", place, exact.get(kind, 0), label=kind, exact=kind in exact)
        for kind, place in places.items()
    ]


def _exact_sizes(context: ShipContext, gguf: Path, kinds: list[str]) -> dict[str, int]:
    from slipway.export.quantise import plan_quantize

    if not kinds:
        return {}
    plans = plan_quantize(gguf, kinds, home=context.home)
    return {plan.type: plan.size_bytes for plan in plans.values()}


def _product(
    stage: str, place: Place, size: int, *, label: str = "", exact: bool = False
) -> Product:
    if place.manifest is None:
        return Product(stage, label or stage, place.folder, "make", size, exact)
    known = sum(entry.size for entry in place.manifest.files)
    return Product(stage, label or stage, place.folder, "reuse", known, True)
