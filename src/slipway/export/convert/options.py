"""What a conversion can be told: the number format, and into files of which size."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from slipway.core.errors import UsageError, nearest
from slipway.core.i18n import tr

OutType = Literal["auto", "bf16", "f16", "f32", "q8_0"]
ModelProof = Literal["tokens", "logits"]


@dataclass(frozen=True, slots=True)
class Split:
    """Into how many files a GGUF is written; by default one.

    Attributes:
        max_size: bytes of tensors in a file at most, as "2G", "500M", "300K" or a number.
        max_tensors: tensors in a file at most.
    """

    max_size: str | None = None
    max_tensors: int | None = None

    def arguments(self) -> list[str]:
        """The converter's own.

        Raises:
            UsageError: a size or number that it would not take.
        """
        found: list[str] = []
        if self.max_size is not None and self.max_tensors is not None:
            raise UsageError(
                "convert.two_splits",
                tr("`--split-max-size` and `--split-max-tensors` cannot both be given"),
                tr("leave one out"),
            )
        if self.max_size is not None:
            if not re.fullmatch(r"[1-9]\d*[KMG]?", self.max_size):
                raise _bad("split-max-size", self.max_size)
            found += ["--split-max-size", self.max_size]
        if self.max_tensors is not None:
            if self.max_tensors < 1:
                raise _bad("split-max-tensors", self.max_tensors)
            found += ["--split-max-tensors", str(self.max_tensors)]
        return found


def _bad(option: str, value: object) -> UsageError:
    return UsageError(
        "convert.bad_split",
        tr("`--{option}` cannot be `{value}`", option=option, value=value),
        tr("write it like `--split-max-size 2G` or `--split-max-tensors 128`"),
    )


def check_outtype(outtype: str) -> None:
    """Refuse an unknown number format.

    Raises:
        UsageError: it is none of `OutType`.
    """
    known = get_args(OutType)
    if outtype not in known:
        close = nearest(outtype.lower(), known)
        raise UsageError(
            "convert.unknown_type",
            tr("unknown GGUF type `{name}`", name=outtype),
            tr("use one of {names}", names=", ".join(close or known)),
        )


def check_proof(proof: str) -> None:
    """Refuse an unknown kind of proof.

    Raises:
        UsageError: it is none of `ModelProof`.
    """
    known = get_args(ModelProof)
    if proof not in known:
        raise UsageError(
            "convert.unknown_proof",
            tr("`--{option}` of a model cannot be `{value}`", option="proof", value=proof),
            tr("use one of {names}", names=", ".join(known)),
        )
