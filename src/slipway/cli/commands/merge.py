"""`slipway merge RUN`: base + adapters as one model folder, with proof."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.cli import output
from slipway.core.errors import NotFoundError, UsageError
from slipway.core.i18n import tr
from slipway.core.paths import Home

if TYPE_CHECKING:
    from slipway.core.i18n import Text
    from slipway.core.manifest import Manifest


@click.command(
    help=str(
        tr(
            "Merge adapters into their base. Each SOURCE is a run (a folder, or a name in "
            "SLIPWAY_HOME/runs) or an adapter folder of PEFT; several are summed, each with its "
            "weight (`A:0.7 B:0.3`). Refuses when the result equals the base or is not base + "
            "adapters."
        )
    )
)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE[:WEIGHT]...")
@click.option(
    "--base",
    type=click.Path(path_type=Path),
    help=str(tr("Folder or name of the base. A run knows its own; other adapters need it.")),
)
@click.option(
    "--dtype",
    default="keep",
    show_default=True,
    metavar="keep|bf16|fp16|fp32",
    help=str(tr("Number format of the merged weights.")),
)
@click.option(
    "--proof",
    default="auto",
    show_default=True,
    metavar="auto|logits|layers",
    help=str(
        tr("What is compared with base + adapters: logits on texts, or each changed layer alone.")
    ),
)
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(path_type=Path),
    help=str(tr("Folder of the merged model. Default: <run>-merged in SLIPWAY_HOME/artefacts.")),
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def merge(
    sources: tuple[str, ...],
    base: Path | None,
    dtype: str,
    proof: str,
    out: Path | None,
    as_json: bool,
) -> None:
    from slipway.core.events import EventLog
    from slipway.export.merge import merge_adapters

    home = Home.current()
    parts = [_part(source, home) for source in sources]
    folder = out or home.artefacts / f"{parts[0][0].resolve().name}-merged"
    line = output.LiveLine()
    warnings: list[Text] = []

    def show(event: dict[str, Any]) -> None:
        if event["type"] == "progress":
            line.show(f"{event['unit']} {event['done'] / event['total']:4.0%}")

    manifest = merge_adapters(
        parts,
        folder,
        base=None if base is None else _base(base, home),
        dtype=dtype,
        proof=proof,
        events=EventLog(None, show),
        say=warnings.append,
    )
    line.done()
    if as_json:
        output.print_json(
            {
                "path": str(folder.resolve()),
                "digest": manifest.digest,
                "metrics": manifest.metrics,
                "notes": manifest.notes,
            }
        )
        return
    _tell(manifest)
    for warning in warnings:
        output.note(warning)
    print(tr("model: {path}", path=str(folder)))
    print(tr("next: `slipway convert {path}`", path=str(folder)))


def _tell(manifest: Manifest) -> None:
    metrics, notes = manifest.metrics, manifest.notes
    changed = metrics["changed_tensors"]
    if "kl_mean" in metrics:
        print(
            tr(
                "merged: {changed} weights changed; against base + adapter: mean KL {kl:.2e}, "
                "top-1 agreement {top1:.1%}, largest logit difference {largest:.3f}",
                changed=changed,
                kl=metrics["kl_mean"],
                top1=metrics["top1_agreement"],
                largest=metrics["logit_difference_max"],
            )
        )
    elif "layers_proved" in metrics:
        print(
            tr(
                "merged: {changed} weights changed; each of {layers} layers gives what base + "
                "adapter give, but for {error:.2%} of rounding",
                changed=changed,
                layers=metrics["layers_proved"],
                error=metrics["layer_error_max"],
            )
        )
    else:
        print(
            tr(
                "taken over: {changed} of {tensors} weights are not the base's",
                changed=changed,
                tensors=metrics["tensors"],
            )
        )
    for name in notes.get("left_out", []):
        output.note(tr("not copied, because it holds the base's weights: {name}", name=name))
    if "untied" in notes:
        output.note(tr("the output head is a weight of its own now; in the base it was shared"))
    for name, base in notes.get("adapter_made_on", {}).items():
        if base:
            output.note(tr("{name} says that it was made on `{base}`", name=name, base=base))


def _part(source: str, home: Home) -> tuple[Path, float]:
    """The folder and weight of `NAME`, `PATH` or either with `:WEIGHT`."""
    found = _find(source, home)
    if found is not None:
        return found, 1.0
    name, colon, weight = source.rpartition(":")
    found = _find(name, home) if colon else None
    if found is None:
        raise NotFoundError(
            "run.not_found",
            tr(
                "there is no run `{run}`, neither a folder nor in {runs}",
                run=name if _is_number(weight) and colon else source,
                runs=str(home.runs),
            ),
            tr("train one with `slipway train RECIPE.yaml`"),
        )
    if not _is_number(weight):
        raise UsageError(
            "merge.bad_weight",
            tr("the weight in `{source}` is no number", source=source),
            tr("write it like `{name}:0.5`", name=name),
        )
    return found, float(weight)


def _is_number(text: str) -> bool:
    from math import isfinite

    try:
        return isfinite(float(text))
    except ValueError:
        return False


def _find(name: str, home: Home) -> Path | None:
    if not name:
        return None
    return next((path for path in (Path(name), home.runs / name) if path.is_dir()), None)


def _base(base: Path, home: Home) -> Path:
    return next((p for p in (base, home.bases / base) if p.exists()), base)
