from __future__ import annotations

import io
import platform
import tarfile
from pathlib import Path

import pytest

from slipway.core.errors import ProofError, ResourceError, ToolError, UsageError
from slipway.core.events import EventLog
from slipway.core.manifest import read_manifest
from slipway.core.paths import Home
from slipway.export.quantise import quant_types
from slipway.export.toolchain import (
    Toolchain,
    find_toolchain,
    install_toolchain,
    require_toolchain,
)
from slipway.export.toolchain import build_tools as build_module
from slipway.export.toolchain.build import parse_progress
from slipway.export.toolchain.build_tools import find_build_tools
from slipway.export.toolchain.cpu import stamp_here
from slipway.export.toolchain.find import all_installed, pin
from slipway.export.toolchain.gpu import Seen
from slipway.export.toolchain.install import (
    BuildWish,
    OnProgress,
    Steps,
    build_toolchain,
    new_enough,
    program_version,
)
from slipway.export.toolchain.selftest import MATRIX_TYPES, TYPES, SelfTestResult, self_test
from slipway.export.toolchain.source import extract
from slipway.export.toolchain.status import describe
from slipway.export.toolchain.variants import Variant, ladder
from slipway.testing.toolchain import CRASH_SIGILL, FakeToolchain


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv("SLIPWAY_TOOLCHAIN", raising=False)
    monkeypatch.setattr(
        "slipway.export.toolchain.install.candidate_on_path", lambda: None, raising=True
    )
    monkeypatch.setattr("slipway.export.toolchain.find.candidate_on_path", lambda: None)
    return Home(tmp_path / "home")


class FakeBuilds:
    """Builds whose benchmark dies with SIGILL for the variants named, and a test that runs it."""

    def __init__(self, tmp_path: Path, crashing: set[str]) -> None:
        self.tmp_path = tmp_path
        self.crashing = crashing
        self.built: list[str] = []

    def steps(self) -> Steps:
        return Steps(self.fetch, self.build, self.test)

    def fetch(self, home: Home, report: OnProgress) -> Path:
        return FakeToolchain(self.tmp_path / "tree").source

    def build(
        self, home: Home, tree: Path, variant: Variant, jobs: int, report: OnProgress
    ) -> Path:
        self.built.append(variant.name)
        body = CRASH_SIGILL if variant.name in self.crashing else "exit 0"
        return FakeToolchain(self.tmp_path / variant.name, llama_bench=body).bin

    def test(self, toolchain: Toolchain) -> SelfTestResult:
        from slipway.core import process
        from slipway.core.errors import ToolError

        try:
            process.run([toolchain.program("llama-bench")])
        except ToolError as error:
            return SelfTestResult(False, {"Q8_0": error.message_en}, 0.0)
        return SelfTestResult(True, {}, 0.0)


def quiet_gguf(toolchain: Toolchain) -> None:
    """A `gguf` package that ends the program: no model is needed to crash."""
    gguf = toolchain.gguf_py / "gguf"
    gguf.mkdir(parents=True)
    (gguf / "__init__.py").write_text("raise SystemExit(0)\n")


def borrowed(tools: Toolchain, folder: Path) -> FakeToolchain:
    """A fake with the real quantiser, benchmark and `gguf` package."""
    fake = FakeToolchain(folder)
    gguf_py = fake.source / "gguf-py"
    gguf_py.rmdir()
    gguf_py.symlink_to(tools.gguf_py)
    for name in ("llama-quantize", "llama-bench", "llama-perplexity"):
        fake.script(name, f'exec "{tools.program(name)}" "$@"')
    return fake


SAFEST = "portable" if platform.machine() in ("arm64", "aarch64") else "baseline"


def test_build_that_crashes_is_replaced_by_the_next_variant(home: Home, tmp_path: Path) -> None:
    builds = FakeBuilds(tmp_path, {"native"})
    events: list[dict[str, object]] = []
    made = install_toolchain(home, events=EventLog(None, events.append), steps=builds.steps())
    assert len(builds.built) == 2 and made.variant == builds.built[1]
    manifest = read_manifest(made.folder, kind="toolchain")
    assert "SIGILL" in manifest.notes["rejected"]["native"]["Q8_0"]
    assert "native" in manifest.notes["why"]
    assert any(event["type"] == "log" and event["variant"] == "native" for event in events)

    found = find_toolchain(home)
    assert found is not None and found.folder == made.folder
    assert "SIGILL" in describe(found)["rejected"]["native"]["Q8_0"]


