"""`slipway convert`: model folder to GGUF, adapter to GGUF adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.core.i18n import Text
    from slipway.core.manifest import Manifest
    from slipway.core.paths import Home
    from slipway.export.convert import Split


@click.command(
    help=str(
        tr(
            "Convert a model folder to GGUF, with template proof; or, with --adapter, the adapter "
            "of a run or PEFT folder to a GGUF adapter that is loaded beside its base."
        )
    )
)
@click.argument("source", type=click.Path(path_type=Path), metavar="MODEL|RUN|ADAPTER")
@click.option(
    "--outtype",
    metavar="TYPE",
    help=str(
        tr(
            "auto (default: the weights' own), bf16, f16, f32, q8_0; of an adapter: f32 "
            "(default), f16, bf16."
        )
    ),
)
@click.option(
    "--split-max-size",
    metavar="N[K|M|G]",
    help=str(tr("Write a set of files with so many bytes of tensors each.")),
)
@click.option(
    "--split-max-tensors",
    type=int,
    metavar="N",
    help=str(tr("Write a set of files with so many tensors each.")),
)
@click.option(
    "--adapter",
    "as_adapter",
    is_flag=True,
    help=str(tr("Convert the run's adapter alone. Adapter folders need no flag.")),
)
@click.option(
    "--base",
    type=click.Path(path_type=Path),
    help=str(tr("Folder or name of the adapter's base. A run knows its own.")),
)
@click.option(
    "--proof",
    metavar="tokens|auto|logits|weights",
    help=str(
        tr(
            "Of a model: `tokens` (default), or `logits` to compare llama.cpp's numbers with "
            "transformers', too. Of an adapter: `logits` loads it in llama.cpp beside a GGUF of "
            "its base, `weights` measures the file; `auto` (default) does the first where it is "
            "quick."
        )
    ),
)
@click.option(
    "--base-gguf",
    type=click.Path(path_type=Path),
    help=str(tr("GGUF of the base for that proof. Default: that of the home, or a passing one.")),
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help=str(tr("Folder of the result."))
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def convert(
    source: Path,
    outtype: str | None,
    split_max_size: str | None,
    split_max_tensors: int | None,
    as_adapter: bool,
    output: Path | None,
    as_json: bool,
    **more: Any,
) -> None:
    from slipway.core.paths import Home
    from slipway.export.convert import Split

    home = Home.current()
    folder = resolve(source, home, home.runs)
    split = Split(split_max_size, split_max_tensors)
    if as_adapter or _is_adapter(folder):
        _refuse_split(split)
        target, manifest = _convert_adapter(folder, output, outtype, home, more)
        _print(target, manifest, _tell_adapter, as_json=as_json)
        return
    _refuse_run(folder)
    proof = more.pop("proof") or "tokens"
    _refuse_options(more)
    target, manifest = _convert_model(folder, output, outtype or "auto", split, proof, home)
    _print(target, manifest, _tell_model, as_json=as_json)


def _is_adapter(folder: Path) -> bool:
    """Whether it can be nothing else: a run could be meant merged, too."""
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def _refuse_run(folder: Path) -> None:
    from slipway.core.errors import SlipwayError, UsageError
    from slipway.core.manifest import read_manifest

    try:
        manifest = read_manifest(folder, kind="run")
    except SlipwayError:
        return
    if manifest.notes.get("artefact") == "model":
        hint = tr("make a model folder of it first: `slipway merge {run}`", run=folder)
    else:
        hint = tr(
            "for one whole GGUF: `slipway merge {run}`, and convert that; "
            "for the adapter alone: `slipway convert {run} --adapter`",
            run=folder,
        )
    raise UsageError("convert.run", tr("{run} is a run, not a model", run=folder), hint)


def _refuse_split(split: Split) -> None:
    from slipway.core.errors import UsageError

    if given := split.arguments():
        raise UsageError(
            "convert.model_option",
            tr("`{option}` is for models: an adapter is one file", option=given[0]),
            tr("leave it out"),
        )


def _refuse_options(options: dict[str, Any]) -> None:
    from slipway.core.errors import UsageError

    for name, value in options.items():
        if value is not None:
            raise UsageError(
                "convert.adapter_option",
                tr("`--{option}` is for adapters", option=name.replace("_", "-")),
                tr("leave it out, or give a run and `--adapter`"),
            )


def _convert_model(
    folder: Path, output: Path | None, outtype: str, split: Split, proof: str, home: Home
) -> tuple[Path, Manifest]:
    from slipway.cli.output import LiveLine, note
    from slipway.core.events import EventLog
    from slipway.core.manifest import require_replaceable
    from slipway.export import convert_to_gguf
    from slipway.export.convert import native_outtype
    from slipway.export.hf import require_whole

    warnings: list[Text] = []
    line = LiveLine()
    if output is None:
        require_whole(folder)
        named = native_outtype(folder) if outtype == "auto" else outtype
        output = home.artefacts / f"{folder.resolve().name}-{named}"
    require_replaceable(output, "gguf")
    manifest = convert_to_gguf(
        folder,
        output,
        outtype=outtype,
        split=split,
        proof=proof,
        home=home,
        events=EventLog(None, _shown_on(line)),
        say=warnings.append,
    )
    line.done()
    for warning in warnings:
        note(warning)
    return output, manifest


def _convert_adapter(
    folder: Path, output: Path | None, outtype: str | None, home: Home, more: dict[str, Any]
) -> tuple[Path, Manifest]:
    from slipway.cli.output import LiveLine, note
    from slipway.core.events import EventLog
    from slipway.export import convert_adapter

    if _is_adapter(folder):
        note(
            tr(
                "{path} is an adapter: converted alone, to be loaded beside its base; "
                "one whole model is made by `slipway merge`",
                path=folder,
            )
        )
    base: Path | None = more["base"]
    if base is not None:
        base = next((p for p in (base, home.bases / base) if p.exists()), base)
    gguf: Path | None = more["base_gguf"]
    if gguf is not None and not gguf.exists():
        gguf = resolve(gguf, home)
    whole = folder.resolve()
    name = whole.parent.name if whole.name == "adapter" else whole.name
    target = output or home.artefacts / f"{name}-adapter"
    line = LiveLine()
    manifest = convert_adapter(
        folder,
        target,
        base=base,
        outtype=outtype or "f32",
        proof=more["proof"] or "auto",
        base_gguf=gguf,
        home=home,
        events=EventLog(None, _shown_on(line)),
    )
    line.done()
    return target, manifest


def _shown_on(line: Any) -> Any:
    def show(event: dict[str, Any]) -> None:
        if event["type"] == "progress":
            done = event["fraction"]
            stage = tr("converting") if event["stage"] == "convert" else tr("proving")
            line.show(f"{stage} {done:4.0%}" if done is not None else stage)

    return show


def _print(target: Path, manifest: Manifest, tell: Any, *, as_json: bool) -> None:
    from dataclasses import asdict

    from slipway.cli.output import print_json, size

    if as_json:
        print_json({"folder": str(target), **asdict(manifest)})
        return
    tell(target, manifest)
    print(f"{target}\t{size(manifest.metrics['size_bytes'])}")


def _tell_model(target: Path, manifest: Manifest) -> None:
    from slipway.cli.output import note

    outtype = manifest.config["outtype"]
    if outtype.origin == "measured":
        note(tr("number format {outtype}: it keeps the weights as they are", outtype=outtype.value))
        if outtype.value == "f32":
            note(tr("for half the size, rounded: `--outtype bf16` or `--outtype f16`"))
    if (count := manifest.metrics["files"]) > 1:
        note(tr("{count} files; give the first, or the folder, to what reads them", count=count))
    proof = manifest.notes["proof"]
    note(
        tr(
            "equal to the model on {texts} texts and {chats} chats, token by token",
            texts=proof["texts"],
            chats=proof["chats"],
        )
    )
    if logits := manifest.notes.get("logits"):
        note(
            tr(
                "llama.cpp computes what transformers computes: mean KL {kl:.1e} over {count} "
                "next tokens",
                kl=logits["kl_mean"],
                count=logits["positions"],
            )
        )
    tell_recorded(proof)


def tell_recorded(proof: dict[str, Any]) -> None:
    """What the proof has recorded without refusing it."""
    from slipway.cli.output import note

    for difference in proof["rare_differences"]:
        note(tr("known difference on rare characters: {what}", what=difference))
    for chat in proof.get("hard_chats", ()):
        if chat["result"] != "equal":
            note(
                tr(
                    "{case}: {result}: {detail}",
                    case=chat["case"],
                    result=chat["result"],
                    detail=chat["detail"],
                )
            )


def _tell_adapter(target: Path, manifest: Manifest) -> None:
    from slipway.cli.output import note
    from slipway.export.convert.adapter import ADAPTER_NAME

    metrics = manifest.metrics
    if metrics["rescaled_layers"]:
        note(
            tr(
                "{count} layers were rescaled: llama.cpp knows alpha / rank alone, and these have "
                "another scale (rsLoRA, patterns)",
                count=metrics["rescaled_layers"],
            )
        )
    if manifest.notes["proof"] == "logits":
        note(
            tr(
                "in llama.cpp base + adapter give what was trained: mean KL {kl:.1e} (the base "
                "alone is off by {base:.1e}; the adapter moves it by {effect:.1e})",
                kl=metrics["kl_mean"],
                base=metrics["base_kl_mean"],
                effect=metrics["adapter_kl_mean"],
            )
        )
    else:
        note(
            tr(
                "the file adds what was trained to each of {layers} layers; it was not tried in "
                "llama.cpp (that takes a GGUF of the base: `--base-gguf FILE`)",
                layers=metrics["layers"],
            )
        )
    file = (target / ADAPTER_NAME).resolve()
    note(
        tr(
            "use it beside any GGUF of its base: `ADAPTER {file}` in a Modelfile, or "
            "`slipway toolchain exec llama-server -- -m BASE.gguf --lora {file}`",
            file=file,
        )
    )


def resolve(name: Path, home: Any, *more: Path) -> Path:
    """A folder given by path, or by its name below SLIPWAY_HOME, there in `more`, too."""
    for folder in (name, *(place / name for place in (home.artefacts, home.bases, *more))):
        if folder.is_dir():
            return Path(folder)
    from slipway.core.errors import NotFoundError

    raise NotFoundError(
        "model.not_found",
        tr("there is no folder {path}, here or in {home}", path=str(name), home=home.root),
        tr("see what is there with `ls {folder}`", folder=home.artefacts),
    )
