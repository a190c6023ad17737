"""Official prebuilt archives: checked, unpacked safely, tested, recorded."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from slipway.core.errors import (
    InputError,
    NotFoundError,
    ProofError,
    ResourceError,
    UsageError,
)
from slipway.core.files import sha256_file
from slipway.core.manifest import read_manifest
from slipway.core.paths import Home
from slipway.export.toolchain import Toolchain, archive, find_toolchain
from slipway.export.toolchain.archive import install_archive, unpack
from slipway.export.toolchain.find import pinned
from slipway.testing.toolchain import CRASH_SIGILL, FakeToolchain


@pytest.fixture(autouse=True)
def no_other_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slipway.export.toolchain.find.candidate_on_path", lambda: None)


def tar_of(path: Path, members: list[tuple[str, bytes, str]]) -> Path:
    """A tar.gz of (name, content, link target); "" is a plain file."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content, link in members:
            info = tarfile.TarInfo(name)
            if link:
                info.type, info.linkname = tarfile.SYMTYPE, link
            info.size = 0 if link else len(content)
            info.mode = 0o755
            tar.addfile(info, io.BytesIO(content))
    return path


def zip_of(path: Path, members: list[tuple[str, bytes, str]]) -> Path:
    with zipfile.ZipFile(path, "w") as zipped:
        for name, content, link in members:
            info = zipfile.ZipInfo(name)
            mode = stat.S_IFLNK | 0o777 if link else stat.S_IFREG | 0o644
            info.external_attr = mode << 16
            zipped.writestr(info, link or content)
    return path


MAKERS = {"tar.gz": tar_of, "zip": zip_of}


@pytest.mark.parametrize("kind", MAKERS)
def test_programs_are_executable_and_links_inside_are_kept(tmp_path: Path, kind: str) -> None:
    members = [
        ("llama-b1/llama-bench", b"#!/bin/sh\n", ""),
        ("llama-b1/libggml.so.0", b"library", ""),
        ("llama-b1/libggml.so", b"", "libggml.so.0"),
    ]
    unpack(MAKERS[kind](tmp_path / f"a.{kind}", members), tmp_path / "out")
    folder = tmp_path / "out" / "llama-b1"
    assert (folder / "llama-bench").stat().st_mode & 0o100
    assert (folder / "libggml.so").read_bytes() == b"library"


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("../evil", ""),
        ("a/../../evil", ""),
        ("a/link", "../../evil"),
        ("a/link", "/etc/passwd"),
    ],
)
def test_nothing_can_land_or_lead_outside(tmp_path: Path, kind: str, name: str, link: str) -> None:
    bad = MAKERS[kind](tmp_path / f"a.{kind}", [(name, b"!", link)])
    with pytest.raises(ProofError) as caught:
        unpack(bad, tmp_path / "deep" / "out")
    assert caught.value.code == "toolchain.unsafe_archive"
    assert not list(tmp_path.rglob("evil"))


def test_absolute_names_and_files_through_links_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ProofError):
        unpack(zip_of(tmp_path / "a.zip", [("/evil", b"!", "")]), tmp_path / "one")
    through = [("d/up", b"", "."), ("d/up/file", b"fine", "")]
    unpack(zip_of(tmp_path / "b.zip", through), tmp_path / "two")  # a link that stays inside
    assert (tmp_path / "two" / "d" / "file").read_bytes() == b"fine"


def test_archive_larger_than_any_official_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 10)
    bomb = zip_of(tmp_path / "a.zip", [("x", b"0" * 1000, "")])
    with pytest.raises(ResourceError):
        unpack(bomb, tmp_path / "out")


def test_what_is_no_archive_or_is_cut_short_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"hello")
    with pytest.raises(InputError, match="neither"):
        unpack(tmp_path / "x.zip", tmp_path / "out")
    whole = tar_of(tmp_path / "a.tar.gz", [("f", bytes(range(256)) * 500, "")])
    (tmp_path / "cut.tar.gz").write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(InputError):
        unpack(tmp_path / "cut.tar.gz", tmp_path / "out2")


def test_address_needs_a_digest_and_a_digest_has_64_digits(home: Home, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="digest"):
        install_archive(home, "https://example.invalid/llama.zip")
    with pytest.raises(UsageError, match="SHA-256"):
        install_archive(home, "https://example.invalid/llama.zip", sha256="abc")
    with pytest.raises(NotFoundError):
        install_archive(home, str(tmp_path / "none.zip"))


def test_other_digest_is_refused_before_anything_is_unpacked(home: Home, tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", [("x", b"0", "")])
    with pytest.raises(ProofError, match="SHA-256"):
        install_archive(home, str(path), sha256="0" * 64)
    assert find_toolchain(home) is None


def test_archive_without_the_programs_names_them(home: Home, tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", [("bin/llama-bench", b"x", "")])
    with pytest.raises(InputError, match="llama-quantize"):
        install_archive(home, str(path))


def archive_of(tools: Toolchain, path: Path, **scripts: str) -> Path:
    """The real programs behind scripts, laid out as an official archive with a converter."""
    fake = FakeToolchain(path / "fake", **scripts)
    members = []
    for program in sorted(fake.bin.iterdir()):
        body = program.read_bytes()
        if program.name.replace("-", "_") not in scripts:
            body = f'#!/bin/sh\nexec "{tools.bin / program.name}" "$@"\n'.encode()
        members.append((f"llama-b1/{program.name}", body, ""))
    for part in sorted(tools.source.rglob("*")):
        if part.is_file() and part.suffix in {".py", ""}:
            name = f"llama-b1/src/{part.relative_to(tools.source)}"
            members.append((name, part.read_bytes(), ""))
    return tar_of(path / "llama-b1-bin.tar.gz", members)


def test_prebuilt_archive_is_tested_recorded_and_used(
    tools: Toolchain, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive_of(tools, tmp_path)
    monkeypatch.delenv("SLIPWAY_TOOLCHAIN")
    digest = sha256_file(path)
    made = install_archive(home, str(path), sha256=f"sha256:{digest.upper()}")
    found = find_toolchain(home)
    assert found is not None and found.folder == made.folder and found.variant == "prebuilt"
    assert pinned(home) == made.folder.name and found.version == tools.version
    notes = read_manifest(made.folder, kind="toolchain").notes
    assert digest in notes["source"] and notes["features"]
    assert not list(home.cache.glob("prebuilt-*"))


def test_prebuilt_archive_that_crashes_here_is_not_installed(
    tools: Toolchain, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive_of(tools, tmp_path, llama_bench=CRASH_SIGILL)
    monkeypatch.delenv("SLIPWAY_TOOLCHAIN")
    with pytest.raises(ProofError, match="SIGILL in llama-bench"):
        install_archive(home, str(path))
    assert find_toolchain(home) is None and pinned(home) is None
