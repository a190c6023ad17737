"""Which GPU backends a build should have: decided from what was seen, so tested without a GPU."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slipway.core.errors import ResourceError
from slipway.core.i18n import Text, tr

Gpu = Literal["cuda", "metal", "vulkan"]
GPUS: tuple[Gpu, ...] = ("cuda", "metal", "vulkan")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a machine has.

    Attributes:
        system: `platform.system()`.
        machine: `platform.machine()`.
        nvidia: whether the NVIDIA driver is loaded.
        nvcc: CUDA's compiler.
        vulkan: whether a graphics device and a Vulkan driver for it are there.
        glslc: the compiler of Vulkan's shaders.
        vulkan_headers: whether Vulkan's headers are there.
    """

    system: str
    machine: str
    nvidia: bool = False
    nvcc: str | None = None
    vulkan: bool = False
    glslc: str | None = None
    vulkan_headers: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """Whether a backend is built, and why."""

    gpu: Gpu
    use: bool
    why: Text


def look() -> Seen:
    """Look at this machine: files and PATH only, no program is run."""
    roots = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    bins = [Path(root) / "bin" for root in [*roots, "/usr/local/cuda"] if root]
    nvcc = shutil.which("nvcc") or next(
        (found for path in bins if (found := shutil.which("nvcc", path=str(path)))), None
    )
    sdk = os.environ.get("VULKAN_SDK")
    includes = [Path("/usr/include"), Path("/usr/local/include")]
    includes += [Path(sdk) / "include"] if sdk else []
    return Seen(
        system=platform.system(),
        machine=platform.machine(),
        nvidia=Path("/proc/driver/nvidia/version").exists() or bool(shutil.which("nvidia-smi")),
        nvcc=nvcc,
        vulkan=_has_vulkan(),
        glslc=shutil.which("glslc"),
        vulkan_headers=any((path / "vulkan" / "vulkan.h").is_file() for path in includes),
    )


def _has_vulkan() -> bool:
    drivers = [
        path
        for folder in ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d")
        for path in Path(folder).glob("*.json")
        if not path.name.startswith(("lvp", "lavapipe"))  # computes on the CPU, slower than ggml
    ]
    return bool(drivers) and any(Path("/dev/dri").glob("renderD*"))


def choose(seen: Seen, wanted: Mapping[Gpu, bool] | None = None) -> list[Choice]:
    """Decide on each backend.

    Without a wish a backend is built when its device and its compiler are there; Vulkan only where
    neither CUDA nor Metal is.

    Args:
        wanted: backend -> True (build it, whatever was seen of the device) or False (do not).

    Raises:
        ResourceError: a backend was asked for whose compiler is not there.
    """
    wishes = wanted or {}
    choices: list[Choice] = []
    for gpu in GPUS:
        wish = wishes.get(gpu)
        missing = _missing_compiler(gpu, seen)
        if wish is False:
            choices.append(Choice(gpu, False, tr("switched off by an option")))
        elif wish and missing:
            raise ResourceError(
                "toolchain.no_gpu_compiler",
                tr("building for {gpu} needs {programs}", gpu=gpu, programs=missing),
                tr("install what is missing, or leave out `--{gpu}`", gpu=gpu),
            )
        elif wish:
            choices.append(Choice(gpu, True, tr("switched on by an option")))
        else:
            choices.append(_by_sight(gpu, seen, missing, [c.gpu for c in choices if c.use]))
    return choices


def _by_sight(gpu: Gpu, seen: Seen, missing: str, chosen: list[Gpu]) -> Choice:
    device = {"cuda": seen.nvidia, "metal": _has_metal(seen), "vulkan": seen.vulkan}[gpu]
    if not device:
        return Choice(gpu, False, tr("no device for it was found"))
    if gpu == "vulkan" and chosen:
        return Choice(gpu, False, tr("{gpu} is there and faster", gpu=chosen[0]))
    if missing:
        return Choice(gpu, False, tr("a device is there, but not {programs}", programs=missing))
    return Choice(gpu, True, tr("its device and its compiler are there"))


def _has_metal(seen: Seen) -> bool:
    return seen.system == "Darwin" and seen.machine == "arm64"


def _missing_compiler(gpu: Gpu, seen: Seen) -> str:
    """What a build for this backend lacks; "" when nothing."""
    match gpu:
        case "cuda":
            return "" if seen.nvcc else "nvcc"
        case "metal":
            return "" if seen.system == "Darwin" else "macOS"
        case "vulkan":
            parts = [] if seen.glslc else ["glslc"]
            parts += [] if seen.vulkan_headers else ["vulkan/vulkan.h"]
            return ", ".join(parts)
