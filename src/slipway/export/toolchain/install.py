"""Get a tested toolchain: use what is there, else build it, falling back flag by flag."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from slipway.core import process
from slipway.core.errors import ProofError, ResourceError, ToolError
from slipway.core.events import EventLog
from slipway.core.files import locked
from slipway.core.hardware import probe
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.export.toolchain import build as builder
from slipway.export.toolchain import source
from slipway.export.toolchain.build_tools import find_build_tools
from slipway.export.toolchain.checks import check_of, remember_check
from slipway.export.toolchain.cpu import stamp_here
from slipway.export.toolchain.find import (
    all_installed,
    candidate_on_path,
    configured,
    installed,
    pinned,
    remember_path,
    tested_on_path,
)
from slipway.export.toolchain.gpu import Gpu, choose, look
from slipway.export.toolchain.keep import keep_build
from slipway.export.toolchain.model import LLAMA_VERSION, VERSION, Toolchain
from slipway.export.toolchain.ready import failures_text
from slipway.export.toolchain.selftest import SelfTestResult, reason, self_test
from slipway.export.toolchain.variants import Variant, after_failure, ladder, named, plan

OnProgress = Callable[[str, float | None, float | None], None]
"""Progress: stage, part done 0..1, seconds left. Stages: "download", "extract", "build", "test",
and after a variant failed "next" or "none" (left to try)."""

NEEDED_BYTES = 1_200_000_000
"""Free disk space a build takes at its height."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps that do real work; tests put their own in."""

    fetch: Callable[[Home, OnProgress], Path]
    build: Callable[[Home, Path, Variant, int, OnProgress], Path]
    test: Callable[[Toolchain], SelfTestResult]


@dataclass(frozen=True, slots=True)
class BuildWish:
    """What the user wants of a build.

    Attributes:
        variant: name of a CPU variant; None tries them from the fastest on.
        gpus: GPU backend -> whether to build it in; those not named are decided by what is seen.
        jobs: compilers at once; None is one for each core.
    """

    variant: str | None = None
    gpus: Mapping[Gpu, bool] | None = None
    jobs: int | None = None


def install_toolchain(
    home: Home,
    *,
    events: EventLog | None = None,
    on_progress: OnProgress | None = None,
    jobs: int | None = None,
    steps: Steps | None = None,
    recheck: bool = False,
) -> Toolchain:
    """Return a toolchain that passed its self-test, building one when there is none.

    Looks at the folder in SLIPWAY_TOOLCHAIN (tested here), the programs on PATH (of the pinned
    release or newer, with the converter beside them, tested), `home.toolchains`, and last builds
    llama.cpp from source. What fails its self-test is replaced by the next variant. A killed build
    goes on where it was at the next call; a second process waits for the first. Official prebuilt
    archives are not tried: their digests are not pinned (see `archive`).

    Args:
        jobs: compilers at once; default is one for each core.
        steps: replaces the working steps in tests.
        recheck: run the self-test again on what is installed; it is run anyway when it has not
            been run on this processor.

    Raises:
        ResourceError: no compiler or CMake, too little disk.
        UnreachableError: the source archive cannot be fetched.
        ProofError: no variant passes the self-test, or the configured folder does not.
    """
    log = events or EventLog(None)
    steps = steps or Steps(_fetch, _build, self_test)
    report = _reporter(log, on_progress)
    if (chosen := configured()) is not None:
        report("test", None, None)
        _require_passed(chosen, steps.test(chosen))
        return chosen
    if (found := tested_on_path(home) or _test_path(home, steps, report)) is not None:
        return found
    if (found := _good_install(home, steps, report, log, recheck=recheck)) is not None:
        return found
    with locked(home.toolchains / "install"):
        if (found := _good_install(home, steps, report, log)) is not None:
            return found  # another process built it while we waited
        toolchain = _build_ladder(home, steps, report, log, BuildWish(jobs=jobs))
        shutil.rmtree(home.cache / "llama.cpp", ignore_errors=True)
        return toolchain


