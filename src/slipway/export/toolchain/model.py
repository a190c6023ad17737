"""What a llama.cpp toolchain is, and which release of it Slipway stands on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slipway.core.errors import NotFoundError
from slipway.core.i18n import tr

Provider = Literal["configured", "path", "cache", "prebuilt", "native"]
"""Where the programs come from: a folder the user named, PATH, an earlier install, an official
archive, or a build made just now."""

State = Literal["tested", "other_cpu", "failed"]
"""Whether programs are known to compute on this processor: tested on one with the same features,
tested on another only, or seen failing here."""

LLAMA_VERSION = (0, 5, 0)
LLAMA_COMMIT = "0c1e57098"
VERSION = f"{'.'.join(map(str, LLAMA_VERSION))}-{LLAMA_COMMIT}"

PROGRAMS = (
    "llama-quantize",
    "llama-perplexity",
    "llama-bench",
    "llama-server",
    "llama-tokenize",
)
"""Programs without which a folder is no toolchain."""

EXTRA_PROGRAMS = (
    "llama-imatrix",
    "llama-gguf-split",
    "llama-cli",
    "llama-completion",
    "llama-batched-bench",
)
"""Programs that our own builds have, and that are used where they are there."""

CONVERTER = "convert_hf_to_gguf.py"
LORA_CONVERTER = "convert_lora_to_gguf.py"


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A usable set of llama.cpp's own programs.

    Attributes:
        folder: the folder it is known by.
        bin: folder of the programs.
        source: folder of the converter scripts and of `gguf-py`.
        version: llama.cpp's version and commit, such as "0.5.0-0c1e57098".
        provider: where it comes from.
        flags: compiler or CMake settings it was built with; empty when unknown.
        variant: which processor features it was built for ("native", "native-noamx", "avx2", ...);
            "unknown" for programs that Slipway did not build.
        state: whether the programs are known to compute on this processor.
    """

    folder: Path
    bin: Path
    source: Path
    version: str
    provider: Provider
    flags: tuple[str, ...] = ()
    variant: str = "unknown"
    state: State = "tested"

    def program(self, name: str) -> Path:
        """The path of a program such as "llama-quantize".

        Raises:
            NotFoundError: this toolchain has no such program.
        """
        path = self.bin / name
        if not path.is_file():
            raise self._lacks(name)
        return path

    def _lacks(self, name: str) -> NotFoundError:
        return NotFoundError(
            "toolchain.no_program",
            tr("the toolchain in {folder} has no {program}", folder=self.folder, program=name),
            tr("build a complete one with `slipway toolchain build`"),
        )

    @property
    def converter(self) -> Path:
        """`convert_hf_to_gguf.py`."""
        return self.source / CONVERTER

    @property
    def lora_converter(self) -> Path:
        """`convert_lora_to_gguf.py`; it stands beside the converter, whose code it uses.

        Raises:
            NotFoundError: this toolchain has none.
        """
        path = self.source / LORA_CONVERTER
        if not path.is_file():
            raise self._lacks(LORA_CONVERTER)
        return path

    @property
    def gguf_py(self) -> Path:
        """The folder to put on PYTHONPATH so that the converter finds its own `gguf` package."""
        return self.source / "gguf-py"

    @property
    def server(self) -> Path:
        """`llama-server`."""
        return self.program("llama-server")
