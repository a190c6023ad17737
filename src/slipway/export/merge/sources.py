"""What is merged: adapters of runs and of PEFT folders, each with a weight, and their one base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.core.errors import (
    InputError,
    NotFoundError,
    ProofError,
    SlipwayError,
    UsageError,
)
from slipway.core.i18n import Text, tr
from slipway.core.manifest import (
    FILE_NAME,
    Manifest,
    describe_files,
    files_digest,
    read_manifest,
    verify_files,
)
from slipway.core.paths import Home

if TYPE_CHECKING:
    from slipway.training.lora import Adapter

_PEFT_CONFIG = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Source:
    """One thing to merge.

    Attributes:
        path: the folder as it was given: a run, or an adapter in PEFT's format.
        weight: its addition is multiplied by this.
        run: the manifest, where it is a run.
    """

    path: Path
    weight: float = 1.0
    run: Manifest | None = None

    @property
    def folder(self) -> Path:
        """Where the adapter's files are."""
        return self.path / "adapter" if self.run is not None else self.path

    @property
    def whole(self) -> bool:
        """Whether it is a run that trained the model's own weights, and has no adapter."""
        return self.run is not None and self.run.notes.get("artefact") == "model"

    def digest(self) -> str:
        """Of the run, or of the adapter's files."""
        return self.run.digest if self.run else files_digest(describe_files(self.path))

    def adapter(self) -> Adapter:
        """The adapter's config and tensors, in fp32.

        Raises:
            InputError: incomplete, or of a kind that is not applied here.
        """
        from slipway.training.lora import read_adapter

        return read_adapter(self.folder)


def open_source(path: Path, weight: float = 1.0) -> Source:
    """Look at a folder that shall be merged, without reading its tensors.

    Raises:
        NotFoundError: it is neither a finished run nor an adapter.
        UsageError: it holds a reward model.
        ProofError: a run's files are not those that training left.
    """
    _refuse_base(path)
    if (path / FILE_NAME).is_file() or not (path / _PEFT_CONFIG).is_file():
        run = read_manifest(path, kind="run")
    elif path.name == "adapter" and (path.parent / FILE_NAME).is_file():
        path = path.parent  # a run's own adapter: its base is known
        run = read_manifest(path, kind="run")
    else:
        return Source(path, weight)
    _refuse_reward_model(path, run)
    damaged = verify_files(path, run)
    if damaged:
        raise ProofError(
            "merge.run_changed",
            tr("{run} was changed after training: {files}", run=path, files=", ".join(damaged)),
            tr("train again, or restore the files"),
        )
    return Source(path, weight, run)


def _refuse_base(path: Path) -> None:
    """A model folder where something that is added to one is meant.

    Raises:
        UsageError: it is a model; the hint says how it is named.
    """
    is_model = (path / "config.json").is_file() and not (path / _PEFT_CONFIG).is_file()
    manifest = path / FILE_NAME
    if not is_model or (manifest.is_file() and read_manifest(path).kind == "run"):
        return
    raise UsageError(
        "merge.base_given",
        tr("{path} is a whole model; merge adds adapters to one", path=path),
        tr("name the run or adapter: `slipway merge RUN --base {path}`", path=path),
    )


def _refuse_reward_model(run_dir: Path, run: Manifest) -> None:
    stage = run.config.get("stage")
    if stage is not None and stage.value == "rm":
        raise UsageError(
            "merge.reward_model",
            tr("{run} holds a reward model, which gives numbers and writes nothing", run=run_dir),
            tr("measure it with `slipway eval {run}`", run=run_dir),
        )


def require_linear(sources: Sequence[Source], adapters: Sequence[Adapter]) -> None:
    """Several adapters, or one with a weight, can be summed only if each is a plain addition.

    Raises:
        UsageError: one is not; the message names it and says why.
    """
    if len(sources) == 1 and sources[0].weight == 1.0:
        return
    for source, adapter in zip(sources, adapters, strict=True):
        reason = not_linear(adapter)
        if reason is not None:
            raise UsageError(
                "merge.not_linear",
                tr(
                    "{path} cannot be weighted or summed: {reason}", path=source.path, reason=reason
                ),
                tr("merge it alone and without a weight: `slipway merge {path}`", path=source.path),
            )


