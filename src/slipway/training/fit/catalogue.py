"""The model families that `slipway fit` knows by name, from one data file each."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from slipway.core.errors import InputError, NotFoundError, nearest
from slipway.core.i18n import tr
from slipway.training.fit.shape import ModelShape, shape_from_config
from slipway.training.spec.places import pulled_base

_FOLDER = Path(__file__).parent / "catalogue"
# what a hub adds to a name without changing the shape
_SUFFIX = re.compile(r"-(instruct|chat|base|it|thinking|\d{4})$")


@dataclass(frozen=True, slots=True)
class Known:
    """A model with its shape.

    Attributes:
        hub: what `slipway pull` takes; empty for a local folder.
        remote: its name at its maker's API, if it is sold there.
    """

    name: str
    shape: ModelShape
    hub: str = ""
    remote: str = ""


@cache
def catalogue() -> tuple[Known, ...]:
    """Every known model, family by family, small ones first."""
    found = []
    for path in sorted(_FOLDER.glob("*.toml")):
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        family = table.pop("family")
        for name, entry in table.items():
            sizes = {**{k: v for k, v in family.items() if k != "type"}, **entry["sizes"]}
            kind = entry.get("type", family["type"])
            sizes.setdefault("head_dim", sizes["hidden"] // sizes["heads"])
            sizes.setdefault("tied", False)
            shape = ModelShape(
                family=kind,
                qkv_bias=kind in ("qwen2", "qwen2_moe"),
                qk_norm=kind in ("qwen3", "qwen3_moe"),
                **sizes,
            )
            found.append(Known(name, shape, entry["hub"], entry.get("remote", "")))
    return tuple(found)


def find_model(name: str) -> Known:
    """A model by folder, by the name of a pulled base, or by its name in the catalogue.

    `Qwen/Qwen2.5-7B-Instruct`, `qwen2.5-7b` and `Qwen2.5-7B` are the same.

    Raises:
        NotFoundError: it is none of these; the nearest known names are offered.
        InputError: the folder's config.json is unreadable or of an unknown family.
    """
    for folder in (Path(name).expanduser(), pulled_base(name)):
        if (folder / "config.json").is_file():
            return _from_folder(folder)
    plain = _plain(name)
    for model in catalogue():
        if _plain(model.name) == plain:
            return model
    close = nearest(plain, [_plain(model.name) for model in catalogue()])
    names = [model.name for model in catalogue() if _plain(model.name) in close]
    raise NotFoundError(
        "fit.unknown_model",
        tr("the model `{name}` is neither a folder nor in the catalogue", name=name),
        tr("did you mean {names}?", names=", ".join(f"`{n}`" for n in names))
        if names
        else tr("see the known ones with `slipway fit`"),
    )


def _plain(name: str) -> str:
    plain = name.rpartition("/")[2].lower()
    while (shorter := _SUFFIX.sub("", plain)) != plain:
        plain = shorter
    return plain


def _from_folder(folder: Path) -> Known:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            "fit.bad_config",
            tr("{path} cannot be read: {reason}", path=str(path), reason=error),
            tr("fetch the model again with `slipway pull`"),
        ) from error
    return Known(folder.resolve().name, shape_from_config(config, str(path)))
