"""Models under test: what a name on the command line is, and its identity."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from slipway.core.errors import InputError, NotFoundError, UsageError
from slipway.core.files import sha256_file
from slipway.core.i18n import tr
from slipway.core.manifest import (
    FILE_NAME,
    Manifest,
    describe_files,
    files_digest,
    read_manifest,
)
from slipway.core.paths import Home
from slipway.datasets.templates import TEMPLATE_FILE
from slipway.evaluation.run_data import RunData, data_of_run
from slipway.export.hf import parent_of
from slipway.export.quantise import require_gguf

Kind = Literal["folder", "adapter", "gguf", "endpoint"]
_ADAPTER_CONFIG = "adapter_config.json"
_TAGGED = re.compile(r"[\w.\-]+(?:/[\w.\-]+)*:[\w.\-]+")
_LABELLED = re.compile(r"([\w.\-]+)=(.+)")


@dataclass(frozen=True, slots=True)
class Model:
    """A model under test.

    Attributes:
        label: short and unique; names its files and its row in tables.
        kind: a Hugging Face folder, an adapter on one, a GGUF, or a server's model.
        digest: of the content; for a server its address and name, as it shows no content.
        path: the folder of the weights (of the base for an adapter), or the GGUF file.
        adapter: the adapter's folder.
        url, name, key: of a server. The key is never part of anything that is written.
        parents: role -> digest, for lineage.
        data: what a run is measured on where nobody names anything else.
        base: the folder of the model it was made from, where that is known and there.
        template: the chat template that a base without one was trained with.
    """

    label: str
    kind: Kind
    digest: str
    path: Path | None = None
    adapter: Path | None = None
    url: str = ""
    name: str = ""
    key: str = field(default="", repr=False)
    parents: dict[str, str] = field(default_factory=dict)
    data: Path | RunData | None = None
    base: Path | None = None
    template: Path | None = None

    @property
    def has_weights(self) -> bool:
        """Whether the loss can be measured."""
        return self.kind in ("folder", "adapter")

    def as_json(self) -> dict[str, Any]:
        """What `results.json` says of the model."""
        where = self.adapter or self.path
        return {
            "kind": self.kind,
            "digest": self.digest,
            "path": str(where) if where else None,
            "base": str(self.path) if self.adapter else None,
            "url": self.url or None,
            "name": self.name or None,
        }


def find_model(text: str, home: Home, *, base: Path | None = None, daemon: str = "") -> Model:
    """The model that `[LABEL=]NAME` means: a path, a name below SLIPWAY_HOME, or `name:tag`.

    Args:
        base: the folder that an adapter belongs to, where it does not say.
        daemon: address of the daemon that serves `name:tag`.

    Raises:
        NotFoundError: there is no such model, or the base of an adapter is gone.
        InputError: the folder holds no model.
    """
    labelled = _LABELLED.fullmatch(text)
    if labelled and not Path(text).exists():
        found = find_model(labelled[2], home, base=base, daemon=daemon)
        return replace(found, label=labelled[1])
    given = Path(text)
    if given.is_file():
        return _gguf_file(given)
    for folder in (given, home.runs / text, home.artefacts / text, home.bases / text):
        if folder.is_dir():
            return _folder(folder.resolve(), home, base)
    if _TAGGED.fullmatch(text):
        return served_model(daemon, text)
    raise NotFoundError(
        "model.not_found",
        tr("there is no model, run or file {name}, here or in {home}", name=text, home=home.root),
        tr("see what is there with `ls {folder}`", folder=home.runs),
    )


def served_model(url: str, name: str, key: str = "", *, label: str = "") -> Model:
    """A model behind a server with OpenAI's protocol."""
    url = url.rstrip("/").removesuffix("/v1")
    safe = re.sub(r"[^\w.\-]+", "-", label or name)
    return Model(safe, "endpoint", f"endpoint:{url}#{name}", url=url, name=name, key=key)


def with_baseline(models: list[Model]) -> list[Model]:
    """A single tuned model with its base before it; anything else as it is."""
    if len(models) != 1 or models[0].base is None:
        return models
    base = models[0].base
    digest = next(iter(parent_of(base).values()))
    template = models[0].template  # so that both are asked in the same way
    first = Model("base", "folder", digest, base, parents={"base": digest}, template=template)
    return [first, *models]


def unique_labels(models: Iterable[Model]) -> list[Model]:
    """The models with a number after every label that was there before.

    Raises:
        UsageError: the same model twice.
    """
    seen: dict[str, int] = {}
    found: list[Model] = []
    for model in models:
        if any(other.digest == model.digest and other.kind == model.kind for other in found):
            raise UsageError(
                "eval.same_model",
                tr("{label} was given twice, or two models are equal", label=model.label),
            )
        count = seen[model.label] = seen.get(model.label, 0) + 1
        found.append(model if count == 1 else replace(model, label=f"{model.label}-{count}"))
    return found