def not_linear(adapter: Adapter) -> Text | None:
    """Why an adapter is more than an addition to each of its layers; None if it is not."""
    if adapter.config["peft_type"] == "OFT":
        return tr("OFT turns the base's weights and adds nothing to them")
    if adapter.config.get("use_dora"):
        return tr("DoRA also sets the lengths of the base's rows")
    if adapter.whole:
        name = next(iter(adapter.whole))
        return tr("it holds whole weights that replace the base's (`{tensor}`)", tensor=name)
    return None


def find_base(
    sources: Sequence[Source], given: Path | None, *, command: str = "merge"
) -> tuple[Path, str]:
    """The base's folder and digest; refused where a run was trained on another.

    Args:
        command: of `slipway`, for what to type when no base was given.

    Raises:
        UsageError: no base was given, and no run says which it is.
        NotFoundError: there is no such folder, or the run's base is gone.
        ProofError: the model there is not the base of one of the runs.
    """
    from slipway.training.model import base_digest

    runs = [source for source in sources if source.run is not None]
    if given is None and not runs:
        raise _base_needed(sources[0], command)
    base = given if given is not None else recorded_base(runs[0])
    if not (base / "config.json").is_file():
        raise NotFoundError(
            "model.not_found",
            tr("{folder} is no model folder: it has no config.json", folder=str(base)),
            tr("name the full-precision base with `--base FOLDER`"),
        )
    digest = base_digest(base)
    for source in runs:
        if source.run is not None and source.run.parents["base"] != digest:
            raise ProofError(
                "merge.other_base",
                tr("the model in {path} is not the base that the run was trained on", path=base)
                if len(sources) == 1
                else tr("{run} was not trained on the base in {path}", run=source.path, path=base),
                tr("get that base again with `slipway pull`, or train on this one"),
            )
    return base, digest


def _base_needed(source: Source, command: str) -> UsageError:
    named = peft_base(source.folder)
    return UsageError(
        "merge.base_needed",
        tr("{path} is an adapter: name the model that it belongs to", path=source.path)
        if not named
        else tr(
            "{path} is an adapter, made on `{base}`: name the folder of that model",
            path=source.path,
            base=named,
        ),
        tr("`slipway {command} {path} --base FOLDER`", command=command, path=source.path),
    )


def peft_base(folder: Path) -> str:
    """The base that an adapter's config names: a hub's name or a path on another machine."""
    from slipway.training.lora import read_config

    try:
        return str(read_config(folder).get("base_model_name_or_path") or "")
    except InputError:
        return ""


def recorded_base(source: Source) -> Path:
    """The base's folder as the run knew it, or a pulled base of the same digest."""
    assert source.run is not None
    recorded = Path(str(source.run.notes.get("base_path", "")))
    if recorded.is_dir() and str(recorded) != ".":
        return recorded
    bases = Home.current().bases
    for folder in sorted(bases.iterdir()) if bases.is_dir() else []:
        try:
            if read_manifest(folder).digest == source.run.parents["base"]:
                return folder
        except SlipwayError:
            continue
    raise NotFoundError(
        "merge.base_not_found",
        tr("the base model of the run is no longer at {path}", path=str(recorded)),
        tr("get it again with `slipway pull`"),
    )


def refuse_quantised(base: Path, config: dict[str, Any]) -> None:
    """A base of few bits cannot take the sum: rounding would eat what was trained.

    Raises:
        UsageError: the base is quantised; the hint says where the other one is.
    """
    packed = config.get("quantization_config")
    if packed:
        method = packed.get("quant_method") or "bitsandbytes"
        raise UsageError(
            "merge.quantised_base",
            tr("{path} is a quantised model ({method})", path=base, method=method),
            tr(
                "merge into the full-precision model that it was made from, with `--base FOLDER`; "
                "quantise the result with `slipway quantize`"
            ),
        )


def refuse_gguf(base: Path) -> None:
    """As `refuse_quantised`, for a GGUF file given as base."""
    if base.suffix == ".gguf" or (base.is_dir() and _only_gguf(base)):
        raise UsageError(
            "merge.gguf_base",
            tr("{path} is a GGUF; an adapter is merged into a Hugging Face folder", path=base),
            tr(
                "name the folder that it was converted from, or keep both apart: "
                "`slipway convert ADAPTER --base FOLDER`"
            ),
        )


def _only_gguf(folder: Path) -> bool:
    return any(folder.glob("*.gguf")) and not any(folder.glob("*.safetensors"))
