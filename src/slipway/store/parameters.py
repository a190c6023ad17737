"""The generation and load options of a model: the names of Ollama's `PARAMETER` and `options`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

ParameterKind = Literal["int", "float", "bool", "strings"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One option: what kind of value it takes and whether it still does anything.

    Attributes:
        kind: how the value is read; `strings` may be given several times.
        load: it is fixed when the model is loaded (else it belongs to one request).
        dead: Ollama dropped it; it is accepted with a warning and has no effect.
    """

    kind: ParameterKind
    load: bool = False
    dead: bool = False


PARAMETERS: dict[str, Parameter] = {
    "num_ctx": Parameter("int", load=True),
    "num_parallel": Parameter("int", load=True),
    "num_batch": Parameter("int", load=True),
    "num_gpu": Parameter("int", load=True),
    "main_gpu": Parameter("int", load=True),
    "num_thread": Parameter("int", load=True),
    "use_mmap": Parameter("bool", load=True),
    "num_keep": Parameter("int"),
    "num_predict": Parameter("int"),
    "seed": Parameter("int"),
    "temperature": Parameter("float"),
    "top_k": Parameter("int"),
    "top_p": Parameter("float"),
    "min_p": Parameter("float"),
    "typical_p": Parameter("float"),
    "repeat_last_n": Parameter("int"),
    "repeat_penalty": Parameter("float"),
    "presence_penalty": Parameter("float"),
    "frequency_penalty": Parameter("float"),
    "mirostat": Parameter("int"),
    "mirostat_tau": Parameter("float"),
    "mirostat_eta": Parameter("float"),
    "stop": Parameter("strings"),
    "penalize_newline": Parameter("bool", dead=True),
    "low_vram": Parameter("bool", dead=True),
    "f16_kv": Parameter("bool", dead=True),
    "logits_all": Parameter("bool", dead=True),
    "vocab_only": Parameter("bool", dead=True),
    "use_mlock": Parameter("bool", dead=True),
    "numa": Parameter("bool", dead=True),
}


def parse_value(kind: ParameterKind, text: str) -> Any:
    """Read a Modelfile value.

    Raises:
        ValueError: `text` is not of that kind.
    """
    match kind:
        case "int":
            return int(text)
        case "float":
            return float(text)
        case "bool":
            if text.lower() in ("true", "1"):
                return True
            if text.lower() in ("false", "0"):
                return False
            raise ValueError(text)
        case "strings":
            return text


def check_value(kind: ParameterKind, value: Any) -> Any:
    """Check and normalise a value that came as JSON.

    Raises:
        ValueError: it is not of that kind.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match kind:
        case "int" if number and value == int(value):
            return int(value)
        case "float" if number:
            return float(value)
        case "bool" if isinstance(value, bool):
            return value
        case "strings" if isinstance(value, str):
            return [value]
        case "strings" if isinstance(value, list) and all(isinstance(v, str) for v in value):
            return value
    raise ValueError(value)


def format_parameters(parameters: dict[str, Any]) -> str:
    """Lines as Ollama's `show` prints them: the name padded to 30 columns, strings quoted."""
    lines = []
    for name, value in parameters.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str):
                shown = f'"{item}"'
            elif isinstance(item, bool):
                shown = str(item).lower()
            else:
                shown = f"{item:g}" if isinstance(item, float) else str(item)
            lines.append(f"{name:<30} {shown}")
    return "\n".join(lines)
