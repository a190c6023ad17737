"""The toolchain to use now, tested on this processor."""

from __future__ import annotations

from slipway.core.errors import ResourceError
from slipway.core.files import locked
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.export.toolchain.checks import check_of, remember_check
from slipway.export.toolchain.cpu import stamp_here
from slipway.export.toolchain.find import all_installed, find_toolchain
from slipway.export.toolchain.model import Toolchain
from slipway.export.toolchain.selftest import self_test


def tested_toolchain(home: Home) -> Toolchain | None:
    """The toolchain to use now, or None when there is none that computes here.

    One that was tested on another processor only (the home moved, or is shared) is tested first,
    which takes a few seconds once; when it fails, the next one is looked at.

    Raises:
        ResourceError: the test could not be run to its end (full disk, too little memory).
        UsageError: see `find_toolchain`.
    """
    while (found := find_toolchain(home)) is not None and found.state == "other_cpu":
        with locked(home.toolchains / "checks-run"):
            known = check_of(home, found.folder.name, stamp_here())
            if known is None:
                result = self_test(found)
                if not result.passed and not result.conclusive:
                    raise _fails(found, result.failures)
                remember_check(home, found.folder.name, stamp_here(), result)
    return found


def require_toolchain(home: Home) -> Toolchain:
    """The toolchain to use now, as `tested_toolchain`.

    Raises:
        ResourceError: there is none yet, or those there are fail on this processor.
        UsageError: see `find_toolchain`.
    """
    found = tested_toolchain(home)
    if found is not None:
        return found
    failed = [item for item in all_installed(home) if item.toolchain.state == "failed"]
    if failed:
        check = check_of(home, failed[0].name, stamp_here())
        raise _fails(failed[0].toolchain, check.failures if check else {})
    raise ResourceError(
        "toolchain.missing",
        tr("llama.cpp's tools are not installed"),
        tr("install them with `slipway toolchain install`"),
    )


def _fails(toolchain: Toolchain, failures: dict[str, str]) -> ResourceError:
    return ResourceError(
        "toolchain.fails_here",
        tr(
            "llama.cpp's tools in {folder} fail on this processor: {failures}",
            folder=str(toolchain.folder),
            failures=failures_text(failures),
        ),
        tr("build others for it with `slipway toolchain install`"),
    )


def failures_text(failures: dict[str, str]) -> str:
    """A self-test's failures in a line."""
    return "; ".join(f"{name}: {why}" for name, why in failures.items())
