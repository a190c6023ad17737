"""`slipway merge RUN`: base + adapter as one model folder, with proof."""

from __future__ import annotations

from pathlib import Path

import click

from slipway.cli import output
from slipway.core.errors import NotFoundError
from slipway.core.i18n import tr
from slipway.core.paths import Home


@click.command(
    help=str(
        tr(
            "Merge the adapter of RUN (a folder, or a name in SLIPWAY_HOME/runs) into its base. "
            "Refuses when the result equals the base or is not base + adapter."
        )
    )
)
@click.argument("run")
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(path_type=Path),
    help=str(tr("Folder of the merged model. Default: <run>-merged in SLIPWAY_HOME/artefacts.")),
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def merge(run: str, out: Path | None, as_json: bool) -> None:
    from slipway.export.merge import merge_run

    home = Home.current()
    run_dir = _find_run(run, home)
    folder = out or home.artefacts / f"{run_dir.resolve().name}-merged"
    manifest = merge_run(run_dir, folder)
    metrics = manifest.metrics
    if as_json:
        output.print_json(
            {"path": str(folder.resolve()), "digest": manifest.digest, "metrics": metrics}
        )
        return
    print(
        tr(
            "merged: {changed} weights changed; against base + adapter: mean KL {kl:.2e}, "
            "top-1 agreement {top1:.1%}, largest logit difference {largest:.3f}",
            changed=metrics["changed_tensors"],
            kl=metrics["kl_mean"],
            top1=metrics["top1_agreement"],
            largest=metrics["logit_difference_max"],
        )
    )
    print(tr("model: {path}", path=str(folder)))
    print(tr("next: `slipway convert {path}`", path=str(folder)))


def _find_run(run: str, home: Home) -> Path:
    for folder in (Path(run), home.runs / run):
        if folder.is_dir():
            return folder
    raise NotFoundError(
        "run.not_found",
        tr("there is no run `{run}`, neither a folder nor in {runs}", run=run, runs=str(home.runs)),
        tr("train one with `slipway train RECIPE.yaml`"),
    )
