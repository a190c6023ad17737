"""The options of `llama-quantize` beside the type, checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from slipway.core.errors import UsageError
from slipway.core.files import sha256_json
from slipway.core.i18n import tr
from slipway.export.quantise.type_names import check_tensor_type


@dataclass(frozen=True, slots=True)
class Override:
    """Tensors whose name the pattern finds get this type; the first that finds one counts."""

    pattern: str
    type: str

    def finds(self, tensor: str) -> bool:
        """Whether it is about this tensor; the tool makes the pattern lower case."""
        return re.search(self.pattern.lower(), tensor) is not None


@dataclass(frozen=True, slots=True)
class Options:
    """How to quantise, whatever the type.

    Attributes:
        pure: every tensor the type's own, without the tool's mixture.
        leave_output: keep `output.weight` as it is.
        output_type, embedding_type: tensor type of the output and of the token embedding.
        overrides: tensor types by name.
        keep_split: as many files as the source has.
        allow_requantize: take a source that is quantised already.
        threads: of each run; None: the cores shared among the runs.
        without_imatrix: no importance matrix at all, as the bare tool does by default.
        target: the limit for which a search chose, and what it measured, for the manifest.
    """

    pure: bool = False
    leave_output: bool = False
    output_type: str | None = None
    embedding_type: str | None = None
    overrides: tuple[Override, ...] = ()
    keep_split: bool = False
    allow_requantize: bool = False
    threads: int | None = None
    without_imatrix: bool = False
    target: str | dict[str, Any] | None = None

    def arguments(self) -> list[str]:
        """The tool's arguments, without the matrix, the files, the type and the threads."""
        flags = {
            "--allow-requantize": self.allow_requantize,
            "--leave-output-tensor": self.leave_output,
            "--pure": self.pure,
            "--keep-split": self.keep_split,
        }
        found = [flag for flag, wanted in flags.items() if wanted]
        if self.output_type:
            found += ["--output-tensor-type", self.output_type]
        if self.embedding_type:
            found += ["--token-embedding-type", self.embedding_type]
        for override in self.overrides:
            found += ["--tensor-type", f"{override.pattern}={override.type}"]
        return found

    def as_json(self) -> dict[str, Any]:
        """What changes the result, without what is at its default."""
        values = asdict(self)
        values.pop("threads")
        values["overrides"] = [f"{o.pattern}={o.type}" for o in self.overrides]
        return {key: value for key, value in values.items() if value}

    def label(self, type_name: str) -> str:
        """The result's folder: the type, and a mark when the mixture is not the tool's own."""
        mixture = {k: v for k, v in self.as_json().items() if k not in _NO_MIXTURE}
        if not mixture:
            return type_name
        return f"{type_name}-pure" if mixture == {"pure": True} else _mark(type_name, mixture)


_NO_MIXTURE = ("keep_split", "allow_requantize", "without_imatrix", "target")


def _mark(type_name: str, mixture: dict[str, Any]) -> str:
    return f"{type_name}-mix-{sha256_json(mixture)[:6]}"


def parse_options(
    *,
    pure: bool = False,
    leave_output: bool = False,
    output_type: str | None = None,
    embedding_type: str | None = None,
    tensor_types: Sequence[str] = (),
    keep_split: bool = False,
    allow_requantize: bool = False,
    threads: int | None = None,
    without_imatrix: bool = False,
) -> Options:
    """Options from what a user typed; see `Options`.

    Args:
        tensor_types: "REGEX=TYPE" each.

    Raises:
        UsageError: an unknown type, a malformed pattern, or options that exclude each other.
    """
    if leave_output and output_type:
        raise UsageError(
            "quantize.contradiction",
            tr(
                "`{first}` and `{second}` exclude each other",
                first="--leave-output-tensor",
                second="--output-tensor-type",
            ),
            tr("leave one of them out"),
        )
    return Options(
        pure=pure,
        leave_output=leave_output,
        output_type=check_tensor_type(output_type) if output_type else None,
        embedding_type=check_tensor_type(embedding_type) if embedding_type else None,
        overrides=tuple(_override(text) for text in tensor_types),
        keep_split=keep_split,
        allow_requantize=allow_requantize,
        threads=threads,
        without_imatrix=without_imatrix,
    )


def _override(text: str) -> Override:
    pattern, equals, name = text.partition("=")
    if not (pattern and equals and name):
        raise UsageError(
            "quantize.bad_override",
            tr("`--tensor-type {text}` is not of the form REGEX=TYPE", text=text),
            tr("try `{command}`", command="--tensor-type attn_v=Q8_0"),
        )
    try:
        re.compile(pattern.lower())
    except re.error as error:
        raise UsageError(
            "quantize.bad_override",
            tr(
                "`{pattern}` is no regular expression: {reason}", pattern=pattern, reason=str(error)
            ),
            tr("try `{command}`", command="--tensor-type attn_v=Q8_0"),
        ) from error
    if pattern != pattern.lower():  # the tool would look for another thing: \S becomes \s
        escape = re.search(r"\\[A-Z]", pattern)
        raise UsageError(
            "quantize.bad_override",
            tr("llama.cpp reads `{pattern}` in lower case", pattern=pattern),
            tr(
                "`{escape}` would become its opposite: name the characters in brackets",
                escape=escape[0],
            )
            if escape
            else tr("write it in lower case: `{pattern}`", pattern=pattern.lower()),
        )
    return Override(pattern, check_tensor_type(name))