def test_good_build_is_kept_and_not_built_again(home: Home, tmp_path: Path) -> None:
    builds = FakeBuilds(tmp_path, set())
    install_toolchain(home, steps=builds.steps())
    again = install_toolchain(home, steps=builds.steps())
    assert builds.built == ["native"] and again.provider == "cache"


def crash(toolchain: Toolchain) -> None:
    """What an installed toolchain does after its processor lost a feature."""
    FakeToolchain(toolchain.folder, llama_bench=CRASH_SIGILL)


def test_installed_build_that_begins_to_crash_is_replaced_by_the_next_variant(
    home: Home, tmp_path: Path
) -> None:
    builds = FakeBuilds(tmp_path, set())
    first = install_toolchain(home, steps=builds.steps())
    crash(first)
    again = install_toolchain(home, steps=builds.steps(), recheck=True)
    assert builds.built == ["native", again.variant] and again.variant != "native"
    assert "SIGILL" in describe(again)["rejected"]["native"]["Q8_0"]
    found = find_toolchain(home)
    assert found is not None and found.folder == again.folder
    assert {item.name: item.toolchain.state for item in all_installed(home)} == {
        again.folder.name: "tested",
        first.folder.name: "failed",
    }


def on_other_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("Another CPU", frozenset({"avx2", "avx_vnni"}))
    monkeypatch.setattr("slipway.export.toolchain.cpu.processor", lambda: flags)