def build_toolchain(
    home: Home,
    wish: BuildWish,
    *,
    events: EventLog | None = None,
    on_progress: OnProgress | None = None,
    steps: Steps | None = None,
) -> Toolchain:
    """Build llama.cpp from source, whatever is there already; it is kept when it passes its test.

    Raises:
        UsageError: no such variant on this processor.
        ResourceError: no compiler or CMake, none for a GPU backend asked for, too little disk.
        ToolError: the variant asked for does not compile.
        UnreachableError, ProofError: as `install_toolchain`.
    """
    log = events or EventLog(None)
    steps = steps or Steps(_fetch, _build, self_test)
    with locked(home.toolchains / "install"):
        toolchain = _build_ladder(home, steps, _reporter(log, on_progress), log, wish)
        shutil.rmtree(home.cache / "llama.cpp", ignore_errors=True)
        return toolchain


def _reporter(log: EventLog, on_progress: OnProgress | None) -> OnProgress:
    def report(stage: str, fraction: float | None, left_s: float | None) -> None:
        log.emit("progress", stage=stage, fraction=fraction, eta_s=left_s)
        if on_progress:
            on_progress(stage, fraction, left_s)

    return report


def _good_install(
    home: Home, steps: Steps, report: OnProgress, log: EventLog, *, recheck: bool = False
) -> Toolchain | None:
    """An installed toolchain of the pinned release, or that the user chose, that computes here."""
    while (found := installed(home)) is not None:
        if found.version != VERSION and found.folder.name != pinned(home):
            return None
        if found.state == "tested" and not recheck:
            return found
        recheck = False  # the first only: what comes next is tested or is not
        report("test", None, None)
        result = steps.test(found)
        if result.passed or result.conclusive:
            remember_check(home, found.folder.name, stamp_here(), result)
        if result.passed:
            return replace(found, state="tested")
        log.emit("log", level="warning", variant=found.variant, failures=result.failures)
        if not result.conclusive:
            return None
    return None


def _require_passed(toolchain: Toolchain, result: SelfTestResult) -> None:
    if not result.passed:
        raise ProofError(
            "toolchain.self_test",
            tr(
                "the tools in {folder} fail the self-test: {failures}",
                folder=str(toolchain.folder),
                failures=failures_text(result.failures),
            ),
            tr("unset SLIPWAY_TOOLCHAIN and run `slipway toolchain install` to build others"),
        )


def _test_path(home: Home, steps: Steps, report: OnProgress) -> Toolchain | None:
    """Check version and self-test of programs on PATH once; the answer is remembered."""
    candidate = candidate_on_path()
    if candidate is None:
        return None
    report("test", None, None)
    version = program_version(candidate.server)
    candidate = Toolchain(candidate.folder, candidate.bin, candidate.source, version, "path")
    if not new_enough(version):
        remember_path(home, candidate, passed=False, reason=f"version {version} < {VERSION}")
        return None
    result = steps.test(candidate)
    remember_path(home, candidate, passed=result.passed, reason=failures_text(result.failures))
    return candidate if result.passed else None


def program_version(program: Path) -> str:
    """What a llama.cpp program says its version is, as "0.5.0-0c1e570"; "unknown" if it does not.

    Releases before version numbers existed say a build number instead: "b6123-abcdef0".
    """
    try:
        text = process.run([program, "--version"], timeout_s=20)
    except (ToolError, OSError):
        return "unknown"
    if match := re.search(r"version: (\d+\.\d+\.\d+)\S* \(.*?commit (\w+)\)", text):
        return f"{match[1]}-{match[2]}"
    if match := re.search(r"version: (\d+) \((\w+)\)", text):
        return f"b{match[1]}-{match[2]}"
    return "unknown"


