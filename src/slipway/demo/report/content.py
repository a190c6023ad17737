"""The report as data: schema 1, described in docs/report-schema.md.

Sizes are bytes, times are seconds, losses are nats per learnt token, `cost_micro` is millionths
of the price list's currency unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slipway.core.errors import SlipwayError
from slipway.core.events import read_events
from slipway.core.manifest import read_manifest, utc_now
from slipway.demo.context import DemoContext
from slipway.jobs.pipeline import StageRecord

SCHEMA = 1
CURVE_POINTS = 400


def build_report(context: DemoContext, records: Sequence[StageRecord]) -> dict[str, Any]:
    """Gather what the stages made into the report's schema."""
    results = {record.name: record.outputs for record in records}
    evaluation = results["eval"]["results"]
    return {
        "schema": SCHEMA,
        "created_at": utc_now(),
        "quick": context.options.quick,
        "model": {
            "base": context.base,
            "data": results["data"]["name"],
            "names": results["create"]["names"],
        },
        "environment": {
            "hardware": results["machine"]["hardware"],
            "versions": results["machine"]["versions"],
            "toolchain": results["toolchain"],
        },
        "data": {"stats": results["data"]["stats"], "check": results["data"]["check"]},
        "training": {
            **results["train"]["metrics"],
            "curve": loss_curve(Path(results["train"]["folder"]) / "events.jsonl"),
        },
        "merge": results["merge"]["metrics"],
        "base": evaluation["base"],
        "tuned": evaluation["tuned"],
        "unquantised": evaluation.get("unquantised", {}),
        "quants": evaluation["quants"],
        "more_bits_diverge_more": unexpected_order(evaluation["quants"]),
        "samples": evaluation.get("samples", []),
        "gateway": results["chat"]["gateway"],
        "stages": [{"name": r.name, "seconds": r.seconds, "cached": r.cached} for r in records],
        "lineage": lineage(results),
    }


def unexpected_order(quants: dict[str, Any]) -> list[list[str]]:
    """Pairs [larger, smaller] of quants where the one with more bits per weight has more KLD.

    Happens with the starter after a short training: its weights come from a 4-bit grid, to which
    five bits with a free minimum return, and so lose what little was learnt.
    """
    rows = sorted(quants.items(), key=lambda item: item[1]["bpw"])
    return [
        [large, small]
        for i, (small, fewer) in enumerate(rows)
        for large, more in rows[i + 1 :]
        if more["kld_mean"] > fewer["kld_mean"]
    ]


def loss_curve(events: Path) -> dict[str, list[list[float]]]:
    """Training and evaluation loss as [step, loss] points, thinned to at most 400 each.

    Steps that a resumed run did again count once, with the later value.
    """
    curves: dict[str, dict[int, float]] = {"train": {}, "eval": {}}
    for event in read_events(events, "metric"):
        if event.get("kind") in curves and "step" in event and "loss" in event:
            curves[event["kind"]][event["step"]] = event["loss"]
    loss, eval_loss = (
        _thin([[step, value] for step, value in sorted(curve.items())]) for curve in curves.values()
    )
    return {"loss": loss, "eval_loss": eval_loss}


def _thin(points: list[list[float]]) -> list[list[float]]:
    if len(points) <= CURVE_POINTS:
        return points
    step = (len(points) - 1) / (CURVE_POINTS - 1)
    return [points[round(i * step)] for i in range(CURVE_POINTS)]


def lineage(results: dict[str, Any]) -> list[dict[str, Any]]:
    """From dataset to request: each link with its digest and its parents' digests."""
    chain = [
        {
            "kind": "dataset",
            "name": results["data"]["name"],
            "digest": results["data"]["dataset_digest"],
            "parents": {},
        }
    ]
    folders = [
        results["pull"]["base"]["folder"],
        results["train"]["folder"],
        results["merge"]["folder"],
        results["convert"]["tuned"]["folder"],
        *(quant["folder"] for quant in results["quantise"].values()),
    ]
    for folder in folders:
        try:
            manifest = read_manifest(Path(folder))
        except SlipwayError:
            continue
        chain.append(
            {
                "kind": manifest.kind,
                "name": manifest.name,
                "digest": manifest.digest,
                "parents": manifest.parents,
            }
        )
    for name, digest in results["create"]["names"].items():
        chain.append(
            {
                "kind": "model",
                "name": name,
                "digest": digest["manifest"],
                "parents": {"gguf": digest["source"]},
            }
        )
    gateway = results["chat"]["gateway"]
    chain.append(
        {
            "kind": "channel",
            "name": gateway["channel"],
            "digest": "",
            "parents": {"model": results["create"]["names"][gateway["model"]]["manifest"]},
        }
    )
    chain += [
        {"kind": "request", "name": r["id"], "digest": "", "parents": {"channel": r["channel"]}}
        for r in gateway["requests"]
    ]
    return chain
