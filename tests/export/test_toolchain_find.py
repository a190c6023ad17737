from __future__ import annotations

import os
from pathlib import Path

import pytest

from slipway.core.errors import NotFoundError, ResourceError, UsageError
from slipway.core.manifest import write_manifest
from slipway.core.paths import Home
from slipway.export.toolchain import find_toolchain, require_toolchain
from slipway.export.toolchain.find import candidate_on_path, remember_path
from slipway.export.toolchain.model import (
    CONVERTER,
    LLAMA_COMMIT,
    LORA_CONVERTER,
    PROGRAMS,
    VERSION,
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv("SLIPWAY_TOOLCHAIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    return Home(tmp_path / "home")


def fill(folder: Path, bin_name: str = "bin", source_name: str = "source") -> None:
    (folder / bin_name).mkdir(parents=True, exist_ok=True)
    (folder / source_name).mkdir(parents=True, exist_ok=True)
    for program in PROGRAMS:
        path = folder / bin_name / program
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    (folder / source_name / CONVERTER).write_text("")


def install(home: Home, name: str, version: str = VERSION) -> Path:
    folder = home.toolchains / name
    fill(folder)
    write_manifest(
        folder,
        "toolchain",
        name,
        versions={"llama.cpp": version},
        notes={"variant": "native", "flags": ["-DGGML_NATIVE=ON"]},
    )
    return folder


def test_nothing_is_found_in_an_empty_home(home: Home) -> None:
    assert find_toolchain(home) is None
    with pytest.raises(ResourceError) as caught:
        require_toolchain(home)
    assert "slipway toolchain install" in caught.value.hint_en
    assert not home.root.exists()


def test_installed_toolchain_is_found_with_its_record(home: Home) -> None:
    folder = install(home, "a")
    found = find_toolchain(home)
    assert found is not None
    assert (found.folder, found.provider, found.variant) == (folder, "cache", "native")
    assert found.server == folder / "bin" / "llama-server"
    assert LLAMA_COMMIT in found.version and found.flags == ("-DGGML_NATIVE=ON",)
    with pytest.raises(NotFoundError):
        found.program("llama-nothing")


def test_adapter_converter_stands_beside_the_converter(home: Home) -> None:
    folder = install(home, "a")
    found = find_toolchain(home)
    assert found is not None
    with pytest.raises(NotFoundError, match=r"convert_lora_to_gguf\.py"):
        _ = found.lora_converter
    (folder / "source" / LORA_CONVERTER).write_text("")
    assert found.lora_converter.parent == found.converter.parent


def test_pinned_release_wins_over_another(home: Home) -> None:
    install(home, "a")
    install(home, "z", version="0.9.0-other")
    found = find_toolchain(home)
    assert found is not None and found.version == VERSION


def test_damaged_install_is_not_used(home: Home) -> None:
    folder = install(home, "a")
    (folder / "bin" / "llama-bench").unlink()
    assert find_toolchain(home) is None


def test_unreadable_manifest_is_not_used(home: Home) -> None:
    folder = install(home, "a")
    (folder / "manifest.json").write_text("{")
    assert find_toolchain(home) is None


def test_configured_folder_comes_first(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(home, "a")
    checkout = tmp_path / "llama.cpp"
    fill(checkout, "build/bin", ".")
    monkeypatch.setenv("SLIPWAY_TOOLCHAIN", str(checkout))
    found = find_toolchain(home)
    assert found is not None
    assert (found.provider, found.bin, found.source) == (
        "configured",
        checkout / "build/bin",
        checkout,
    )


def test_incomplete_configured_folder_names_what_is_missing(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "mine")
    (tmp_path / "mine" / "bin" / "llama-quantize").unlink()
    monkeypatch.setenv("SLIPWAY_TOOLCHAIN", str(tmp_path / "mine"))
    with pytest.raises(UsageError, match="llama-quantize") as caught:
        find_toolchain(home)
    assert caught.value.code == "toolchain.incomplete"


def test_programs_on_path_are_used_only_after_a_passed_test_of_the_same_files(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "opt")
    monkeypatch.setenv("PATH", str(tmp_path / "opt" / "bin"))
    assert find_toolchain(home) is None
    candidate = candidate_on_path()
    assert candidate is not None and candidate.converter.is_file()

    remember_path(home, candidate, passed=False, reason="SIGILL")
    assert find_toolchain(home) is None
    remember_path(home, candidate, passed=True, reason="")
    found = find_toolchain(home)
    assert found is not None and found.provider == "path"

    os.utime(tmp_path / "opt" / "bin" / "llama-server", (1, 1))
    assert find_toolchain(home) is None
