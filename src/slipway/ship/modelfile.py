"""The Modelfile of a model that was trained here: its system prompt and its options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

Parameters = Sequence[tuple[str, str]]


def modelfile_text(
    source: Path, system: str, parameters: Parameters = (), adapter: Path | None = None
) -> str:
    """A Modelfile that reads back as the same system prompt and options.

    Args:
        source: what FROM names: a GGUF, or an artefact folder that holds one.
        system: the system prompt; empty for none.
        adapter: what ADAPTER names; None for no such line.
        parameters: PARAMETER names with their values; `stop` may come several times.
    """
    lines = [f"FROM {source}"]
    lines += [f"ADAPTER {adapter}"] if adapter else []
    lines += [f"PARAMETER {name} {_quoted(value)}" for name, value in parameters]
    if system:
        # A Modelfile has no escapes: a text with triple quotes can only stand bare, on one line.
        bare = '"""' in system
        lines.append(f"SYSTEM {' '.join(system.split())}" if bare else f'SYSTEM """{system}"""')
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    """A value with a line's end or spaces around it needs quotes; a number must have none."""
    plain = value == value.strip() and "\n" not in value and not value.startswith('"')
    return value if plain and value else f'"""{value}"""'
