"""What can be chosen for a ship, and the names that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.evaluation.quality import Gate
from slipway.store.modelfile import parse_modelfile
from slipway.store.names import DEFAULT_TAG, ModelName

DEFAULT_TYPES = ("Q4_K_M",)
AUTO = "auto"
AUTO_TYPES = ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")
"""What `-t auto` makes and measures, to keep the one that is recommended."""


@dataclass(frozen=True, slots=True)
class ShipOptions:
    """Choices of one ship.

    Attributes:
        source: a run (name, id, folder, `last`), a merged model or a GGUF artefact (folder, or
            its name in SLIPWAY_HOME/artefacts).
        name: `[namespace/]model[:tag]` to create.
        types: quant types, see `slipway quantize`; the first is what `name` itself serves.
            `("auto",)` measures several and takes the smallest that is good enough.
        system: system prompt; None takes the one of the recipe or, where all rows have the same,
            of the data; empty is none.
        parameters: options for the Modelfile, as (name, value).
        unmerged: quantise the run's base, and add its adapter when the model is loaded.
        measure: measure each level against the unquantised model before it gets a name.
        text: plain text to measure on; None takes the rows of the run.
        gate: what every level must meet; with "auto", what the level that is taken must meet.
        thorough: measure answers to held-out rows, speed and memory too.
        force: replace models of these names that hold something else.
        clean: remove what was made on the way, once the names are there.
    """

    source: str
    name: str
    types: tuple[str, ...] = DEFAULT_TYPES
    system: str | None = None
    parameters: tuple[tuple[str, str], ...] = ()
    unmerged: bool = False
    measure: bool = True
    text: Path | None = None
    gate: Gate = field(default_factory=Gate)
    thorough: bool = False
    force: bool = False
    clean: bool = False


def target_names(name: str, types: tuple[str, ...]) -> dict[str, str]:
    """Model name -> quant type, the plain name first.

    The plain name is the first type. With several types each has a name of its own besides, as
    in the libraries that people pull from: `shop:v1` is also `shop:v1-q4_k_m`. Where no tag was
    written, the type alone is the tag: `shop` gives `shop:latest` and `shop:q4_k_m`.

    Raises:
        UsageError: a bad name, or one too long for the types behind it.
    """
    parsed = ModelName.parse(name)
    names = {parsed.display: types[0]}
    if len(types) > 1:
        stem = parsed.display.removesuffix(f":{parsed.tag}")
        bare = parsed.tag == DEFAULT_TAG
        for kind in types:
            tag = kind.lower() if bare else f"{parsed.tag}-{kind.lower()}"
            names[ModelName.parse(f"{stem}:{tag}").display] = kind
    return names


def parse_parameter(text: str) -> tuple[str, str]:
    """`NAME=VALUE` as a Modelfile's PARAMETER.

    Raises:
        UsageError: not of that form.
        InputError: no such option, or a value of another kind.
    """
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UsageError(
            "ship.bad_parameter",
            tr("`--parameter {text}` is not of the form NAME=VALUE", text=text),
            tr("try `{command}`", command="--parameter temperature=0.2"),
        )
    from slipway.ship.modelfile import modelfile_text

    parse_modelfile(modelfile_text(Path("x"), "", [(name, value)]), source="--parameter")
    return name, value
