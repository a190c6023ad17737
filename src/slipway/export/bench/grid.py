"""What is to be measured: a wish of values for each option, turned into single measurements."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from slipway.core.errors import UsageError, nearest
from slipway.core.i18n import Text, tr

Kind = Literal["prompt", "decode", "streams"]
"""Reading a prompt, writing an answer, or several answers at once."""

Flash = Literal["on", "off", "auto"]
KvType = Literal["f16", "bf16", "f32", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
_FLOATS = {"f16", "bf16", "f32"}

AXES = ("threads", "batch", "ubatch", "flash_attn", "kv_type")
"""Fields of `Setup`."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How the model runs.

    Attributes:
        threads: processor threads.
        batch: tokens handed over at once (logical batch).
        ubatch: tokens computed at once (physical batch).
        flash_attn: flash attention.
        kv_type: number format of the cache of keys and values.
    """

    threads: int
    batch: int
    ubatch: int
    flash_attn: Flash
    kv_type: KvType


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement.

    Attributes:
        kind: what is timed.
        setup: how the model runs.
        prompt: tokens read; of each stream for "streams", else 0 for "decode".
        decode: tokens written one after the other; of each stream for "streams".
        depth: tokens that are in the cache before the clock starts.
        streams: sequences at the same time.
    """

    kind: Kind
    setup: Setup
    prompt: int = 0
    decode: int = 0
    depth: int = 0
    streams: int = 1

    @property
    def label(self) -> str:
        """Short name: "prompt 512", "decode 32 @4096", "4 streams"."""
        at = f" @{self.depth}" if self.depth else ""
        if self.kind == "streams":
            return f"streams {self.streams}"
        return f"{self.kind} {self.prompt or self.decode}{at}"


@dataclass(frozen=True, slots=True)
class BenchSpec:
    """The values asked for; every combination that makes sense is measured.

    Attributes:
        prompt: prompt lengths in tokens.
        decode: answer lengths in tokens.
        depth: tokens already in the cache.
        streams: numbers of sequences at the same time; () measures none.
        repeat: measurements of each combination.
    """

    threads: tuple[int, ...]
    prompt: tuple[int, ...] = (128, 512)
    decode: tuple[int, ...] = (32,)
    depth: tuple[int, ...] = (0,)
    batch: tuple[int, ...] = (2048,)
    ubatch: tuple[int, ...] = (512,)
    flash_attn: tuple[Flash, ...] = ("auto",)
    kv_type: tuple[KvType, ...] = ("f16",)
    streams: tuple[int, ...] = ()
    repeat: int = 3


@dataclass(frozen=True, slots=True)
class Grid:
    """The measurements of a wish, grouped by setup, and what was left out of it with the reason."""

    groups: tuple[tuple[Setup, tuple[Point, ...]], ...]
    left_out: tuple[tuple[Setup, Text], ...]

    @property
    def points(self) -> tuple[Point, ...]:
        """All measurements in the order in which they are made."""
        return tuple(point for _, points in self.groups for point in points)


def grid(spec: BenchSpec) -> Grid:
    """Every combination that llama.cpp can run and that can change the number.

    Batch sizes change how a prompt is read, not how one token after the other is written: decode
    is measured with the first of them only.

    Raises:
        UsageError: nothing is left to measure.
    """
    groups: dict[Setup, list[Point]] = {}
    left_out: list[tuple[Setup, Text]] = []
    axes = (spec.threads, spec.batch, spec.ubatch, spec.flash_attn, spec.kv_type)
    for values in itertools.product(*axes):
        setup = Setup(*values)
        if (why := _impossible(setup)) is not None:
            left_out.append((setup, why))
            continue
        first = (setup.batch, setup.ubatch) == _first_batch(spec)
        points = [
            Point("prompt", setup, prompt=n, depth=d) for d in spec.depth for n in spec.prompt if n
        ]
        if first:
            points += [
                Point("decode", setup, decode=n, depth=d)
                for d in spec.depth
                for n in spec.decode
                if n
            ]
            points += [
                Point("streams", setup, max(1, min(spec.prompt, default=1)), max(spec.decode), 0, n)
                for n in spec.streams
                if n and any(spec.decode)
            ]
        if points:
            groups[setup] = points
    if not groups:
        raise UsageError(
            "bench.nothing",
            tr("nothing is left to measure"),
            tr("give lengths above 0, such as `--prompt 128 --decode 32`"),
        )
    return Grid(tuple((setup, tuple(points)) for setup, points in groups.items()), tuple(left_out))