def new_enough(version: str) -> bool:
    """Whether a version as from `program_version` is the pinned release or a later one."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)-", version)
    return match is not None and tuple(map(int, match.groups())) >= LLAMA_VERSION


def _fetch(home: Home, report: OnProgress) -> Path:
    """The extracted source tree."""
    find_build_tools()  # no compiler: say so before 77 MB are fetched
    home.cache.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(home.cache).free < NEEDED_BYTES:
        raise ResourceError(
            "disk.full",
            tr(
                "building llama.cpp needs {needed} MB free in {path}",
                needed=NEEDED_BYTES // 1_000_000,
                path=str(home.cache),
            ),
            tr("free some space, or set SLIPWAY_HOME to a larger disk, then run the command again"),
        )
    report("download", None, None)
    archive = source.fetch_archive(
        home, lambda done, total: report("download", done / (total or source.ARCHIVE_BYTES), None)
    )
    report("extract", None, None)
    return source.extract(archive, source.source_tree(home))


def _build(home: Home, tree: Path, variant: Variant, jobs: int, report: OnProgress) -> Path:
    return builder.build(
        tree,
        home.cache / "llama.cpp" / f"build-{variant.name}",
        variant,
        jobs=jobs,
        on_fraction=lambda fraction, left_s: report("build", fraction, left_s),
    )


def _build_ladder(
    home: Home, steps: Steps, report: OnProgress, log: EventLog, wish: BuildWish
) -> Toolchain:
    """Build variants from the fastest on until one passes its test; keep why others did not."""
    started = time.monotonic()
    choices = choose(look(), wish.gpus)
    gpus = [choice.gpu for choice in choices if choice.use]
    variants = ladder(probe().cpu_flags)
    rejected = {} if wish.variant else _failed_here(home)
    if wish.variant:
        rest = plan([named(variants, wish.variant)], gpus)[:1]
    else:
        rest = plan(variants, gpus, tuple(rejected))
    tree = steps.fetch(home, report)
    while rest:
        variant, *rest = rest
        try:
            report("build", 0.0, None)
            programs = steps.build(home, tree, variant, wish.jobs or probe().cores, report)
        except ToolError as error:
            failures = {"build": _build_fault(error, variant, rest, home)}
        else:
            report("test", None, None)
            built = Toolchain(programs.parent, programs, tree, VERSION, "native", (), variant.name)
            result = steps.test(built)
            if result.passed:
                seconds = time.monotonic() - started
                why = {choice.gpu: choice.why.en for choice in choices}
                return keep_build(home, built, variant, result, rejected, seconds=seconds, gpu=why)
            failures = result.failures
        rejected[variant.name] = failures
        rest = after_failure(rest, variant, list(failures.values()))
        log.emit("log", level="warning", variant=variant.name, failures=failures)
        report("next" if rest else "none", None, None)
    raise ProofError(
        "toolchain.self_test",
        tr(
            "no build of llama.cpp passes its self-test on this processor: {failures}",
            failures="; ".join(
                f"{name}: {why}" for name, all_of in rejected.items() for why in all_of.values()
            ),
        ),
        tr("point SLIPWAY_TOOLCHAIN at a llama.cpp that works here"),
    )


def _failed_here(home: Home) -> dict[str, dict[str, str]]:
    """Variants of this release, built on this processor, that have failed on it since."""
    here = stamp_here()
    found = {}
    for item in all_installed(home):
        built_here = item.manifest.notes.get("cpu_stamp") == here
        if item.toolchain.state == "failed" and built_here and item.toolchain.version == VERSION:
            check = check_of(home, item.name, here)
            found[item.toolchain.variant] = check.failures if check else {}
    return found


def _build_fault(error: ToolError, variant: Variant, rest: list[Variant], home: Home) -> str:
    """Why a compilation failed, when another variant may do better; else the error goes on."""
    if "No space left on device" in error.message_en:
        raise ResourceError(
            "disk.full", tr("no space is left in {path}", path=str(home.cache))
        ) from error
    if not rest or not (variant.gpus or variant.native):
        raise error
    return reason(error)
