"""A fake llama.cpp: shell scripts named like its programs, laid out as an installed toolchain."""

from __future__ import annotations

from pathlib import Path

PROGRAMS = (
    "llama-quantize",
    "llama-perplexity",
    "llama-bench",
    "llama-server",
    "llama-tokenize",
    "llama-imatrix",
    "llama-gguf-split",
)

CRASH_SIGILL = "kill -ILL $$"
"""A script that dies as a program does on an instruction that the processor does not know."""


class FakeToolchain:
    """A folder with `bin/<program>` scripts and `source/` with a converter.

    Args:
        folder: where to write it.
        converter: Python source of `convert_hf_to_gguf.py`.
        scripts: program -> body of its shell script; those not named succeed and print nothing.
    """

    def __init__(self, folder: Path, *, converter: str = "", **scripts: str) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.source = folder / "source"
        self.bin.mkdir(parents=True, exist_ok=True)
        (self.source / "gguf-py").mkdir(parents=True, exist_ok=True)
        (self.source / "conversion").mkdir(exist_ok=True)
        for name in ("convert_lora_to_gguf.py", "LICENSE"):
            (self.source / name).write_text("", encoding="utf-8")
        (self.source / "convert_hf_to_gguf.py").write_text(converter, encoding="utf-8")
        for program in PROGRAMS:
            self.script(program, scripts.get(program.replace("-", "_"), "exit 0"))

    def script(self, program: str, body: str) -> Path:
        """Write one program anew."""
        path = self.bin / program
        path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        path.chmod(0o755)
        return path
