"""What types there are: of whole files, as the tool lists them, and of single tensors."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence

from slipway.core.errors import ToolError, UsageError, nearest
from slipway.core.i18n import tr
from slipway.export.toolchain import Toolchain

# types that ruin a model unless a measured importance matrix says which weights matter
NEEDS_IMATRIX = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K_S"}
_NOT_OFFERED = {"COPY"}

BLOCKS: dict[str, tuple[int, int]] = {
    **{"F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "F64": (1, 8)},
    **{"I8": (1, 1), "I16": (1, 2), "I32": (1, 4), "I64": (1, 8)},
    **{"Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34)},
    **{"Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176)},
    **{"Q6_K": (256, 210), "IQ1_S": (256, 50), "IQ1_M": (256, 56), "IQ2_XXS": (256, 66)},
    **{"IQ2_XS": (256, 74), "IQ2_S": (256, 82), "IQ3_XXS": (256, 98), "IQ3_S": (256, 110)},
    **{"IQ4_XS": (256, 136), "IQ4_NL": (32, 18), "TQ1_0": (256, 54), "TQ2_0": (256, 66)},
    **{"MXFP4": (32, 17), "NVFP4": (64, 36), "Q1_0": (128, 18), "Q2_0": (64, 18)},
}
"""Tensor type -> (weights of a block, bytes of a block), as in ggml."""

_FLOATS = {"F32", "F16", "BF16", "F64"}
_INTEGERS = {"I8", "I16", "I32", "I64"}
TENSOR_TYPES = [name for name in BLOCKS if name not in _INTEGERS | {"F64", "NVFP4"}]
"""The types that a single tensor can be given."""


def is_quantised(name: str) -> bool:
    """Whether a tensor of this type holds quantised blocks."""
    return name.upper() not in _FLOATS | _INTEGERS


def tensor_bytes(name: str, shape: Sequence[int]) -> int:
    """The bytes of a tensor: `shape` in GGUF's order, the row's length first."""
    block, size = BLOCKS[name.upper()]
    weights = 1
    for length in shape:
        weights *= length
    return weights // block * size


def quant_types(toolchain: Toolchain) -> list[str]:
    """The types that this toolchain's `llama-quantize` offers, as it lists them itself."""
    # not `process.run`: the help ends with exit status 1, and all of it is wanted
    program = toolchain.program("llama-quantize")
    try:
        answer = subprocess.run(
            [program, "--help"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolError(
            "tool.failed",
            tr("`{program}` does not run: {reason}", program=program.name, reason=str(error)),
            tr("test the tools with `slipway toolchain install`"),
        ) from error
    return parse_types(answer.stdout + answer.stderr)


def parse_types(text: str) -> list[str]:
    """The type names in the help text of `llama-quantize`, in its order."""
    found = re.findall(r"^ *(?:\d+ +or +)?([A-Z][A-Z0-9_]+) +:", text, flags=re.MULTILINE)
    return [name for name in dict.fromkeys(found) if name not in _NOT_OFFERED]


def check_types(
    wanted: Sequence[str], offered: Sequence[str], *, calibrated: bool = False
) -> list[str]:
    """The wanted types in upper case without doubles.

    Args:
        calibrated: whether an importance matrix will be measured.

    Raises:
        UsageError: a type is unknown (nearest name offered), or needs an importance matrix.
    """
    types = list(dict.fromkeys(name.strip().upper() for name in wanted if name.strip()))
    if not types:
        raise UsageError(
            "quantize.no_type",
            tr("no quant type was given"),
            tr("try `{command}`", command="-t Q4_K_M"),
        )
    for name in types:
        if name not in offered:
            raise _unknown(name, offered)
        if name in NEEDS_IMATRIX and not calibrated:
            raise UsageError(
                "quantize.needs_imatrix",
                tr("`{name}` needs an importance matrix, measured on a text", name=name),
                tr("try `{command}`", command=f"-t {name} --calibration FILE"),
            )
    return types


def check_tensor_type(name: str) -> str:
    """The type of a single tensor in upper case.

    Raises:
        UsageError: there is none of this name; a file's type such as Q4_K_M is no tensor's.
    """
    upper = name.strip().upper()
    if upper not in TENSOR_TYPES:
        raise _unknown(name, TENSOR_TYPES)
    return upper


def _unknown(name: str, known: Sequence[str]) -> UsageError:
    close = nearest(name.upper(), known)
    return UsageError(
        "quantize.unknown_type",
        tr("unknown quant type `{name}`", name=name),
        tr("did you mean {names}?", names=", ".join(f"`{n}`" for n in close))
        if close
        else tr("known types: {names}", names=", ".join(known)),
    )