def _folder(folder: Path, home: Home, base: Path | None) -> Model:
    manifest = read_manifest(folder) if (folder / FILE_NAME).is_file() else None
    if manifest and manifest.kind in ("gguf", "quant"):
        return _gguf_artefact(folder, manifest)
    if manifest and manifest.kind == "run":
        return _run(folder, manifest, home, base)
    if (folder / _ADAPTER_CONFIG).is_file():
        return _adapter(folder, home, base)
    if (folder / "config.json").is_file():
        parents = parent_of(folder)
        return Model(
            folder.name,
            "folder",
            next(iter(parents.values())),
            folder,
            parents=parents,
            base=_base_of_merged(manifest, home, base),
        )
    files = sorted(folder.glob("*.gguf"))
    if len(files) == 1:
        return _gguf_file(files[0])
    raise _no_model(folder)


def _no_model(folder: Path) -> InputError:
    return InputError(
        "eval.no_model",
        tr("{folder} holds no finished run, model or GGUF", folder=str(folder)),
        tr("train with `slipway train`, or give a model's folder or one GGUF file"),
    )


def _gguf_artefact(folder: Path, manifest: Manifest) -> Model:
    return Model(
        folder.name,
        "gguf",
        manifest.digest,
        require_gguf(folder, manifest),
        parents={manifest.kind: manifest.digest},
    )


def _gguf_file(path: Path) -> Model:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise InputError("eval.no_model", tr("{path} is no GGUF file", path=str(path)))
    digest = "sha256:" + sha256_file(path)
    return Model(path.stem, "gguf", digest, path.resolve(), parents={"gguf": digest})


def _run(folder: Path, manifest: Manifest, home: Home, base: Path | None) -> Model:
    data = data_of_run(folder, manifest)
    parents = {"run": manifest.digest, **manifest.parents}
    recorded = str(manifest.notes.get("base_path", ""))
    places = [base, Path(recorded), home.bases / Path(recorded).name]
    if not (folder / "adapter" / _ADAPTER_CONFIG).is_file():
        whole = next(iter(sorted(folder.glob("*/config.json"))), None)
        if whole is None:
            raise _no_model(folder)
        return Model(
            folder.name,
            "folder",
            manifest.digest,
            whole.parent,
            parents=parents,
            data=data,
            base=_first_model(places),
        )
    at = _base_folder(places, folder)
    return Model(
        folder.name,
        "adapter",
        manifest.digest,
        at,
        folder / "adapter",
        parents=parents,
        data=data,
        base=at,
        template=_template_in(folder / "adapter"),
    )


def _adapter(folder: Path, home: Home, base: Path | None) -> Model:
    try:
        config = json.loads((folder / _ADAPTER_CONFIG).read_text(encoding="utf-8"))
        recorded = str(config.get("base_model_name_or_path") or "")
    except (ValueError, AttributeError):
        recorded = ""
    at = _base_folder([base, Path(recorded), home.bases / Path(recorded).name], folder)
    digest = files_digest(describe_files(folder))
    return Model(
        folder.name,
        "adapter",
        digest,
        at,
        folder,
        parents={"adapter": digest},
        base=at,
        template=_template_in(folder),
    )


def _template_in(folder: Path) -> Path | None:
    path = folder / TEMPLATE_FILE
    return path if path.is_file() else None


def _base_of_merged(manifest: Manifest | None, home: Home, base: Path | None) -> Path | None:
    """The base in SLIPWAY_HOME that a merged model was made from; `base` when it is given."""
    if manifest is None or manifest.kind != "merged":
        return None
    pulled = [base] if base else sorted(path.parent for path in home.bases.glob(f"*/{FILE_NAME}"))
    for folder in pulled:
        if base or read_manifest(folder).digest == manifest.parents.get("base"):
            return _first_model([folder])
    return None


def _first_model(places: Iterable[Path | None]) -> Path | None:
    for place in places:
        if place and place.name and (place / "config.json").is_file():
            return place.resolve()
    return None


def _base_folder(places: Iterable[Path | None], adapter: Path) -> Path:
    if found := _first_model(places):
        return found
    raise NotFoundError(
        "eval.no_base",
        tr("the base of the adapter in {folder} is not where it was", folder=str(adapter)),
        tr("say where it is with `--base FOLDER`"),
    )


def key_from(variable: str | None, environment: Callable[[str], str | None]) -> str:
    """The key that an environment variable holds; "" when no variable is named.

    Raises:
        UsageError: the variable is not set.
    """
    if not variable:
        return ""
    value = environment(variable)
    if not value:
        raise UsageError(
            "eval.no_key",
            tr("the environment variable {name} is not set", name=variable),
            tr(
                "set it with `export {name}=...`; keys are not taken from the command line",
                name=variable,
            ),
        )
    return value
