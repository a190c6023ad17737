"""Get a tested toolchain: use what is there, else build it, falling back flag by flag."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slipway.core import process
from slipway.core.errors import ProofError, ResourceError, ToolError, from_os_error
from slipway.core.events import EventLog
from slipway.core.files import locked, new_folder
from slipway.core.hardware import probe
from slipway.core.i18n import tr
from slipway.core.manifest import Setting, package_versions, write_manifest
from slipway.core.paths import Home
from slipway.export.toolchain import build as builder
from slipway.export.toolchain import source
from slipway.export.toolchain.find import (
    candidate_on_path,
    configured,
    installed,
    remember_path,
    tested_on_path,
)
from slipway.export.toolchain.model import (
    EXTRA_PROGRAMS,
    LLAMA_COMMIT,
    LLAMA_VERSION,
    PROGRAMS,
    VERSION,
    Toolchain,
)
from slipway.export.toolchain.selftest import SelfTestResult, self_test
from slipway.export.toolchain.variants import Variant, ladder

OnProgress = Callable[[str, float | None, float | None], None]
"""Progress: stage ("download", "extract", "build", "test"), part done 0..1, seconds left."""

NEEDED_BYTES = 1_200_000_000
"""Free disk space a build takes at its height."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps that do real work; tests put their own in."""

    fetch: Callable[[Home, OnProgress], Path]
    build: Callable[[Home, Path, Variant, int, OnProgress], Path]
    test: Callable[[Toolchain], SelfTestResult]


def install_toolchain(
    home: Home,
    *,
    events: EventLog | None = None,
    on_progress: OnProgress | None = None,
    jobs: int | None = None,
    steps: Steps | None = None,
) -> Toolchain:
    """Return a toolchain that passed its self-test, building one when there is none.

    Looks at the folder in SLIPWAY_TOOLCHAIN (tested here), the programs on PATH (of the pinned
    release or newer, with the converter beside them, tested), `home.toolchains`, and last builds
    llama.cpp from source. A killed build goes on where it was at the next call; a second process
    waits for the first. Official prebuilt archives are not tried: their digests are not pinned.

    Args:
        jobs: compilers at once; default is one for each core.
        steps: replaces the working steps in tests.

    Raises:
        ResourceError: no compiler or CMake, too little disk.
        UnreachableError: the source archive cannot be fetched.
        ProofError: no variant passes the self-test, or the configured folder does not.
    """
    log = events or EventLog(None)
    steps = steps or Steps(_fetch, _build, self_test)

    def report(stage: str, fraction: float | None = None, left_s: float | None = None) -> None:
        log.emit("progress", stage=stage, fraction=fraction, eta_s=left_s)
        if on_progress:
            on_progress(stage, fraction, left_s)

    if (chosen := configured()) is not None:
        report("test")
        _require_passed(chosen, steps.test(chosen))
        return chosen
    if (found := tested_on_path(home) or _test_path(home, steps, report)) is not None:
        return found
    if (found := installed(home)) is not None and found.version == VERSION:
        return found
    with locked(home.toolchains / "install"):
        if (found := installed(home)) is not None and found.version == VERSION:
            return found  # another process built it while we waited
        toolchain = _build_ladder(home, steps, report, log, jobs or probe().cores)
        shutil.rmtree(home.cache / "llama.cpp", ignore_errors=True)
        return toolchain


def _require_passed(toolchain: Toolchain, result: SelfTestResult) -> None:
    if not result.passed:
        raise ProofError(
            "toolchain.self_test",
            tr(
                "the tools in {folder} fail the self-test: {failures}",
                folder=str(toolchain.folder),
                failures="; ".join(f"{name}: {why}" for name, why in result.failures.items()),
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
    reason = "; ".join(f"{name}: {why}" for name, why in result.failures.items())
    remember_path(home, candidate, passed=result.passed, reason=reason)
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
    builder.find_build_tools()  # no compiler: say so before 77 MB are fetched
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
    home: Home, steps: Steps, report: OnProgress, log: EventLog, jobs: int
) -> Toolchain:
    """Build variants from the fastest on until one passes its test; keep why others did not."""
    started = time.monotonic()
    tree = steps.fetch(home, report)
    rejected: dict[str, dict[str, str]] = {}
    for variant in ladder(probe().cpu_flags):
        report("build", 0.0, None)
        programs = steps.build(home, tree, variant, jobs, report)
        report("test", None, None)
        built = Toolchain(programs.parent, programs, tree, VERSION, "native", (), variant.name)
        result = steps.test(built)
        if result.passed:
            seconds = time.monotonic() - started
            return _keep(home, built, variant, result, rejected, seconds)
        rejected[variant.name] = result.failures
        log.emit("log", level="warning", variant=variant.name, failures=result.failures)
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


def _keep(
    home: Home,
    built: Toolchain,
    variant: Variant,
    result: SelfTestResult,
    rejected: dict[str, dict[str, str]],
    seconds: float,
) -> Toolchain:
    """Move the programs and the converter to `home.toolchains` and write the record."""
    name = f"llama.cpp-{LLAMA_COMMIT}-{variant.name}"
    final = home.toolchains / name
    try:
        with new_folder(final) as folder:
            (folder / "bin").mkdir()
            for program in (*PROGRAMS, *EXTRA_PROGRAMS):
                if (path := built.bin / program).is_file():
                    shutil.copy2(path, folder / "bin" / program)
            source.copy_converter(built.source, folder / "source")
            why = (
                f"fastest variant; passed in {result.seconds:.1f} s"
                if not rejected
                else f"faster variants failed their self-test: {', '.join(rejected)}"
            )
            write_manifest(
                folder,
                "toolchain",
                name,
                config={"variant": Setting(variant.name, "measured")},
                versions={**package_versions(), "llama.cpp": VERSION},
                metrics={"seconds": round(seconds, 1), "self_test_s": round(result.seconds, 2)},
                notes={
                    "variant": variant.name,
                    "flags": [flag for flag in variant.cmake_flags() if not flag.endswith("=")],
                    "why": why,
                    "rejected": rejected,
                    "cpu": probe().cpu,
                    "source": f"{source.ARCHIVE} sha256:{source.ARCHIVE_SHA256}",
                },
            )
    except OSError as error:
        raise from_os_error(error, final) from error
    flags = variant.cmake_flags()
    return Toolchain(final, final / "bin", final / "source", VERSION, "native", flags, variant.name)