def _first_batch(spec: BenchSpec) -> tuple[int, int]:
    """The first pair of batch sizes that can be run."""
    pairs = itertools.product(spec.batch, spec.ubatch)
    return next((pair for pair in pairs if pair[1] <= pair[0]), (spec.batch[0], spec.ubatch[0]))


def _impossible(setup: Setup) -> Text | None:
    if setup.ubatch > setup.batch:
        return tr("`--ubatch` cannot be larger than `--batch`")
    if setup.flash_attn == "off" and setup.kv_type not in _FLOATS:
        return tr("a quantised cache of values needs flash attention")
    return None


@dataclass(frozen=True, slots=True)
class Pace:
    """What a short run showed.

    Attributes:
        prompt: tokens per second of reading.
        decode: tokens per second of writing.
        load_s: seconds until the model is there.
        threads: threads it ran with.
    """

    prompt: float
    decode: float
    load_s: float
    threads: int


def estimate_s(points: Sequence[Point], pace: Pace, repeat: int) -> float:
    """About how many seconds these measurements take.

    Each is run once more than asked, to warm up; fewer threads are taken to be slower in
    proportion, and several streams to share half of their work.
    """
    seconds = pace.load_s * len({(p.setup, p.kind == "streams") for p in points})
    for point in points:
        share = min(1.0, point.setup.threads / pace.threads)
        read = point.prompt * point.streams / (pace.prompt * share)
        write = point.decode * point.streams**0.5 / (pace.decode * share)
        deep = point.depth / (pace.prompt * share)
        seconds += (repeat + 1) * (read + write) + repeat * deep
    return seconds


def numbers(option: str, text: str, *, low: int = 0, high: int = 1_000_000) -> tuple[int, ...]:
    """Whole numbers of a comma list, without doubles.

    Args:
        option: name of the option, for the message.

    Raises:
        UsageError: a part is no number between `low` and `high`.
    """
    found = []
    for part in _parts(option, text):
        if not re.fullmatch(r"\d+", part) or not low <= int(part) <= high:
            raise UsageError(
                "bench.bad_value",
                tr(
                    "`{option}`: `{part}` is no whole number from {low} to {high}",
                    option=option,
                    part=part,
                    low=low,
                    high=high,
                ),
                tr("give numbers with commas between: `{example}`", example=f"{option} 1,2,4"),
            )
        found.append(int(part))
    return tuple(dict.fromkeys(found))


def flash_values(text: str) -> tuple[Flash, ...]:
    """The values of `--flash-attn`."""
    values = _choices("--flash-attn", text, get_args(Flash))
    return tuple(known for value in values for known in get_args(Flash) if value == known)


def kv_values(text: str) -> tuple[KvType, ...]:
    """The values of `--kv-type`."""
    values = _choices("--kv-type", text, get_args(KvType))
    return tuple(known for value in values for known in get_args(KvType) if value == known)


def _choices(option: str, text: str, known: Sequence[str]) -> list[str]:
    parts = [part.lower() for part in _parts(option, text)]
    for part in parts:
        if part not in known:
            close = nearest(part, known)
            raise UsageError(
                "bench.bad_value",
                tr("`{option}`: `{part}` is not known", option=option, part=part),
                tr("did you mean {names}?", names=", ".join(f"`{n}`" for n in close))
                if close
                else tr("choose one of {names}", names=", ".join(known)),
            )
    return list(dict.fromkeys(parts))


def _parts(option: str, text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageError(
            "bench.bad_value",
            tr("`{option}` has no value", option=option),
            tr("give numbers with commas between: `{example}`", example=f"{option} 1,2,4"),
        )
    return parts
