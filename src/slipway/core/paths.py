"""Where Slipway keeps its state: `SLIPWAY_HOME`, default `~/.slipway`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Home:
    """The folders below SLIPWAY_HOME; nothing is created until somebody writes."""

    root: Path

    @classmethod
    def current(cls) -> Home:
        """The home named by SLIPWAY_HOME, read afresh at each call."""
        value = os.environ.get("SLIPWAY_HOME", "")
        return cls(Path(value).expanduser().resolve() if value else Path.home() / ".slipway")

    @property
    def bases(self) -> Path:
        """Pulled base models as Hugging Face folders, one each."""
        return self.root / "bases"

    @property
    def runs(self) -> Path:
        """Training runs, one folder each."""
        return self.root / "runs"

    @property
    def runs_db(self) -> Path:
        """The index of runs and their queue, an SQLite file."""
        return self.root / "runs.db"

    @property
    def artefacts(self) -> Path:
        """Merged models, GGUF files and quants, one folder each."""
        return self.root / "artefacts"

    @property
    def models(self) -> Path:
        """The model store, laid out as Ollama's; SLIPWAY_MODELS may name Ollama's own."""
        value = os.environ.get("SLIPWAY_MODELS", "")
        return Path(value).expanduser().resolve() if value else self.root / "models"

    @property
    def toolchains(self) -> Path:
        """Installed llama.cpp builds, one folder per version and variant."""
        return self.root / "toolchains"

    @property
    def cache(self) -> Path:
        """Downloads and other things that can be made again."""
        return self.root / "cache"

    @property
    def token_cache(self) -> Path:
        """Tokenised datasets, one folder each, named by what they were made from."""
        return self.cache / "tokens"

    @property
    def gateway_db(self) -> Path:
        """The gateway's SQLite file."""
        return self.root / "gateway" / "gateway.db"

    @property
    def services(self) -> Path:
        """One JSON file for each background service: pid, port, log."""
        return self.root / "services"

    @property
    def logs(self) -> Path:
        """Log files of services and engine workers."""
        return self.root / "logs"
