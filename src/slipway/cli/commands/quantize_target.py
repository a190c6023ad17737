"""What `slipway quantize --target-…` asks for, and the search for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.core.paths import Home
    from slipway.export.quantise import Measured, Options, Target

_CONTEXT, _CHUNKS = 512, 16


def read_limit(
    given: dict[str, Any], *, calibration: Path | None, dry_run: bool
) -> Target | float | None:
    """The target, checked: of size, or a float for the mean KLD. It takes the place of `-t`."""
    from slipway.core.errors import UsageError
    from slipway.export.quantise import Target

    size, bpw, kld = given["target_size"], given["target_bpw"], given["target_kld"]
    context = click.get_current_context()
    typed = context.get_parameter_source("types") is click.core.ParameterSource.COMMANDLINE
    targets = {"--target-size": size, "--target-bpw": bpw, "--target-kld": kld}
    _exclude({**targets, "--types": typed and any(targets.values())})
    if kld is None:
        if given["text"]:
            raise UsageError(
                "quantize.no_target",
                tr("`{option}` needs `{other}`", option="--text", other="--target-kld"),
                tr("for the importance matrix, name the text with `--calibration`"),
            )
        return Target(size_bytes=_bytes(size)) if size else Target(bpw=bpw) if bpw else None
    _exclude({"--target-kld": kld, "--dry-run": dry_run, "--calibration": calibration})
    if not given["text"]:
        raise UsageError(
            "quantize.no_text",
            tr("`{option}` needs `{other}`", option="--target-kld", other="--text FILE"),
            tr("name a plain text file with `--text`"),
        )
    return float(kld)


def _exclude(options: dict[str, Any]) -> None:
    from slipway.core.errors import UsageError

    given = [name for name, value in options.items() if value]
    if len(given) > 1:
        raise UsageError(
            "quantize.contradiction",
            tr("`{first}` and `{second}` exclude each other", first=given[0], second=given[1]),
            tr("leave one of them out"),
        )


def _bytes(text: str) -> int:
    from slipway.core.errors import UsageError
    from slipway.core.sizes import parse_size

    try:
        size = parse_size(text)
    except ValueError:
        size = 0
    if size == 0:
        raise UsageError(
            "quantize.bad_size",
            tr("`{option} {text}` is no size", option="--target-size", text=text),
            tr("try `{command}`", command="--target-size 4.5GiB"),
        )
    return size


def search_size(
    folder: Path, target: Target, home: Home, options: Options, *, calibrated: bool
) -> tuple[list[str], Options]:
    """The type and options of the best mixture below the target."""
    from dataclasses import replace

    from slipway.cli.output import note
    from slipway.export.quantise import find_mix

    mix = find_mix(folder, target, home=home, options=options, calibrated=calibrated)
    note(
        tr(
            "{type} with {count} tensors of {above}: {size} bytes, {bpw} bits per weight",
            type=mix.type,
            count=len(mix.raised),
            above=mix.above,
            size=mix.plan.size_bytes,
            bpw=round(mix.plan.bpw, 3),
        )
        if mix.raised
        else tr(
            "{type} as it is: {size} bytes, {bpw} bits per weight",
            type=mix.type,
            size=mix.plan.size_bytes,
            bpw=round(mix.plan.bpw, 3),
        )
    )
    return [mix.type], replace(mix.options, target=str(target))


def search_kld(
    folder: Path, limit: float, text: Path, home: Home, options: Options, imatrix: Path | None
) -> tuple[list[str], Options]:
    """The smallest type below the limit, each measurement told as it is made."""
    from slipway.cli.output import note
    from slipway.core.errors import InputError
    from slipway.export.measure import TextSpec
    from slipway.export.quantise import find_for_kld

    def told(one: Measured) -> None:
        note(
            tr(
                "{type}: mean KLD {kld} ± {error}, {size} bytes",
                type=one.type,
                kld=one.kld,
                error=one.kld_error,
                size=one.size_bytes,
            )
        )

    spec = TextSpec(text.absolute(), _CONTEXT, _CHUNKS)
    scratch = folder.resolve().parent
    found = find_for_kld(
        *(folder, limit, spec, scratch),
        home=home,
        options=options,
        imatrix=imatrix,
        on_measured=told,
    )
    if found.type is None:
        raise InputError(
            "quantize.target_unreachable",
            tr(
                "no type comes as near as a mean KLD of {limit}: the nearest, {type}, has {kld}",
                limit=limit,
                type=found.best.type,
                kld=found.best.kld,
            ),
            tr("raise the target, or keep the model unquantised"),
        )
    return [found.type], found.options