def test_home_on_another_processor_is_tested_before_use_and_built_anew_beside(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = FakeBuilds(tmp_path, set())
    first = install_toolchain(home, steps=builds.steps())
    on_other_processor(monkeypatch)
    found = find_toolchain(home)
    assert found is not None and found.state == "other_cpu"

    assert install_toolchain(home, steps=builds.steps()).state == "tested"
    assert builds.built == ["native"]  # it passes there too: nothing is built

    crash(first)
    again = install_toolchain(home, steps=builds.steps(), recheck=True)
    assert builds.built == ["native", "native"] and again.folder != first.folder
    assert again.folder.name.endswith(stamp_here()) and first.folder.is_dir()


def test_tools_that_crash_on_another_processor_are_not_used(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = install_toolchain(home, steps=FakeBuilds(tmp_path, set()).steps())
    on_other_processor(monkeypatch)
    FakeToolchain(made.folder, llama_perplexity=CRASH_SIGILL)
    quiet_gguf(made)
    with pytest.raises(ResourceError, match="SIGILL in llama-perplexity") as caught:
        require_toolchain(home)
    assert caught.value.code == "toolchain.fails_here"
    assert "slipway toolchain install" in caught.value.hint_en
    assert find_toolchain(home) is None  # remembered, not tested again at each use


def test_test_that_cannot_be_run_condemns_nothing(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = install_toolchain(home, steps=FakeBuilds(tmp_path, set()).steps())
    on_other_processor(monkeypatch)
    FakeToolchain(made.folder, llama_perplexity="echo 'No space left on device'; exit 1")
    quiet_gguf(made)
    with pytest.raises(ResourceError, match="No space left"):
        require_toolchain(home)
    found = find_toolchain(home)
    assert found is not None and found.state == "other_cpu"


def test_variants_lie_side_by_side_and_the_chosen_one_is_used(home: Home, tmp_path: Path) -> None:
    builds = FakeBuilds(tmp_path, set())
    fast = install_toolchain(home, steps=builds.steps())
    safe = build_toolchain(home, BuildWish(variant=SAFEST, gpus={}), steps=builds.steps())
    assert fast.folder != safe.folder
    found = find_toolchain(home)
    assert found is not None and found.folder == fast.folder  # the faster, though older
    pin(home, safe.folder.name)
    found = find_toolchain(home)
    assert found is not None and found.folder == safe.folder
    pin(home, None)
    found = find_toolchain(home)
    assert found is not None and found.folder == fast.folder


def test_variant_asked_for_that_crashes_is_not_kept(home: Home, tmp_path: Path) -> None:
    builds = FakeBuilds(tmp_path, {SAFEST})
    with pytest.raises(ProofError, match="SIGILL"):
        build_toolchain(home, BuildWish(variant=SAFEST), steps=builds.steps())
    assert builds.built == [SAFEST] and all_installed(home) == []
    with pytest.raises(UsageError, match="natife") as caught:
        build_toolchain(home, BuildWish(variant="natife"), steps=builds.steps())
    assert "`native`" in caught.value.hint_en


@pytest.mark.parametrize("fault", ["does not compile", "fails its test"])
def test_gpu_build_that_fails_falls_back_to_the_cpu_with_the_reason_kept(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(
        "slipway.export.toolchain.install.look",
        lambda: Seen("Linux", "x86_64", nvidia=True, nvcc="/usr/local/cuda/bin/nvcc"),
    )
    builds = FakeBuilds(tmp_path, set())

    def build(home: Home, tree: Path, variant: Variant, jobs: int, report: OnProgress) -> Path:
        programs = builds.build(home, tree, variant, jobs, report)
        if variant.gpus and fault == "does not compile":
            raise ToolError("tool.failed", "nvcc fatal: Unsupported gpu architecture")
        if variant.gpus:
            FakeToolchain(programs.parent, llama_bench="echo 'CUDA error: no device'; exit 1")
        return programs

    made = install_toolchain(home, steps=Steps(builds.fetch, build, builds.test))
    assert builds.built == ["native-cuda", "native"] and made.variant == "native"
    reasons = describe(made)["rejected"]["native-cuda"]
    assert "nvcc fatal" in str(reasons) or "CUDA error" in str(reasons)


def test_compiler_fault_of_a_plain_variant_is_the_users_to_see(home: Home, tmp_path: Path) -> None:
    builds = FakeBuilds(tmp_path, set())

    def build(home: Home, tree: Path, variant: Variant, jobs: int, report: OnProgress) -> Path:
        builds.built.append(variant.name)
        raise ToolError("tool.failed", "cc1plus: out of memory")

    with pytest.raises(ToolError, match="out of memory"):
        install_toolchain(home, steps=Steps(builds.fetch, build, builds.test))
    assert "baseline" not in builds.built  # as plain as the one before: it would fail alike


def test_when_every_variant_crashes_nothing_is_installed(home: Home, tmp_path: Path) -> None:
    everything = {"native", "native-noamx", "native-avx512f", "avx2", "baseline", "portable"}
    with pytest.raises(ProofError, match="SIGILL"):
        install_toolchain(home, steps=FakeBuilds(tmp_path, everything).steps())
    assert find_toolchain(home) is None


def test_configured_tools_that_crash_are_refused(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeToolchain(tmp_path / "mine", llama_bench=CRASH_SIGILL)
    monkeypatch.setenv("SLIPWAY_TOOLCHAIN", str(fake.folder))
    with pytest.raises(ProofError, match="SIGILL"):
        install_toolchain(home, steps=FakeBuilds(tmp_path, set()).steps())


def test_self_test_reports_the_signal_that_killed_a_program(tmp_path: Path) -> None:
    fake = FakeToolchain(tmp_path, llama_perplexity=CRASH_SIGILL)
    toolchain = Toolchain(tmp_path, fake.bin, fake.source, "x", "native")
    quiet_gguf(toolchain)
    result = self_test(toolchain)
    assert not result.passed and result.conclusive
    assert result.failures["F32"].startswith("SIGILL in llama-perplexity")
    assert result.types[0].status == "crashed"


def test_crash_of_one_type_is_told_beside_those_that_pass(tools: Toolchain, tmp_path: Path) -> None:
    broken = borrowed(tools, tmp_path)
    bench = tools.program("llama-bench")
    broken.script(
        "llama-bench", f'case $* in *Q4_0.gguf*) {CRASH_SIGILL};; esac; exec "{bench}" "$@"'
    )
    toolchain = Toolchain(tmp_path, broken.bin, broken.source, "x", "native")
    result = self_test(toolchain, keep_going=True)
    states = {row.name: row.status for row in result.types}
    assert states.pop("Q4_0") == "crashed" and set(states.values()) == {"passed"}
    assert list(result.failures) == ["Q4_0"] and "SIGILL in llama-bench" in result.failures["Q4_0"]
    assert self_test(toolchain).types[-1].name == "Q4_0"  # a rebuild follows: no more is tested


def test_self_test_has_every_type_that_the_tools_offer(tools: Toolchain) -> None:
    aliases = {"Q3_K", "Q4_K", "Q5_K"}
    assert set(quant_types(tools)) - aliases - {"F32"} == {*TYPES, *MATRIX_TYPES}
    result = self_test(tools)
    assert {row.status for row in result.types} == {"passed"}
    assert result.features.get("SSE3") or result.features.get("NEON")


@pytest.mark.slow
def test_types_that_need_a_matrix_compute_too(tools: Toolchain) -> None:
    result = self_test(tools, all_types=True, keep_going=True)
    assert result.failures == {} and len(result.types) == len(TYPES) + len(MATRIX_TYPES)


def test_missing_compiler_names_it_and_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build_module.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(build_module, "_packaged", lambda name: None)
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ResourceError, match=r"g\+\+") as caught:
        find_build_tools()
    assert caught.value.code == "toolchain.no_compiler" and "install" in caught.value.hint_en


def test_without_cmake_only_the_package_is_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("make", "gcc", "g++"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build_module.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(build_module, "_packaged", lambda name: None)
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ResourceError) as caught:
        find_build_tools()
    assert "pip install cmake" in caught.value.hint_en


def archive(path: Path, names: dict[str, bytes | None]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in names.items():
            member = tarfile.TarInfo(name)
            if data is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(member)
            else:
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


TREE = "llama_cpp_python-1/vendor/llama.cpp"


def test_only_the_tree_is_extracted(tmp_path: Path) -> None:
    names: dict[str, bytes | None] = {
        f"{TREE}/convert_hf_to_gguf.py": b"x",
        f"{TREE}/src/a.cpp": b"y",
        f"{TREE}/models/big.gguf": b"z",
        f"{TREE}/../../../../evil": b"!",
        "llama_cpp_python-1/setup.py": b"s",
    }
    tree = extract(archive(tmp_path / "a.tar.gz", names), tmp_path / "out" / "tree")
    found = {str(p.relative_to(tree)) for p in tree.rglob("*") if p.is_file()}
    assert found == {"convert_hf_to_gguf.py", "src/a.cpp"}
    assert not list(tmp_path.rglob("evil"))


def test_links_in_the_archive_are_refused(tmp_path: Path) -> None:
    bad = archive(tmp_path / "a.tar.gz", {f"{TREE}/convert_hf_to_gguf.py": None})
    with pytest.raises(ProofError):
        extract(bad, tmp_path / "out" / "tree")
    assert not (tmp_path / "out" / "tree").exists()


def test_ladder_goes_from_fast_to_safe() -> None:
    spr = frozenset({"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"})
    names = [variant.name for variant in ladder(spr, "x86_64")]
    assert names == ["native", "native-noamx", "native-avx512f", "avx2", "baseline"]
    noamx = ladder(spr, "x86_64")[1]
    assert "-DCMAKE_C_FLAGS=-mno-amx-int8 -mno-amx-tile -mno-amx-bf16" in noamx.cmake_flags()
    assert [v.name for v in ladder(frozenset({"avx2"}), "x86_64")] == ["native", "avx2", "baseline"]
    assert [v.name for v in ladder(frozenset(), "aarch64")] == ["native", "portable"]


@pytest.mark.parametrize(
    ("line", "fraction"),
    [
        ("[12/240] Building CXX", 0.05),
        ("[ 40%] Building", 0.4),
        ("[100%] Built", 1.0),
        ("ld", None),
    ],
)
def test_progress_of_ninja_and_make(line: str, fraction: float | None) -> None:
    assert parse_progress(line) == fraction


def test_versions_of_programs(tmp_path: Path) -> None:
    fake = FakeToolchain(tmp_path)
    for printed, version, good in [
        ("version: 0.5.0-dev (build 1, commit 0c1e570)", "0.5.0-0c1e570", True),
        ("version: 6123 (abcdef0)", "b6123-abcdef0", False),
        ("hello", "unknown", False),
    ]:
        program = fake.script("llama-server", f"echo '{printed}'")
        assert program_version(program) == version
        assert new_enough(version) is good


def test_self_test_passes_on_good_tools_and_sees_wrong_numbers(
    tools: Toolchain, tmp_path: Path
) -> None:
    assert self_test(tools).passed

    broken = borrowed(tools, tmp_path)
    number = "case $* in *F32.gguf*) n=500;; *) n=900;; esac"
    broken.script("llama-perplexity", f'{number}; echo "Final estimate: PPL = $n +/- 1"')
    result = self_test(Toolchain(tmp_path, broken.bin, broken.source, "x", "native"))
    assert "wrong numbers" in result.failures["F16"] and result.conclusive
